#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=../local-test/setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/../local-test/setup.sh"

# What mypy does not find by itself: the executables have no ending.
executables=(longshore serve train process invoke adapt)

usage() {
  cat <<'END'
Usage: run.sh [PYTEST-ARGUMENT ...]

Set up what the tests need in .venv of the checkout, and run all checks and tests: ruff, mypy and shellcheck, pip-audit
over what the image is made of, then pytest over tests/. With arguments only pytest is run, with these:
`run.sh tests/unit`, `run.sh -k zip`.

nginx is installed where that is allowed; else it is said how. The tests of the image need a Docker engine, what
docker-registry and docker-compose are called in Debian, and the network: without an engine they are left out, which is
said, unless CI=true. So is the audit where PyPI does not tell what it knows of vulnerabilities. Exit code 0 means that
everything else passed.
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
  need_become
  left_out=()
  not_audited=
  ! wants_image_tests "$@" || need_image_tools
  forget_aws
  cd "$checkout"
  if (($# == 0)); then
    step 'Lint' "$venv/bin/python" -m ruff check .
    step 'Format' "$venv/bin/python" -m ruff format --check .
    step 'Types' "$venv/bin/python" -m mypy
    step 'Types of the executables' "$venv/bin/python" -m mypy --scripts-are-modules "${executables[@]/#/container/}"
    step 'Shell scripts' check_shell_scripts
    venv=$checkout/.venv-audit need_packages tests/audit.txt
    step 'Known vulnerabilities' audit
    set -- tests
  fi
  # A folder of this run alone: pytest would clean up after other runs, and stumble over what is very deep there.
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  step 'Tests' "$venv/bin/python" -m pytest --basetemp "$scratch/tests" "${left_out[@]}" "$@"
  if ((${#left_out[@]})); then
    log 'Passed, but LEFT OUT: tests/image, because no Docker engine answers'
    [[ -z $not_audited ]] || log "$not_audited"
  else
    log "${not_audited:-All checks and tests passed}"
  fi
}

# Tell whether tests of the image may be among those that these arguments of pytest choose.
wants_image_tests() {
  local argument others=no
  for argument in "$@"; do
    case $argument in
      *tests/image*) return ;;
      *tests/?*) others=yes ;;
    esac
  done
  [[ $others == no ]]
}

# An engine, a registry, the command that the SageMaker SDK starts containers with, and two clients that no one here
# wrote, each in an environment of its own.
need_image_tools() {
  local name missing=()
  if ! docker info >/dev/null 2>&1; then
    [[ ${CI-} != true ]] || die 'The tests of the image need a Docker engine, and none answers.'
    left_out=(--ignore=tests/image)
    return
  fi
  for name in docker-registry docker-compose; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  ((${#missing[@]} == 0)) || install_debian_packages "${missing[@]}"
  venv=$checkout/.venv-aws need_packages tests/image/awscli.txt
  venv=$checkout/.venv-sdk need_packages tests/image/sdk/requirements.txt
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

# A mirror of PyPI, or a machine without a network, has the packages and not what is known of them: that is no fault of
# the project, and no proof of anything either.
audit() {
  local code=0
  "$venv/bin/python" tests/audit.py "$checkout/.venv-audit/bin/pip-audit" requirements.txt || code=$?
  ((code == 3)) || return "$code"
  not_audited='Passed, but LEFT OUT: the audit, because PyPI does not tell what it knows of vulnerabilities'
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
