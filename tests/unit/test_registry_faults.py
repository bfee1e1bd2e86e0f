"""The sentences for what a registry refuses: they say what to do, for ECR which right is missing."""

import json

import pytest

from model_server.image_errors import (
    ImageError,
    ImageMissing,
    NotAllowed,
    RegistryFailed,
    RepositoryMissing,
    TagImmutable,
)
from model_server.image_reference import ImageReference
from model_server.registry_faults import ECR_RIGHTS, PULL, PUSH, WORDS, refusal

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/group/image"
OTHER = "registry.example.com/image"
ECRS_DENIAL = (
    "User: arn:aws:iam::123456789012:user/me is not authorized to perform: ecr:InitiateLayerUpload on resource: "
    "arn:aws:ecr:eu-west-1:123456789012:repository/group/image because no identity-based policy allows the "
    "ecr:InitiateLayerUpload action"
)
ECRS_IMMUTABLE = "The image tag '1' already exists in the 'group/image' repository and cannot be overwritten"


def said(code: str, message: object = None) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


def refused(action: str, image: str, status: int, body: bytes = b"", anonymous: bool = False) -> ImageError:
    return refusal(action, ImageReference.parse(f"{image}:1"), status, body, anonymous)


@pytest.mark.parametrize(
    ("action", "image", "status", "body", "kind", "sentence"),
    [
        (PULL, ECR, 403, b"", NotAllowed, f"For ECR it needs {ECR_RIGHTS[PULL]}."),
        (PUSH, ECR, 403, b"", NotAllowed, f"For ECR it needs {ECR_RIGHTS[PUSH]}."),
        (PUSH, ECR, 403, said("DENIED", ECRS_DENIAL), NotAllowed, "For ECR it needs ecr:InitiateLayerUpload."),
        (PUSH, OTHER, 401, said("UNAUTHORIZED", "no"), NotAllowed, f"You may not push to {OTHER}: no. Is it the right"),
        (PULL, OTHER, 403, b"<html>", NotAllowed, f"You may not pull from {OTHER}. Is it the right user"),
        (
            *(PUSH, ECR, 404, said("NAME_UNKNOWN", "The repository does not exist"), RepositoryMissing),
            "aws ecr create-repository --repository-name group/image --region eu-west-1",
        ),
        (PUSH, OTHER, 404, b"", RepositoryMissing, f"There is no repository {OTHER}. Is its name right?"),
        (PULL, OTHER, 404, said("NAME_UNKNOWN"), RepositoryMissing, f"There is no repository {OTHER}"),
        (PULL, OTHER, 404, said("MANIFEST_UNKNOWN"), ImageMissing, f"There is no image {OTHER}:1"),
        (PUSH, OTHER, 404, said("MANIFEST_BLOB_UNKNOWN"), RegistryFailed, f"it has lost a part of {OTHER}:1"),
        (PUSH, ECR, 400, said("TAG_INVALID", ECRS_IMMUTABLE), TagImmutable, f"{ECR}:1 is there already"),
        (PUSH, OTHER, 412, said("PRECONDITION", "x"), TagImmutable, "give the image another tag"),
        (PUSH, OTHER, 400, said("DENIED", "tag is Immutable"), TagImmutable, "can not be replaced"),
        (PULL, OTHER, 409, b"", RegistryFailed, "it answers 409."),
        (PULL, OTHER, 429, said("TOOMANYREQUESTS", "x"), RegistryFailed, "too many requests. Try again later"),
        (PUSH, OTHER, 500, said("UNKNOWN", "a disk is full."), RegistryFailed, "it answers 500 (a disk is full)."),
    ],
)
def test_a_refusal_says_what_to_do(
    action: str, image: str, status: int, body: bytes, kind: type[ImageError], sentence: str
) -> None:
    error = refused(action, image, status, body)
    assert type(error) is kind
    assert sentence in str(error)


@pytest.mark.parametrize(
    ("image", "command"),
    [(OTHER, "docker login registry.example.com"), ("ubuntu", "docker login")],
)
def test_who_is_not_logged_in_is_told_how_to(image: str, command: str) -> None:
    assert str(refused(PULL, image, 401, anonymous=True)).endswith(f"Nobody is logged in there: {command}")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xff", b"[]", b"null", b'{"errors": null}', b'{"errors": 1}', b'{"errors": ["no"]}', b'{"errors": [{}]}'],
)
def test_an_answer_that_says_nothing_is_none_of_a_registrys_words(body: bytes) -> None:
    assert str(refused(PUSH, OTHER, 500, body)) == "The registry registry.example.com failed: it answers 500."


def test_a_registrys_words_are_one_line_and_not_many() -> None:
    sentence = str(refused(PUSH, OTHER, 500, said("UNKNOWN", "\x1b[31mred\r\n" * 1000)))
    assert sentence.isprintable()
    assert len(sentence) < WORDS + 100
