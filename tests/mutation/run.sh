#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=../../local-test/setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/../../local-test/setup.sh"

usage() {
  cat <<'END_OF_USAGE'
Usage: run.sh [MUTMUT-ARGUMENT ...]

Change what runs, watches and reports a task in every way that mutmut knows, one at a time, and see whether a test
notices: runner.py, process.py and result.py. Takes a quarter of an hour on two idle cores, and is no part of the test
command. Prints the changes that no test noticed and how many there were of each kind; `--max-children 8` and the like
go to mutmut.
END_OF_USAGE
}

main() {
  case ${1-} in
    -h | --help)
      usage
      exit
      ;;
  esac
  end_on_signals
  need_programs
  venv=$checkout/.venv-mutation need_packages requirements.txt local-test/requirements.txt tests/requirements.txt \
    tests/mutation/requirements.txt
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  lay_out
  cd "$work"
  export PATH=$checkout/.venv-mutation/bin:$PATH
  nice mutmut run "$@"
  mutmut results
  log 'How many of each kind (0: no test noticed, 1 and 3: one did, 33: no test runs it, 36 and such: it never ended)'
  python - mutants/model_server/*.py.meta <<'END_OF_PYTHON'
import collections, json, pathlib, sys

for meta in map(pathlib.Path, sys.argv[1:]):
    print(meta.name, dict(collections.Counter(json.loads(meta.read_text())["exit_code_by_key"].values())))
END_OF_PYTHON
}

# mutmut calls a module what its path says, and Python what its place below container/ says: here both are the same.
lay_out() {
  cp -R "$checkout"/container/. "$checkout"/tests "$checkout"/{pytest.ini,README.md,requirements.txt} "$work"
  cp "$checkout/tests/mutation/mutmut.cfg" "$work/setup.cfg"
  find "$work" -name __pycache__ -prune -exec rm -rf {} +
  mkdir "$work/mutants"
  ln -s . "$work/mutants/container"
}

main "$@"
