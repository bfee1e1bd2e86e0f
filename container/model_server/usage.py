"""What the image does when nobody says what it is to do: `docker run IMAGE` alone."""

USAGE = """\
Say what this image is to do:

  docker run IMAGE serve               answer tasks on port 8080, for an endpoint or a batch transform
  docker run IMAGE train               train a model with what is mounted at /opt/ml
  docker run IMAGE process [ARG ...]   run the program once, as a Processing job does
  docker run IMAGE invoke -f S3_URI    run a list of tasks

The program is what ALGORITHM_ENTRYPOINT names, else /opt/algorithm/run. `docker run IMAGE longshore --help` says more.
"""

PROCESSING_JOB = "config/processingjobconfig.json"
"""What only a Processing job has in the ml folder; one without entrypoint and arguments starts the image like this."""
