#!/usr/bin/env bash
# For bash 3.2 and BSD's tools too, as on a Mac.
set -euo pipefail

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# shellcheck source=local-test/log.sh
source "$checkout/local-test/log.sh"

usage() {
  cat <<'END'
Usage: build_local.sh [--dry-run] NAME [DIR]
       build_local.sh --check IMAGE

Build the image NAME for SageMaker from the Dockerfile in DIR; without DIR, the image of Longshore itself, which others
inherit. Any Dockerfile will do on a Debian or Ubuntu that has packages of Python 3.11 or newer, such as Debian 12 and
Ubuntu 24.04: where it does not say FROM Longshore's image, Longshore is put on top, and its ENTRYPOINT, CMD and USER
become the algorithm's. What would not run on SageMaker is named, and NAME is given to an image without faults only.

  --check IMAGE   build nothing, and name what is wrong with an image that is there
  --dry-run       print the commands, and run none
  --help          show this text

LONGSHORE_BUILD_ARGS is for further arguments of `docker build`, with spaces between them. All are for DIR's build, such
as --file, --target and --pull; of them --build-arg, --network and --no-cache are used for putting Longshore on top too.
The last line on stdout is NAME; all else goes to stderr. Exit code 0: built. 1: a step failed, or there are faults.
64: the arguments are wrong.
END
}

platform=linux/amd64
default_command='["longshore","usage"]'

# [HOST[:PORT]/]PATH[:TAG]
image_name='^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$'
default_program=/opt/algorithm/run

# An image alone, as SageMaker takes it: a builder's attestations would make an index of it.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1

main() {
  local mode=build
  name='' directory=''
  read_arguments "$@"
  read_build_arguments
  end_on_signals
  if [[ $mode == dry-run ]]; then
    print_commands
    return
  fi
  need_docker
  if [[ $mode == check ]]; then
    check_image "$name"
    return
  fi
  # A name of this run alone: BuildKit builds from names only.
  work=longshore-build:$$-$RANDOM
  trap remove_work EXIT
  if [[ -z $directory ]]; then
    log "Building Longshore's image"
    # shellcheck disable=SC2086 # words
    build_longshore "$work-final" ${LONGSHORE_BUILD_ARGS-} || die "Longshore's image could not be built; docker says why above."
    check_image "$work-final" --base
  else
    build_authors
    check_image "$work-final"
  fi
  docker tag "$work-final" "$name" || die "The image could not be named $name; docker says why above."
  printf '%s\n' "$name"
}

read_arguments() {
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --dry-run) mode=dry-run ;;
      --check) mode=check ;;
      -*) wrong_arguments "There is no option $1." ;;
      *)
        if [[ -z $name ]]; then
          name=$1
        elif [[ -z $directory && $mode != check ]]; then
          directory=$1
        else
          wrong_arguments "There is one argument too many: $1"
        fi
        ;;
    esac
    shift
  done
  [[ -n $name ]] || wrong_arguments 'The name of the image is missing.'
  [[ $name =~ $image_name ]] ||
    wrong_arguments "$name can not be the name of an image: it has lower case letters and digits, and . _ - / between them."
  [[ -z $directory || -d $directory ]] || die "There is no folder $directory."
}

# Read which Dockerfile LONGSHORE_BUILD_ARGS names, and what of it fits another one, Longshore's.
read_build_arguments() {
  local word option=''
  dockerfile=$directory/Dockerfile arguments_on_top=''
  for word in ${LONGSHORE_BUILD_ARGS-}; do
    case $option in
      --build-arg | --network) arguments_on_top+=" $option $word" ;;
      --file | -f) dockerfile=$word ;;
    esac
    case $word in
      --build-arg=* | --network=* | --no-cache | --no-cache=*) arguments_on_top+=" $word" ;;
      --file=* | -f=*) dockerfile=${word#*=} ;;
    esac
    option=$word
  done
  [[ -z $directory || -f $dockerfile ]] || die "There is no Dockerfile $dockerfile."
}

wrong_arguments() {
  printf '%s: %s\n\n' "${0##*/}" "$*" >&2
  usage >&2
  exit 64
}

need_docker() {
  command -v docker >/dev/null || die 'Docker is needed, and there is no command of that name on PATH: install it.'
  docker version --format '{{.Server.Version}}' >/dev/null ||
    die 'Docker does not answer: start it, or set DOCKER_HOST to where it runs.'
}

# --- building

build_authors() {
  log "Building $directory"
  # shellcheck disable=SC2086 # words
  build "$work-author" "$directory" ${LONGSHORE_BUILD_ARGS-} || explain_failed_build
  refuse_triggers
  if holds_longshore "$work-author"; then
    docker tag "$work-author" "$work-whole"
  else
    log 'It does not hold Longshore, which is put on top'
    # shellcheck disable=SC2086 # words
    build_longshore "$work-whole" $arguments_on_top --build-arg "BASE_IMAGE=$work-author" ||
      die "Longshore could not be put on top of $directory's image; docker says why above."
  fi
  record_commands
}

