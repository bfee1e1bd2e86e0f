"""Everything that can go wrong while an image in a registry is adapted: one sentence each, and what to do.

They are raised with facts and write their own sentence, which is one line and holds no credentials.
"""

from typing import ClassVar


class ImageError(Exception):
    """Is the root of the tree; `str()` is what a command prints on its one line."""

    EXIT_CODE: ClassVar[int] = 1
    hint: str = ""

    def __str__(self) -> str:
        return " ".join(f"{self.message}. {self.hint}".split())

    @property
    def message(self) -> str:
        """What is wrong, in a sentence without its full stop."""
        raise NotImplementedError


# --- what the caller named ----------------------------------------------------------------------------------------


class ReferenceInvalid(ImageError):
    hint = "An image is like registry.example.com/group/name:tag, or name@sha256: and 64 digits."

    def __init__(self, text: str, why: str) -> None:
        self.text = text
        self.why = why

    @property
    def message(self) -> str:
        return f"{self.text!r} is no reference to an image: {self.why}"


class TargetByDigest(ImageError):
    hint = "Give it a tag: which digest the adapted image has is known when it is made."

    def __init__(self, target: object) -> None:
        self.target = target

    @property
    def message(self) -> str:
        return f"An image can not be pushed to {self.target}"


class LayerMissing(ImageError):
    hint = "Make one by `./build_local.sh --layer FILE`, and name it by --layer or LONGSHORE_LAYER."

    def __init__(self, file: object, why: str) -> None:
        self.file = file
        self.why = why

    @property
    def message(self) -> str:
        return f"The layer {self.file} can not be read: {self.why}"


class LayerInvalid(LayerMissing):
    @property
    def message(self) -> str:
        return f"{self.file} is no layer: {self.why}"


# --- what the image is --------------------------------------------------------------------------------------------


class SourceError(ImageError):
    """Says that an image can not be adapted for a reason that lies in it."""

    def __init__(self, source: object) -> None:
        self.source = source


class ImageMissing(SourceError):
    hint = "Is its name right, and is it there for those who are not logged in?"

    def __init__(self, source: object, by_digest: bool = False) -> None:
        super().__init__(source)
        self.by_digest = by_digest

    @property
    def message(self) -> str:
        return f"There is no image {self.source}: the registry has no such {'digest' if self.by_digest else 'tag'}"


class RepositoryMissing(SourceError):
    """Says that a registry has no repository of that name."""

    def __init__(self, source: object, hint: str = "Is its name right?") -> None:
        super().__init__(source)
        self.hint = hint

    @property
    def message(self) -> str:
        return f"There is no repository {self.source}"


class PlatformMissing(SourceError):
    hint = "SageMaker's machines are linux/amd64: build it with `--platform linux/amd64`."

    def __init__(self, source: object, platforms: list[str]) -> None:
        super().__init__(source)
        self.platforms = platforms

    @property
    def message(self) -> str:
        return f"{self.source} is not for linux/amd64, it is for {', '.join(self.platforms) or 'no platform'}"


class NotAnImage(SourceError):
    def __init__(self, source: object, what: str, hint: str = "") -> None:
        super().__init__(source)
        self.what = what
        self.hint = hint

    @property
    def message(self) -> str:
        return f"{self.source} is no image that can run: it is {self.what}"


class ImageBroken(SourceError):
    hint = "Push it again."

    def __init__(self, source: object, why: str) -> None:
        super().__init__(source)
        self.why = why

    @property
    def message(self) -> str:
        return f"{self.source} is broken: {self.why}"


class LayerUnsupported(SourceError):
    """Says that a layer of the image is of a type that Docker's manifests, which SageMaker takes only, don't have."""

    hint = (
        "Build it with gzip, as `docker buildx build --output "
        "type=image,compression=gzip,force-compression=true,push=true` does."
    )

    def __init__(self, source: object, media_type: str) -> None:
        super().__init__(source)
        self.media_type = media_type

    @property
    def message(self) -> str:
        return (
            f"{self.source} has a layer of the type {self.media_type}, which SageMaker does not take: Docker's "
            "manifests, which it needs, know layers that gzip has compressed only"
        )


class CommandUndeclared(SourceError):
    hint = "Give it an ENTRYPOINT or a CMD."

    def __init__(self, source: object, why: str) -> None:
        super().__init__(source)
        self.why = why.rstrip(".")

    @property
    def message(self) -> str:
        return f"{self.source}: {self.why}"


# --- what the registry says ---------------------------------------------------------------------------------------


class RegistryError(ImageError):
    """Says that a registry did not do what was asked; `registry` is its host."""

    def __init__(self, registry: str, why: str = "", hint: str = "") -> None:
        self.registry = registry
        self.why = why
        self.hint = hint or self.hint


class RegistryUnreachable(RegistryError):
    @property
    def message(self) -> str:
        return f"The registry {self.registry} does not answer: {self.why}"


class RegistryFailed(RegistryError):
    """Says that a registry kept failing, or answered what it should not."""

    @property
    def message(self) -> str:
        return f"The registry {self.registry} failed: {self.why}"


class CredentialsUnusable(RegistryError):
    @property
    def message(self) -> str:
        return f"The credentials for {self.registry} can not be had: {self.why}"


class NotAllowed(RegistryError):
    """Says that a caller may not pull or push; `why` is the registry's own words."""

    def __init__(self, action: str, repository: object, why: str, hint: str) -> None:
        super().__init__(str(repository), why, hint)
        self.action = action

    @property
    def message(self) -> str:
        direction = "from" if self.action == "pull" else "to"
        return f"You may not {self.action} {direction} {self.registry}" + (f": {self.why}" if self.why else "")


class TagImmutable(RegistryError):
    hint = "Its repository lets no tag be moved: give the image another tag."

    @property
    def message(self) -> str:
        return f"{self.registry} is there already, and can not be replaced"
