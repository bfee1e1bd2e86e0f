#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=../local-test/setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/../local-test/setup.sh"

# What mypy does not find by itself: the executables have no ending.
executables=(longshore serve invoke)

usage() {
  cat <<'END'
Usage: run.sh [PYTEST-ARGUMENT ...]

Set up what the tests need in .venv of the checkout, and run all checks and tests: ruff, mypy and shellcheck, then
pytest over tests/. With arguments only pytest is run, with these: `run.sh tests/unit`, `run.sh -k zip`.

nginx is installed where that is allowed; else it is said how. Exit code 0 means that everything passed.
END
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
  need_packages requirements.txt local-test/requirements.txt tests/requirements.txt
  # Its package is for another Python only; it runs on this one all the same.
  venv=$checkout/.venv-shim PIP_IGNORE_REQUIRES_PYTHON=1 need_packages tests/compat/requirements.txt tests/compat/shim.txt
  forget_aws
  cd "$checkout"
  if (($# == 0)); then
    step 'Lint' "$venv/bin/python" -m ruff check .
    step 'Format' "$venv/bin/python" -m ruff format --check .
    step 'Types' "$venv/bin/python" -m mypy
    step 'Types of the executables' "$venv/bin/python" -m mypy --scripts-are-modules "${executables[@]/#/container/}"
    step 'Shell scripts' check_shell_scripts
    set -- tests
  fi
  # A folder of this run alone: pytest would clean up after other runs, and stumble over what is very deep there.
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  step 'Tests' "$venv/bin/python" -m pytest --basetemp "$scratch/tests" "$@"
  log 'All checks and tests passed'
}

# Run one step, and say which it was when it fails.
step() {
  local name=$1
  shift
  log "$name"
  "$@" || die "$name failed."
}

check_shell_scripts() {
  local file first scripts=()
  while IFS= read -r -d '' file; do
    [[ -f $file ]] || continue
    IFS= read -r first <"$file" || true
    [[ $first =~ ^#!.*sh$|^#\ shellcheck\ shell= ]] && scripts+=("$file")
  done < <(git ls-files -z --cached --others --exclude-standard)
  "$venv/bin/shellcheck" --external-sources "${scripts[@]}"
}

# No test may touch an account of yours.
forget_aws() {
  local name
  for name in ${!AWS_@}; do
    [[ $name == AWS_CA_BUNDLE ]] || unset "$name"
  done
  export AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null
}

main "$@"
