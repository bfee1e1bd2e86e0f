"""Deploy a model and send it one body after another with a Predictor; answer with the bodies that came back."""

from local_mode import ROLE, WAIT, answering, local_session, request, s3_environment
from sagemaker.base_deserializers import StringDeserializer
from sagemaker.base_serializers import IdentitySerializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor


def main() -> None:
    wanted = request()
    with answering() as answer:
        session = local_session()
        model = Model(
            image_uri=wanted["image"],
            model_data=wanted["model"],
            role=ROLE,
            env=s3_environment(),
            predictor_cls=Predictor,
            sagemaker_session=session,
        )
        predictor = model.deploy(1, "local", wait=WAIT)
        try:
            answer["bodies"] = [send(predictor, **one) for one in wanted["requests"]]
        finally:
            predictor.delete_endpoint()


def send(predictor: Predictor, body: str, content_type: str, accept: str) -> str:
    predictor.serializer = IdentitySerializer(content_type=content_type)
    predictor.deserializer = StringDeserializer(accept=accept)
    return str(predictor.predict(body))


if __name__ == "__main__":
    main()
