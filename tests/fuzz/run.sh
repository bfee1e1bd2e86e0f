#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=../../local-test/setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/../../local-test/setup.sh"

venv=$checkout/.venv-fuzz
# Not in git: what the fuzzer has learnt, and what it has found.
corpus=$checkout/.fuzz

usage() {
  cat <<'END'
Usage: run.sh [SECONDS [TARGET ...]]

Feed whatever bytes lead to new ways through the code to the reading of tasks (tasks), to the unpacking of zips (zips)
and to that of tarballs (tarballs), each for some seconds (default: 60). What is needed is set up in .venv-fuzz of the
checkout; what was learnt is kept in .fuzz, so that the next run goes on from there.

Exit code 0 means that nothing was found. Else the bytes that did it are in .fuzz/findings: a finding is a defect, and
becomes a test in tests/unit.
END
}

main() {
  case ${1-} in
    -h | --help)
      usage
      exit
      ;;
  esac
  local seconds=${1:-60} target found=0
  [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "How many seconds? Not $seconds."
  end_on_signals
  need_python
  need_packages requirements.txt tests/fuzz/requirements.txt
  mkdir -p "$corpus/findings"
  "$venv/bin/python" "$checkout/tests/fuzz/seeds.py" "$corpus/seeds"
  for target in "${@:2}"; do
    [[ -d $corpus/seeds/$target ]] || die "There is no target $target."
  done
  (($# > 1)) || set -- "$seconds" tasks zips tarballs
  for target in "${@:2}"; do
    log "Fuzzing $target for $seconds s"
    mkdir -p "$corpus/$target"
    fuzz "$target" "$seconds" || found=1
  done
  ((found == 0)) || die "Something was found: see $corpus/findings."
  log 'Nothing was found'
}

# One input may take 10 s and the process 512 MB: more is a finding too.
fuzz() {
  "$venv/bin/python" "$checkout/tests/fuzz/fuzz.py" "$1" "$corpus/$1" "$corpus/seeds/$1" \
    -max_total_time="$2" -timeout=10 -rss_limit_mb=512 -max_len=16384 \
    -artifact_prefix="$corpus/findings/$1-" -print_final_stats=1
}

main "$@"