# build TAG DIR [ARGUMENT ...]
build() {
  local tag=$1 context=$2
  shift 2
  run docker build --force-rm --platform "$platform" --tag "$tag" "$@" "$context"
}

# build_longshore TAG [ARGUMENT ...]
build_longshore() {
  local tag=$1
  shift
  build "$tag" "$checkout" "$@" --build-arg "LONGSHORE_VERSION=$(version)" \
    --build-arg "LONGSHORE_REVISION=$(revision)" --build-arg "LONGSHORE_SOURCE=$(source_address)"
}

version() { sed -n 's/^VERSION = "\(.*\)"$/\1/p' "$checkout/container/model_server/__init__.py"; }

revision() { git -C "$checkout" describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || true; }

# Where the checkout came from, without a password that the address may hold.
source_address() { git -C "$checkout" remote get-url origin 2>/dev/null | sed 's#://[^/@]*@#://#' || true; }

explain_failed_build() {
  local image
  for image in $(longshores_of_dockerfile); do
    docker image inspect "$image" >/dev/null 2>&1 ||
      die "$directory could not be built; docker says why above. If it misses $image, build that first:
build_local.sh $image"
  done
  die "$directory could not be built; docker says why above."
}

# Print what a Dockerfile may inherit from and is Longshore's by its name.
longshores_of_dockerfile() {
  sed -n -e 's/^[[:space:]]*[Ff][Rr][Oo][Mm][[:space:]]\{1,\}\([a-z0-9./:_-]*longshore[a-z0-9./:_-]*\).*/\1/p' \
    -e 's/^[[:space:]]*[Aa][Rr][Gg][[:space:]]\{1,\}[A-Za-z_]*=\([a-z0-9./:_-]*longshore[a-z0-9./:_-]*\).*/\1/p' \
    "$dockerfile"
}

refuse_triggers() {
  [[ $(list_of "$work-author" OnBuild) == '[]' ]] ||
    die "$directory's image has ONBUILD instructions, and they would run when it is completed: write them out instead."
}

holds_longshore() { [[ -n $(label_of "$1" longshore.version) ]]; }

# --- what the author's ENTRYPOINT, CMD and USER say, as the variables that Longshore reads

# SageMaker calls `docker run IMAGE serve`: an ENTRYPOINT would swallow it and a CMD be replaced by it, and the server
# needs to be root to become the algorithm's user.
record_commands() {
  local completed="FROM $work-whole"
  record_command
  record_user
  restore_stop_signal
  add 'ENTRYPOINT []' "CMD $default_command" 'USER root'
  finish <<<"$completed" || die 'The image could not be completed; docker says why above.'
}

finish() { run docker build --force-rm --platform "$platform" --tag "$work-final" -; }

record_command() {
  local entrypoint cmd words=
  entrypoint=$(list_of "$work-author" Entrypoint)
  cmd=$(list_of "$work-author" Cmd)
  [[ $cmd != "$default_command" ]] || cmd='[]'
  [[ $entrypoint == '[]' ]] || words="ENTRYPOINT $entrypoint"
  [[ $cmd == '[]' ]] || words="${words:+$words, }CMD $cmd"
  [[ -n $words ]] || return 0
  if is_stated ALGORITHM_ENTRYPOINT || is_stated ALGORITHM_CMD; then
    log "Left out, as the variables ALGORITHM_ENTRYPOINT and ALGORITHM_CMD are set: $words"
    return
  fi
  if ! states_command; then
    if has_default_program; then
      log "Left out, as the base image says it and $default_program is there to be run: $words"
      return
    fi
    log 'The Dockerfile has no ENTRYPOINT and no CMD; those of its base image are taken'
  fi
  # Over an image that this script has built, a new ENTRYPOINT replaces the CMD too, as in Docker.
  [[ $entrypoint == '[]' ]] || record ALGORITHM_ENTRYPOINT "$(as_written "$entrypoint")"
  record ALGORITHM_CMD "$cmd"
  log "What the algorithm runs, recorded as ALGORITHM_ENTRYPOINT and ALGORITHM_CMD: $words"
  log 'The image has no ENTRYPOINT now, so that SageMaker can call serve and train'
}

