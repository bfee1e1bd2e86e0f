# shellcheck shell=bash
# What every script here says, and how it ends. A library: source it.

log() { printf '==> %s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# Say what is wrong with the arguments, and how they are: the script has a function `usage`.
wrong_arguments() {
  printf '%s: %s\n\n' "${0##*/}" "$*" >&2
  usage >&2
  exit 64
}

# End on a signal, at once and as a whole: a command that the signal interrupted has not simply failed.
end_on_signals() {
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
