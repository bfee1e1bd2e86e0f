"""The command line that the scripts share."""

import argparse
import sys
import urllib.parse
from pathlib import Path
from typing import NoReturn

from engine import SAMPLE_IMAGE, Docker, owner_of
from host import Host
from running import Failure

HERE = Path(__file__).resolve().parent
USAGE_ERROR = 64


class Parser(argparse.ArgumentParser):
    """Reads the options that every script has, and those that are added."""

    def __init__(self, name: str, description: str, after: str) -> None:
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(name, description=description, epilog=after, formatter_class=layout, allow_abbrev=False)

    def add_job_options(self) -> None:
        self.add_argument(
            "image", nargs="?", metavar="IMAGE", help=f"what to run; without it the sample algorithm, {SAMPLE_IMAGE}"
        )
        self.add_argument(
            "--host",
            action="store_true",
            help="without Docker: this checkout and the sample algorithm",
        )
        self.add_argument(
            "--test-dir",
            type=folder,
            default=HERE / "test-dir",
            metavar="DIR",
            help="what is mounted at /opt/ml; local-test/test-dir by default",
        )
        self.add_argument(
            "--s3",
            type=folder,
            default=HERE / "s3",
            metavar="DIR",
            help="what is in S3 at first: files <bucket>/<key>; local-test/s3 by default",
        )
        self.add_argument(
            "--keep", type=new_folder, metavar="DIR", help="copy what came into S3 to this folder in the end"
        )
        self.add_argument(
            "--mount",
            type=program,
            metavar="SRC",
            help="run the code in this folder, a checkout's container/, instead of the image's own: no rebuild",
        )
        self.add_argument(
            "--env",
            type=variable,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="one more variable for the job; as often as needed",
        )

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(USAGE_ERROR, f"{self.prog}: {message}\n")


def place(options: argparse.Namespace) -> Host | Docker:
    """Return where the job is to run."""
    if not options.host:
        return Docker(options.image or SAMPLE_IMAGE, owner_of(options.test_dir))
    if options.image:
        raise Failure("--host runs no image: leave one of the two out.")
    return Host()


def folder(text: str) -> Path:
    path = Path(text).resolve()
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return path


def new_folder(text: str) -> Path:
    """Return a folder that may not be there yet."""
    path = Path(text).resolve()
    there = next(each for each in (path, *path.parents) if each.exists())
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is not a folder")
    return path


def program(text: str) -> Path:
    path = folder(text)
    if not (path / "serve").is_file():
        raise argparse.ArgumentTypeError(f"{text} holds no serve: it must be a checkout's container/")
    return path


def variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE")
    return name, value


def port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"{text} is no port: it is a number from 1 to 65535")
    return int(text)


def is_printable(text: str) -> bool:
    """Say whether a text can be in the head of a request: HTTP knows ASCII only."""
    return text.isascii() and text.isprintable()


def media_type(text: str) -> str:
    """Return a type, or several, as a header of a request has it."""
    if not is_printable(text):
        raise argparse.ArgumentTypeError(f"{text!r} can be no header, which has printable ASCII characters only")
    return text


def address(text: str) -> str:
    """Return the address of a server, whose http:// may be left out."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        host = (parts.hostname or "").encode("idna")
        is_valid = parts.scheme in ("http", "https") and host and parts.port != 0
    except ValueError:  # of a port, or of what can be no host
        is_valid = False
    if not is_valid or not is_printable(url) or " " in url:
        raise argparse.ArgumentTypeError(f"{text} is not the address of a server, as http://127.0.0.1:8080 is")
    return url.rstrip("/")
