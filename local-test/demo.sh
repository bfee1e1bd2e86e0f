#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/setup.sh"

usage() {
  cat <<'END'
Usage: demo.sh [--pretty]

Run the sample algorithm behind the model server, on this machine, without AWS and without Docker:
start a stand-in for S3, train the sample's decision tree, start the server, post one task to it
as SageMaker would, and show the answer, the files in S3 and the predictions.

  --pretty   show the server's log lines while it runs
  --help     show this text

The first run makes .venv in the checkout and downloads about 100 MB. Everything else lives in a
temporary folder, which is removed at the end. Exit code 0 means that the task succeeded.
END
}

main() {
  local argument
  for argument in "$@"; do
    case $argument in
      --pretty) ;;
      -h | --help)
        usage
        exit
        ;;
      *) wrong_arguments "There is no option $argument." ;;
    esac
  done

  end_on_signals
  need_programs
  need_packages requirements.txt local-test/requirements.txt
  # From here on Python: bash can lose a child when a signal meets it at the wrong moment.
  exec "$venv/bin/python" "$checkout/local-test/demo.py" "$@"
}

main "$@"
