"""Run a Processing job; answer with the error, if any."""

from local_mode import ROLE, WAIT, answering, error_of, local_session, request, s3_environment
from sagemaker.processing import ProcessingInput, ProcessingOutput, Processor


def main() -> None:
    wanted = request()
    with answering() as answer:
        processor = Processor(
            role=ROLE,
            image_uri=wanted["image"],
            instance_count=wanted["instances"],
            instance_type="local",
            entrypoint=wanted.get("entrypoint"),
            env=s3_environment(),
            sagemaker_session=local_session(),
        )
        inputs = [ProcessingInput(source=source, destination=path) for path, source in wanted["inputs"].items()]
        outputs = [ProcessingOutput(source=path, destination=target) for path, target in wanted["outputs"].items()]
        arguments = wanted.get("arguments")
        answer["error"] = error_of(
            lambda: processor.run(inputs=inputs, outputs=outputs, arguments=arguments, wait=WAIT, logs=False)
        )


if __name__ == "__main__":
    main()
