# shellcheck shell=bash
# What the scripts here and tests/run.sh need on this machine: nginx, and Python packages in .venv. A library: source it.

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv

# shellcheck source=log.sh
source "$checkout/local-test/log.sh"

# On Debian an ordinary user's PATH lacks the folders where nginx may be.
export PATH=$PATH:/usr/local/sbin:/usr/sbin

# Become a Python program of this folder, with the arguments of its script, once this machine has what that needs.
run_local() {
  local program=$checkout/local-test/$1 argument
  shift
  end_on_signals
  for argument in "$@"; do
    case $argument in
      --) break ;;
      -h | --help)
        find_python
        exec "$python" "$program" --help
        ;;
    esac
  done
  # In Docker nginx is the image's.
  case " $* " in
    *' --host '*) need_programs ;;
    *) need_python ;;
  esac
  need_packages requirements.txt local-test/requirements.txt
  # From here on Python: bash can lose a child when a signal meets it at the wrong moment.
  exec "$venv/bin/python" "$program" "$@"
}

# Set python to a Python that is new enough, and see that it can make virtual environments and that nginx is there.
need_programs() {
  find_python
  install_what_is_missing "$(missing_venv)" "$(missing_nginx)"
}

need_python() {
  find_python
  install_what_is_missing "$(missing_venv)"
}

# Debian ships this module in a package of its own, which is named after the command.
missing_venv() { "$python" -c 'import ensurepip' 2>/dev/null || printf '%s-venv' "${python##*/}"; }

missing_nginx() { command -v nginx >/dev/null || printf nginx-light; }

install_what_is_missing() {
  local name missing=()
  for name in "$@"; do
    [[ -z $name ]] || missing+=("$name")
  done
  ((${#missing[@]} == 0)) || install_debian_packages "${missing[@]}"
}

find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$(command -v "$name")
      return
    fi
  done
  die 'Python 3.11 or newer is needed, and there is none on PATH.'
}

# Install packages where this user may, else say how.
install_debian_packages() {
  local install=(apt-get install -y --no-install-recommends "$@")
  command -v apt-get >/dev/null || die "Missing: what Debian calls $*."
  ((EUID == 0)) || die "Missing: $*. To install: sudo ${install[*]}"
  log "Installing Debian's $*"
  (
    # Debian's way to say that no service may start meanwhile. A machine that has a policy keeps its own.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
      end_on_signals
      trap 'rm -f "$policy"' EXIT
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    "${install[@]}"
    # Nor is every boot from now on to start a web server that nobody asked for.
    [[ " $* " != *" nginx-light "* ]] || update-rc.d nginx disable
    [[ " $* " != *" docker-registry "* ]] || update-rc.d docker-registry disable
  ) >&2
}

# Make .venv hold what these requirement files say; their paths start at the checkout.
need_packages() {
  is_installed "$@" && return
  is_ours || die "$venv is there already, and is not made by these scripts, which would empty it: move it away."
  # In a process group of its own, so that a signal does not wait for pip: half an installation is made anew anyway.
  trap 'kill -KILL -- "-${!:-}" 2>/dev/null || true' EXIT
  set -m
  install_once "$@" </dev/null &
  set +m
  wait "$!"
  trap - EXIT
}

install_once() {
  mkdir -p "$venv"
  # A second script waits here for the first. The lock belongs to the open file, so it outlives the program that
  # takes it and ends with this function; the command flock is not on every system.
  exec 9>"$venv/lock"
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  is_installed "$@" || install_packages "$@"
}

# What starts the algorithm as its user in the image, where there is a compiler; without it Python changes user.
# Static as in the image: what its environment, the algorithm's, names to be loaded would be run as the server's user.
need_become() {
  local source=$checkout/image/become.c program=$venv/bin/longshore-become
  [[ $program -nt $source ]] || ! command -v cc >/dev/null ||
    cc -std=c11 -O2 -static -o "$program" "$source" || log 'No program that changes user: Python does it'
}

# Tell whether .venv is ours, whole or not, or there is nothing in it.
is_ours() { [[ -e $venv/lock || -z $(ls -A "$venv" 2>/dev/null) ]]; }

# Tell whether .venv is whole, still has the Python that it was made with, and holds these very files' packages.
is_installed() {
  local file
  is_whole || return
  for file in "$@"; do
    cmp -s "$checkout/$file" "$(installed_copy "$file")" || return
  done
}

is_whole() { [[ -e $venv/whole ]] && "$venv/bin/python" -V | cmp -s - "$venv/whole"; }

# Where the requirement file is kept as it was when its packages were installed.
installed_copy() { printf '%s/installed-%s' "$venv" "${1//\//-}"; }

install_packages() {
  local file arguments=()
  log "Installing Python packages into $venv"
  # Nothing may land outside the checkout: no temporary file, and nothing in pip's cache.
  export TMPDIR=$venv/tmp PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
  if ! is_whole; then
    find "$venv" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} +
    mkdir "$TMPDIR"
    "$python" -m venv "$venv"
  fi
  # From here until the last line .venv is not whole: interrupted, it is made anew the next time.
  rm -f "$venv/whole"
  for file in "$@"; do
    arguments+=(-r "$checkout/$file")
  done
  "$venv/bin/python" -m pip install --quiet --require-hashes "${arguments[@]}"
  for file in "$@"; do
    cp "$checkout/$file" "$(installed_copy "$file")"
  done
  "$venv/bin/python" -V >"$venv/whole"
}
