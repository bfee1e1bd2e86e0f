"""The names of images: what Docker takes, and what is said of what it does not take."""

import pytest

from model_server.image_errors import ReferenceInvalid
from model_server.image_reference import DOCKER_HUB, ImageReference, is_loopback

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize(
    ("text", "host", "repository", "tag", "digest"),
    [
        ("ubuntu", DOCKER_HUB, "library/ubuntu", None, None),
        ("ubuntu:22.04", DOCKER_HUB, "library/ubuntu", "22.04", None),
        ("docker.io/ubuntu", DOCKER_HUB, "library/ubuntu", None, None),
        ("index.docker.io/group/image", DOCKER_HUB, "group/image", None, None),
        ("group/image:1", DOCKER_HUB, "group/image", "1", None),
        ("localhost/image", "localhost", "image", None, None),
        ("localhost:5000/group/image:1", "localhost:5000", "group/image", "1", None),
        ("localhost:5000", DOCKER_HUB, "library/localhost", "5000", None),
        ("[::1]:5000/image", "[::1]:5000", "image", None, None),
        ("ghcr.io/a/b/c/d__e.f-g--h:V_1.-", "ghcr.io", "a/b/c/d__e.f-g--h", "V_1.-", None),
        (f"ghcr.io/image@{DIGEST}", "ghcr.io", "image", None, DIGEST),
        (f"host:1/image:1@{DIGEST}", "host:1", "image", "1", DIGEST),
    ],
)
def test_a_name_is_read_as_docker_reads_it(
    text: str, host: str, repository: str, tag: str | None, digest: str | None
) -> None:
    reference = ImageReference.parse(text)
    assert reference == ImageReference(host, repository, tag, digest)
    assert ImageReference.parse(str(reference)).name == reference.name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ubuntu", "docker.io/library/ubuntu:latest"),
        ("ghcr.io/image:1", "ghcr.io/image:1"),
        (f"ghcr.io/image:1@{DIGEST}", f"ghcr.io/image@{DIGEST}"),
    ],
)
def test_it_is_shown_in_full(text: str, shown: str) -> None:
    assert str(ImageReference.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' can not be a repository"),
        (":1", "'' can not be a repository"),
        ("IMAGE", "'IMAGE' can not be a repository"),
        ("ghcr.io/", "'' can not be a repository"),
        ("ghcr.io/a//b", "'a//b' can not be a repository"),
        ("ghcr.io/../b", "'../b' can not be a repository"),
        ("ghcr.io/a?b", "'a?b' can not be a repository"),
        (f"ghcr.io/{'a' * 256}", "can not be a repository"),
        ("image:", "'' can not be a tag"),
        ("image:-1", "'-1' can not be a tag"),
        ("image:1:2", "'1:2' can not be a tag"),
        (f"image:{'1' * 129}", "can not be a tag"),
        ("image\n", "can not be a repository"),
        ("image@", "no sha256 digest"),
        ("image@sha256:0", "no sha256 digest"),
        (f"image@{DIGEST.upper()}", "no sha256 digest"),
        ("somebody:secret@ghcr.io/image", "no sha256 digest"),
        ("-.io/image", "'-.io' can not be a registry"),
        ("host:port/image", "'host:port' can not be a registry"),
        ("[:::]/image", "'[:::]' can not be a registry"),
        ("[127.0.0.1]/image", "'[127.0.0.1]' can not be a registry"),
        ("host:0/image", "'host:0' can not be a registry"),
        ("host:65536/image", "'host:65536' can not be a registry"),
    ],
)
def test_what_is_no_name_is_refused_in_one_line(text: str, why: str) -> None:
    with pytest.raises(ReferenceInvalid) as error:
        ImageReference.parse(text)
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_a_password_in_an_address_is_not_repeated() -> None:
    with pytest.raises(ReferenceInvalid, match="begins with a scheme") as error:
        ImageReference.parse("https://somebody:secret@ghcr.io/image")
    assert "https://ghcr.io/image" in str(error.value)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("host", "scheme"),
    [
        ("localhost", "http"),
        ("LOCALHOST:5000", "http"),
        ("127.0.0.1:5000", "http"),
        ("127.9.9.9", "http"),
        ("[::1]:5000", "http"),
        ("localhost.example.com", "https"),
        ("127.0.0.1.example.com", "https"),
        ("10.0.0.1:5000", "https"),
        ("[::2]", "https"),
        ("ghcr.io", "https"),
    ],
)
def test_plain_http_is_spoken_on_this_machine_only(host: str, scheme: str) -> None:
    assert ImageReference(host, "image", None, None).url == f"{scheme}://{host}/v2/image"
    assert is_loopback(host) == (scheme == "http")
