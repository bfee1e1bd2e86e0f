"""What a registry says when it refuses something, in our words."""

import json
import re
from typing import Any

from .image_errors import (
    ImageError,
    ImageMissing,
    NotAllowed,
    RegistryFailed,
    RepositoryMissing,
    TagImmutable,
)
from .image_reference import ImageReference
from .registry_credentials import ECR, how_to_log_in

PULL, PUSH = "pull", "push"

ECR_RIGHTS = {
    PULL: "ecr:BatchGetImage and ecr:GetDownloadUrlForLayer",
    PUSH: "ecr:BatchCheckLayerAvailability, ecr:InitiateLayerUpload, ecr:UploadLayerPart, ecr:CompleteLayerUpload and "
    "ecr:PutImage",
}
PARTS_MISSING = {"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "BLOB_UPLOAD_UNKNOWN", "LAYERS_NOT_FOUND"}
"""What is said where a repository is there, and a part of what is pushed to it is not."""

WORDS = 300
"""How much of a registry's own words is shown."""


def refusal(action: str, reference: ImageReference, status: int, body: bytes, anonymous: bool) -> ImageError:
    """Say why a registry did not do what was asked; `anonymous`: nobody is logged in there."""
    codes, words = _errors_of(body)
    if status in (401, 403):
        return _not_allowed(action, reference, words, anonymous)
    if status == 404 and action == PUSH and codes & PARTS_MISSING:
        return RegistryFailed(reference.host, f"it has lost a part of {reference} that was there", "Try again.")
    if status == 404 and (action == PUSH or "NAME_UNKNOWN" in codes):
        return RepositoryMissing(reference.address, _how_to_create(reference))
    if status == 404:
        return ImageMissing(reference, by_digest=bool(reference.digest))
    if action == PUSH and (status in (409, 412) or "TAG_INVALID" in codes or "immutable" in words.lower()):
        return TagImmutable(str(reference))
    if status == 429:
        return RegistryFailed(reference.host, "it has had too many requests", "Try again later, or log in there.")
    return RegistryFailed(reference.host, f"it answers {status}" + (f" ({words})" if words else ""))


def _errors_of(body: bytes) -> tuple[set[str], str]:
    """Return the codes and the sentence of an answer."""
    try:
        errors: Any = json.loads(body)["errors"]
        codes = {str(error.get("code", "")) for error in errors}
        words = " ".join(str(error.get("message") or "") for error in errors)
    except (ValueError, LookupError, TypeError, AttributeError):
        return set(), ""
    printable = "".join(letter if letter.isprintable() else " " for letter in words)
    return codes, " ".join(printable.split())[:WORDS].rstrip(". ")


def _not_allowed(action: str, reference: ImageReference, words: str, anonymous: bool) -> ImageError:
    if ECR.fullmatch(reference.host):
        named = re.findall(r"\becr:[A-Z]\w+", words)  # and not ecr:eu-west-1, of an ARN
        rights = " and ".join(dict.fromkeys(named)) or ECR_RIGHTS[action]
        return NotAllowed(action, reference.address, words, f"For ECR it needs {rights}.")
    hint = "Is it the right user, and its name right?"
    if anonymous:
        hint = f"Nobody is logged in there: {how_to_log_in(reference.host)}"
    return NotAllowed(action, reference.address, words, hint)


def _how_to_create(reference: ImageReference) -> str:
    ecr = ECR.fullmatch(reference.host)
    if not ecr:
        return "Is its name right?"
    name, region = reference.repository, ecr["region"]
    return f"ECR makes none by itself: aws ecr create-repository --repository-name {name} --region {region}"