# Tell whether the Dockerfile's last stage itself says what to run: a base for people at a terminal says so too.
states_command() {
  awk '
    /^[ \t\r]*(#|$)/ { next }
    { instruction = instruction $0 }
    # A line that goes on: what follows is no instruction, such as the CMD of a HEALTHCHECK.
    sub(/\\[ \t\r]*$/, " ", instruction) { next }
    {
      split(instruction, words)
      name = toupper(words[1])
      if (name == "FROM") stated = 0
      if (name == "ENTRYPOINT" || name == "CMD") stated = 1
      instruction = ""
    }
    END { exit !stated }
  ' "$dockerfile"
}

# as_written ENTRYPOINT: the shell form, which Docker makes a list of, as the string that it was, since it takes no
# arguments. A line that looks for them is a list that an author wrote.
as_written() {
  local shell_form='^\["/bin/sh","-c",("([^"\]|\\.)*")]$' looks_for_arguments='\$\{?[0-9@*#]'
  if [[ ! $1 =~ $looks_for_arguments && $1 =~ $shell_form ]]; then
    printf '%s' "${BASH_REMATCH[1]}"
  else
    printf '%s' "$1"
  fi
}

has_default_program() {
  docker run --rm --network none --platform "$platform" --user 0 --entrypoint test "$work-author" -x "$default_program"
}

record_user() {
  local user
  user=$(config_of "$work-author" User)
  if is_root "$user"; then
    return
  elif is_stated ALGORITHM_USER; then
    log "Left out, as the variable ALGORITHM_USER is set: USER $user"
  else
    record ALGORITHM_USER "$user"
    log "Who the algorithm runs as, recorded as ALGORITHM_USER: USER $user; the server runs as root"
  fi
}

restore_stop_signal() {
  local signal
  signal=$(config_of "$work-author" StopSignal)
  case $signal in
    '' | SIGTERM | 15) ;;
    *)
      log "Left out, as SageMaker stops the server by SIGTERM: STOPSIGNAL $signal"
      add 'STOPSIGNAL SIGTERM'
      ;;
  esac
}

# Add lines to the Dockerfile that completes the image.
add() { completed+=$(printf '\n%s' "$@"); }

# record VARIABLE VALUE: as a variable, and as a label that tells it from one that an author sets.
record() {
  local escape="s/'/\\\\u0027/g" value
  # In single quotes a Dockerfile takes everything as it stands.
  value=$(printf '%s' "$2" | sed "$escape")
  add "ENV $1='$value'" "LABEL longshore.recorded.$1='$value'"
}

# Tell whether the author set a variable, rather than this script for an image that this one inherits from.
is_stated() {
  local value
  value=$(docker image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$work-author" | sed -n "s/^$1=//p")
  [[ -n $value && $value != "$(label_of "$work-author" "longshore.recorded.$1")" ]]
}

# list_of IMAGE FIELD: as JSON.
list_of() {
  local value
  value=$(docker image inspect --format "{{json .Config.$2}}" "$1")
  [[ $value != null ]] || value='[]'
  printf '%s' "$value"
}

# Engines leave out what an image does not have.
config_of() { docker image inspect --format "{{with .Config.$2}}{{.}}{{end}}" "$1"; }

label_of() { docker image inspect --format "{{with .Config.Labels}}{{index . \"$2\"}}{{end}}" "$1"; }

is_root() { [[ -z $1 || $1 == 0 || $1 == root || $1 == 0:0 || $1 == root:root ]]; }

# --- checking

# check_image IMAGE [--base]
check_image() {
  local image=$1 faults=0 actual entrypoint
  shift
  log 'Checking what would not run on SageMaker'
  docker image inspect "$image" >/dev/null || die "There is no image $image."
  holds_longshore "$image" || die "$image does not hold Longshore: build it with build_local.sh."
  actual=$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$image")
  [[ $actual == "$platform" ]] ||
    die "The image is for $actual, and SageMaker's machines are $platform: name no other platform in the Dockerfile."
  entrypoint=$(list_of "$image" Entrypoint)
  [[ $entrypoint == '[]' ]] || fault "ENTRYPOINT $entrypoint swallows the \`serve\` that SageMaker calls: see --help"
  is_root "$(config_of "$image" User)" || fault 'USER is not root, as whom SageMaker runs containers: see --help'
  run_check "$image" "$@" || faults=1
  ((faults == 0)) || die 'This image would not run on SageMaker; what is wrong with it is above.'
}

# By where it always is: what is on PATH may be the author's.
run_check() {
  local image=$1
  shift
  run docker run --rm --network none --platform "$platform" --user 0 --entrypoint /longshore/bin/longshore \
    "$image" check "$@"
}

fault() {
  printf '%s\n' "$*" >&2
  faults=1
}

# --- running

run() {
  if [[ $mode == dry-run ]]; then
    printf '+' >&2
    printf ' %q' "$@" >&2
    printf '\n' >&2
  else
    "$@" >&2
  fi
}

print_commands() {
  work=longshore-build:temporary
  if [[ -z $directory ]]; then
    # shellcheck disable=SC2086 # words
    build_longshore "$work-final" ${LONGSHORE_BUILD_ARGS-}
    run_check "$work-final" --base
  else
    # shellcheck disable=SC2086 # words
    build "$work-author" "$directory" ${LONGSHORE_BUILD_ARGS-}
    log 'If that does not hold Longshore'
    # shellcheck disable=SC2086 # words
    build_longshore "$work-whole" $arguments_on_top --build-arg "BASE_IMAGE=$work-author"
    log 'With ENTRYPOINT, CMD and USER recorded as variables'
    finish
    run_check "$work-final"
  fi
  run docker tag "$work-final" "$name"
}

remove_work() {
  docker image rm --no-prune "$work-author" "$work-whole" "$work-final" >/dev/null 2>&1 || true
}

main "$@"
