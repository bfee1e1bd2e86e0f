"""What the image does when nobody says what it is to do: `docker run IMAGE` alone."""

from pathlib import Path

USAGE = """\
Say what this image is to do:

  docker run IMAGE serve               answer tasks on port 8080, for an endpoint or a batch transform
  docker run IMAGE train               train a model with what is mounted at /opt/ml
  docker run IMAGE process [ARG ...]   run the program once, as a Processing job does
  docker run IMAGE invoke -f S3_URI    run a list of tasks

The program is the image's own command, or what ALGORITHM_ENTRYPOINT names, else /opt/algorithm/run.
`docker run IMAGE longshore --help` says more.
"""


def is_processing_job(ml_path: Path) -> bool:
    """Say whether there is what only a Processing job has; one without entrypoint and arguments starts like this."""
    return (ml_path / "config" / "processingjobconfig.json").is_file()
