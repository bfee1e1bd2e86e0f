"""Run one batch transform after another with the same model; answer when all are done."""

from local_mode import ROLE, WAIT, answering, local_session, request, s3_environment
from sagemaker.model import Model


def main() -> None:
    wanted = request()
    with answering():
        model = Model(
            image_uri=wanted["image"],
            model_data=wanted["model"],
            role=ROLE,
            env=s3_environment(),
            sagemaker_session=local_session(),
        )
        for job in wanted["jobs"]:
            transformer = model.transformer(
                instance_count=1,
                instance_type="local",
                strategy="SingleRecord",
                output_path=job["output"],
                accept=job["accept"],
            )
            transformer.transform(
                job["input"], content_type=job["content_type"], job_name=job["name"], wait=WAIT, logs=False
            )


if __name__ == "__main__":
    main()
