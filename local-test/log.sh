# shellcheck shell=bash
# What every script here says, and how it ends. A library: source it.

log() { printf '==> %s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# End on a signal, at once and as a whole: a command that the signal interrupted has not simply failed.
end_on_signals() {
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
