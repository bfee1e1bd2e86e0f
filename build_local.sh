#!/usr/bin/env bash
# For bash 3.2 and BSD's tools too, as on a Mac.
set -euo pipefail

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# shellcheck source=local-test/log.sh
source "$checkout/local-test/log.sh"

usage() {
  cat <<'END'
Usage: build_local.sh [--dry-run] NAME [DIR]
       build_local.sh [--dry-run] --layer FILE
       build_local.sh --check IMAGE

Build the image NAME for SageMaker from the Dockerfile in DIR; without DIR, the image of Longshore itself, which others
inherit. Any Dockerfile for linux/amd64 will do, whatever it is FROM: where that is not Longshore's image, Longshore is
put on top, which needs nothing of the image. Its ENTRYPOINT, CMD and USER become the algorithm's. What would not run on
SageMaker is named, and NAME is given to an image without faults only.

  --layer FILE    write the layer that `adapt` puts on top of images in a registry: Longshore with all it needs
  --check IMAGE   build nothing, and name what is wrong with an image that is there
  --dry-run       print the commands, and run none
  --help          show this text

LONGSHORE_BUILD_ARGS is for further arguments of `docker build`, with spaces between them. All are for DIR's build, such
as --file, --target and --pull; of them --build-arg, --network and --no-cache are used for Longshore's layer too.
The last line on stdout is NAME, or FILE; all else goes to stderr. Exit code 0: built. 1: a step failed, or there are
faults. 64: the arguments are wrong.
END
}

platform=linux/amd64
longshore=/longshore/bin/longshore

# [HOST[:PORT]/]PATH[:TAG]
image_name='^([A-Za-z0-9.-]+(:[0-9]+)?/)?[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$'

# An image alone, as SageMaker takes it: a builder's attestations would make an index of it.
export BUILDX_NO_DEFAULT_ATTESTATIONS=1

main() {
  local what=image is_dry_run=''
  name='' directory=''
  read_arguments "$@"
  read_build_arguments
  end_on_signals
  if [[ -n $is_dry_run ]]; then
    print_commands
    return
  fi
  need_docker
  # A name of this run alone: BuildKit builds from names only.
  work=longshore-build:$$-$RANDOM partial=''
  trap remove_work EXIT
  case $what in
    check) check_image "$name" ;;
    layer) write_layer ;;
    image) build_image ;;
  esac
}

read_arguments() {
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --dry-run) is_dry_run=yes ;;
      --check) what=check ;;
      --layer) what=layer ;;
      -*) wrong_arguments "There is no option $1." ;;
      *)
        if [[ -z $name ]]; then
          name=$1
        elif [[ -z $directory && $what == image ]]; then
          directory=$1
        else
          wrong_arguments "There is one argument too many: $1"
        fi
        ;;
    esac
    shift
  done
  if [[ $what == layer ]]; then
    [[ -n $name ]] || wrong_arguments 'The name of the file is missing.'
    [[ -d $(dirname -- "$name") ]] || die "There is no folder $(dirname -- "$name")."
    return
  fi
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

need_docker() {
  command -v docker >/dev/null || die 'Docker is needed, and there is no command of that name on PATH: install it.'
  docker version --format '{{.Server.Version}}' >/dev/null ||
    die 'Docker does not answer: start it, or set DOCKER_HOST to where it runs.'
}

# --- building

build_image() {
  if [[ -z $directory ]]; then
    log "Building Longshore's image"
    # shellcheck disable=SC2086 # words
    build_longshore "$work-final" ${LONGSHORE_BUILD_ARGS-} ||
      die "Longshore's image could not be built; docker says why above."
    check_image "$work-final" --base
  else
    log "Building $directory"
    # shellcheck disable=SC2086 # words
    build "$work-author" "$directory" ${LONGSHORE_BUILD_ARGS-} || explain_failed_build
    refuse_triggers
    if holds_longshore "$work-author"; then
      docker tag "$work-author" "$work-whole"
    else
      log 'It does not hold Longshore, which is put on top'
      put_on_top
    fi
    complete
    check_image "$work-final"
  fi
  docker tag "$work-final" "$name" || die "The image could not be named $name; docker says why above."
  printf '%s\n' "$name"
}

put_on_top() {
  # shellcheck disable=SC2086 # words
  build_layer $arguments_on_top
  # No pipe: what is only printed would close it before all is written.
  build "$work-whole" - <<<"FROM $work-author"$'\n'"COPY --from=$work-layer / /" ||
    die "Longshore could not be put on top of $directory's image; docker says why above."
}

