"""Run one target under the fuzzer: `python fuzz.py TARGET [ARGUMENT-OF-LIBFUZZER ...]`; run.sh is the way to do it."""

import logging
import resource
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2] / "container"))
LARGEST_FILE = 64 * 1024 * 1024
"""What a tarball may write: it has no limit of its own, since the platform's owner chose it."""

# Those that the fuzzer itself has imported already are imported anew, so that it sees which way they take.
for name in ("zipfile", "tarfile"):
    sys.modules.pop(name, None)
with atheris.instrument_imports(include=["model_server", "zipfile", "tarfile"]):
    from targets import TARGETS


def main() -> None:
    target = TARGETS[sys.argv.pop(1)]
    logging.disable()
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
