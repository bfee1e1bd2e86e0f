"""Train with an Estimator; answer with the model's URI, or with the error."""

from local_mode import ROLE, answering, error_of, local_session, request
from sagemaker.estimator import Estimator


def main() -> None:
    wanted = request()
    with answering() as answer:
        estimator = Estimator(
            image_uri=wanted["image"],
            role=ROLE,
            instance_count=1,
            instance_type="local",
            hyperparameters=wanted["hyperparameters"],
            output_path=wanted["output"],
            sagemaker_session=local_session(),
        )
        answer["error"] = error_of(lambda: estimator.fit({"training": wanted["training"]}))
        if answer["error"] is None:
            answer["model"] = estimator.model_data


if __name__ == "__main__":
    main()