# SageMaker calls `docker run IMAGE serve`: an author's ENTRYPOINT would swallow it and a CMD be replaced by it, and the
# server needs to be root to become the algorithm's user. What the image says is recorded, and Longshore started.
complete() {
  local text
  states_command || set -- --inherited
  text=$(docker image inspect "$work-author" |
    run_inside --interactive "$work-whole" dockerfile "$@" "$work-whole") ||
    die 'The image could not be completed; why is above. If its Longshore is an older one, build its base image anew.'
  finish <<<"$text" || die 'The image could not be completed; docker says why above.'
}

finish() { build "$work-final" -; }

# The file has its name when it is whole.
write_layer() {
  log 'Building the layer'
  # shellcheck disable=SC2086 # words
  build_layer ${LONGSHORE_BUILD_ARGS-}
  partial=$(mktemp "$name.XXXXXX") || die "No file can be made beside $name."
  run_inside "$work-layer" layer >"$partial" || die 'The layer could not be written; why is above.'
  chmod 644 "$partial"
  mv -f "$partial" "$name"
  printf '%s\n' "$name"
}

# build_layer [ARGUMENT ...]
build_layer() {
  build "$work-layer" "$checkout" "$@" --target layer --build-arg "LONGSHORE_VERSION=$(version)" ||
    die "Longshore's layer could not be built; docker says why above."
}

# build TAG DIR [ARGUMENT ...]
build() {
  local tag=$1 context=$2
  shift 2
  run docker build --force-rm --platform "$platform" --tag "$tag" "$@" "$context" >&2
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
  local image=$1 faults=0 actual entrypoint called=--by-name
  shift
  log 'Checking what would not run on SageMaker'
  docker image inspect "$image" >/dev/null || die "There is no image $image."
  holds_longshore "$image" || die "$image does not hold Longshore: build it with build_local.sh."
  actual=$(docker image inspect --format '{{.Os}}/{{.Architecture}}' "$image")
  [[ $actual == "$platform" ]] ||
    die "The image is for $actual, and SageMaker's machines are $platform: name no other platform in the Dockerfile."
  entrypoint=$(list_of "$image" Entrypoint)
  case $entrypoint in
    "[\"$longshore\"]") called=--by-entrypoint ;;
    '[]') ;;
    *) fault "ENTRYPOINT $entrypoint swallows the \`serve\` that SageMaker calls: see --help" ;;
  esac
  is_root "$(config_of "$image" User)" || fault 'USER is not root, as whom SageMaker runs containers: see --help'
  run_inside "$image" check "$called" "$@" >&2 || faults=1
  ((faults == 0)) || die 'This image would not run on SageMaker; what is wrong with it is above.'
}

fault() {
  printf '%s\n' "$*" >&2
  faults=1
}

# --- running

# run_inside [--interactive] IMAGE [ARGUMENT ...]: Longshore, which uses nothing of the image's own, such as a shell.
run_inside() {
  local interactive=''
  if [[ $1 == --interactive ]]; then
    interactive=$1
    shift
  fi
  local image=$1
  shift
  # shellcheck disable=SC2086 # a word, or none
  run docker run --rm $interactive --network none --platform "$platform" --user 0 --entrypoint "$longshore" "$image" "$@"
}

run() {
  if [[ -n $is_dry_run ]]; then
    printf '+' >&2
    printf ' %q' "$@" >&2
    printf '\n' >&2
  else
    "$@"
  fi
}

print_commands() {
  work='longshore-build:temporary'
  # shellcheck disable=SC2086 # words
  case $what in
    check) run_inside "$name" check ;;
    layer)
      build_layer ${LONGSHORE_BUILD_ARGS-}
      run_inside "$work-layer" layer
      ;;
    image)
      if [[ -z $directory ]]; then
        build_longshore "$work-final" ${LONGSHORE_BUILD_ARGS-}
        run_inside "$work-final" check --base
      else
        build "$work-author" "$directory" ${LONGSHORE_BUILD_ARGS-}
        log 'If that does not hold Longshore'
        put_on_top
        log 'With ENTRYPOINT, CMD and USER recorded'
        finish
        run_inside "$work-final" check
      fi
      run docker tag "$work-final" "$name"
      ;;
  esac
}

remove_work() {
  docker image rm --no-prune "$work-author" "$work-layer" "$work-whole" "$work-final" >/dev/null 2>&1 || true
  [[ -z $partial ]] || rm -f "$partial"
}

main "$@"
