#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=../../local-test/setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/../../local-test/setup.sh"

here=$checkout/tests/benchmarks

usage() {
  cat <<'END'
Usage: run.sh [--quick] [--rounds N] [--checkout FOLDER] [--out FOLDER] [ROW ...]
       run.sh [--quick] growth
       run.sh --list

Measure Longshore beside sagemaker-shim, s5cmd, rclone and curl on this machine, and say whether the targets are met.
The contenders take turns for five rounds after one that is not counted. Without a ROW all are measured, which takes the
better part of an hour; `download` stands for all rows that begin so. README.md beside this says how it is done.

  --quick            one row of each kind, and less of it, in under three minutes: not to be quoted
  --rounds N         rounds that are counted
  --checkout FOLDER  measure the Longshore of another checkout, with the Python of its .venv if there is one
  --out FOLDER       where the results go, as JSON, text and SVG; by default .benchmarks of this checkout
  --list             list the rows
  growth             measure how time and memory grow with the number and the size of inputs, and with the log

All files are in a folder in /dev/shm, which is removed at the end; the largest rows need 8 GiB of memory. What is missing
of nginx, curl and openssl is installed where that is allowed; the Python packages go into .venv, .venv-shim and
.venv-benchmarks of this checkout. The row `container` is left out where there is no Docker engine.
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
  need_benchmark_tools
  need_packages requirements.txt local-test/requirements.txt tests/requirements.txt
  # Its package is for another Python only; it runs on this one all the same.
  venv=$checkout/.venv-shim PIP_IGNORE_REQUIRES_PYTHON=1 need_packages tests/compat/requirements.txt tests/compat/shim.txt
  need_become
  venv=$checkout/.venv-benchmarks need_packages tests/benchmarks/requirements.txt
  exec "$venv/bin/python" "$here/benchmark.py" "$@"
}

# The module lets nginx wait before it answers: for the rows of a network that is not a loopback.
need_benchmark_tools() {
  local name missing=()
  for name in curl openssl; do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  [[ -e /usr/lib/nginx/modules/ngx_http_echo_module.so ]] || missing+=(libnginx-mod-http-echo)
  ((${#missing[@]} == 0)) || install_debian_packages "${missing[@]}"
}

main "$@"
