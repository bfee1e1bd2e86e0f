#!/usr/bin/env bash
# For bash 3.2 and BSD's tools too, as on a Mac.
set -euo pipefail

checkout=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# shellcheck source=local-test/log.sh
source "$checkout/local-test/log.sh"

usage() {
  cat <<'END'
Usage: build_and_push.sh [OPTION ...] NAME [DIR]
       build_and_push.sh --check [OPTION ...] NAME

Build an image as build_local.sh does, and push it to the repository NAME of your account's container registry (ECR),
which is created when it is missing. What was pushed is checked: SageMaker takes Docker's image manifests for
linux/amd64 only. The last line on stdout is the image's URI and its digest, with a space between them.

  --tag TAG          the image's tag; latest by default
  --region REGION    the AWS region; by default AWS_REGION, AWS_DEFAULT_REGION or that of the AWS CLI's profile
  --immutable-tags   when the repository is created: no tag of it can be moved to another image
  --registry HOST    push to HOST in place of the account's own registry, with the same login
  --check            build and push nothing, and check what the repository has under the tag
  --dry-run          print the commands that would change something, and run those only that read
  --help             show this text

The account is that of the AWS CLI: see AWS_PROFILE and `aws configure`. LONGSHORE_BUILD_ARGS is build_local.sh's.
Exit code 0: pushed. 1: a step failed, and is named. 64: the arguments are wrong.
END
}

docker_manifest=application/vnd.docker.distribution.manifest.v2+json
oci_manifest=application/vnd.oci.image.manifest.v1+json
indexes='application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.oci.image.index.v1+json'

# No page of an answer may wait for a key.
export AWS_PAGER=''

main() {
  local name='' directory='' tag=latest region='' registry='' mutability=MUTABLE dry_run='' check_only='' step=''
  local account partition uri password digest
  read_arguments "$@"
  end_on_signals
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/longshore.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT

  find_region
  find_account
  find_registry
  uri=$registry/$name:$tag
  [[ -n $check_only ]] || ensure_repository
  log_in
  if [[ -z $check_only ]]; then
    build
    push
  fi
  check
  [[ -n $dry_run ]] || printf '%s %s\n' "$uri" "$digest"
}

read_arguments() {
  while (($#)); do
    case $1 in
      -h | --help)
        usage
        exit
        ;;
      --tag | --region | --registry)
        (($# > 1)) || wrong_arguments "$1 needs a value."
        case $1 in
          --tag) tag=$2 ;;
          --region) region=$2 ;;
          --registry) registry=$2 ;;
        esac
        shift
        ;;
      --immutable-tags) mutability=IMMUTABLE ;;
      --dry-run) dry_run=yes ;;
      --check) check_only=yes ;;
      -*) wrong_arguments "There is no option $1." ;;
      *)
        if [[ -z $name ]]; then
          name=$1
        elif [[ -z $directory && -z $check_only ]]; then
          directory=$1
        else
          wrong_arguments "There is one argument too many: $1"
        fi
        ;;
    esac
    shift
  done
  [[ -n $name ]] || wrong_arguments 'The name of the repository is missing.'
  [[ $name =~ ^[a-z0-9]+([._-][a-z0-9]+)*(/[a-z0-9]+([._-][a-z0-9]+)*)*$ ]] ||
    wrong_arguments "$name can not be the name of a repository: it has lower case letters and digits, and one of . _ - /
between them. A tag is given by --tag."
  [[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || wrong_arguments "$tag can not be a tag."
}

# --- the steps, in order; each says its name, and what to do when it fails

begin() {
  step=$1
  log "$step${2:+: $2}"
}

fail() { die "$step: $*"; }

find_region() {
  begin Region
  need aws 'the AWS CLI' 'see https://aws.amazon.com/cli/'
  region=${region:-${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}}
  [[ -n $region ]] || fail 'There is none: give --region, or set AWS_REGION.'
  log "It is $region"
}

find_account() {
  local identity arn
  begin Account
  identity=$(aws sts get-caller-identity --region "$region" --query '[Account, Arn]' --output text) ||
    fail "AWS did not say whose account this is; its words are above. Give the AWS CLI credentials, by 'aws configure',
'aws sso login' or AWS_PROFILE."
  read -r account arn <<<"$identity"
  arn=${arn#arn:}
  partition=${arn%%:*}
  log "It is $account of the partition $partition"
}

find_registry() {
  local domain
  [[ -z $registry ]] || return 0
  case $partition in
    aws | aws-us-gov) domain=amazonaws.com ;;
    aws-cn) domain=amazonaws.com.cn ;;
    *) fail "Where the partition $partition has its registry is not known here: give --registry." ;;
  esac
  registry=$account.dkr.ecr.$region.$domain
}

ensure_repository() {
  local actual
  begin Repository "$name"
  if actual=$(in_ecr describe-repositories --repository-names "$name" --query 'repositories[0].imageTagMutability' \
    --output text 2>"$scratch/error"); then
    keep_repository "$actual"
    return
  fi
  if ! grep -q RepositoryNotFoundException "$scratch/error"; then
    cat "$scratch/error" >&2
    fail 'It could not be looked up; AWS says why above. You need the right ecr:DescribeRepositories.'
  fi
  log 'It is missing, and created'
  change in_ecr create-repository --repository-name "$name" --image-scanning-configuration scanOnPush=true \
    --image-tag-mutability "$mutability" ||
    fail 'It could not be created; AWS says why above. Let somebody create it who has the right ecr:CreateRepository.'
}

# keep_repository MUTABILITY
keep_repository() {
  [[ $1 == "$mutability" || $mutability == MUTABLE ]] ||
    log "It is there already with tags that are $1, and is left as it is"
  # IMMUTABLE_WITH_EXCLUSION has tags that can be moved: the push shows whether this is one.
  if [[ $1 == IMMUTABLE ]] && has_tag; then
    fail "It has an image with the tag $tag already, and its tags are immutable: give another one with --tag."
  fi
}

has_tag() { in_ecr describe-images --repository-name "$name" --image-ids "imageTag=$tag" >/dev/null 2>&1; }

# Have docker know the password in a folder of this run only: not in a file or a key ring of the user's.
log_in() {
  local home=${DOCKER_CONFIG:-${HOME-}/.docker}
  begin Login "$registry"
  need docker Docker 'install it'
  need curl curl 'install it'
  if [[ -n $dry_run ]]; then
    say_command aws ecr get-login-password --region "$region" '|' \
      docker login --username AWS --password-stdin "$registry"
    return
  fi
  docker version --format '{{.Server.Version}}' >/dev/null ||
    fail 'Docker does not answer: start it, or set DOCKER_HOST to where it runs.'
  DOCKER_CONTEXT=$(docker context inspect --format '{{.Name}}') || fail 'Docker does not say which engine it uses.'
  export DOCKER_CONTEXT
  mkdir "$scratch/docker"
  [[ ! -d $home/contexts ]] || cp -R "$home/contexts" "$scratch/docker/contexts"
  # With an entry here docker does not look for a key ring.
  printf '{"auths": {"%s": {}}}\n' "$registry" >"$scratch/docker/config.json"

  password=$(in_ecr get-login-password) ||
    fail 'ECR gave no password; AWS says why above. You need the right ecr:GetAuthorizationToken.'
  printf '%s' "$password" | with_login docker login --username AWS --password-stdin "$registry" >&2 ||
    fail "$registry did not let you in; docker says why above. Can it be reached from here, and is it the account's?"
}

build() {
  begin Build
  "$checkout/build_local.sh" ${dry_run:+--dry-run} "$name:$tag" ${directory:+"$directory"} >&2 ||
    fail 'The image could not be built, or would not run on SageMaker; what is wrong is above.'
}

push() {
  begin Push "$uri"
  change docker tag "$name:$tag" "$uri"
  change with_login docker push "$uri" || fail "The image could not be pushed; docker says why above.
An immutable tag can not be pushed again: give another --tag. You need the rights ecr:PutImage, ecr:InitiateLayerUpload,
ecr:UploadLayerPart, ecr:CompleteLayerUpload and ecr:BatchCheckLayerAvailability."
}

check() {
  local type config
  begin Check "$uri"
  if [[ -n $dry_run ]]; then
    say_command curl "$(address "manifests/$tag")"
    return
  fi
  ask "manifests/$tag" manifest
  [[ -n $check_only || $(header content-type) != "$oci_manifest" ]] || replace_manifest
  type=$(header content-type)
  digest=$(header docker-content-digest)
  [[ $type == "$docker_manifest" ]] || refuse_type "$type"
  [[ $digest == sha256:* ]] || fail "The registry names no digest of $uri: is it one?"
  config=$(tr -d ' \t\r\n' <"$scratch/manifest" | sed -n 's/.*"config":{[^}]*"digest":"\([^"]*\)".*/\1/p')
  ask "blobs/$config" config
  { is_in_config architecture amd64 && is_in_config os linux; } ||
    fail "The image is not for linux/amd64, which SageMaker's machines are: name no other platform in the Dockerfile."
  log "It is Docker's, for linux/amd64"
}

# Newer engines push OCI's manifests. They differ from Docker's by the names of what they list, not by the image.
replace_manifest() {
  local status
  log "It is $oci_manifest, which SageMaker refuses: replacing it by Docker's manifest of the same image"
  LC_ALL=C sed -e "s#$oci_manifest#$docker_manifest#" \
    -e 's#application/vnd.oci.image.config.v1+json#application/vnd.docker.container.image.v1+json#' \
    -e 's#application/vnd.oci.image.layer.v1.tar+gzip#application/vnd.docker.image.rootfs.diff.tar.gzip#g' \
    <"$scratch/manifest" >"$scratch/replacement"
  ! grep 'application/vnd\.oci' "$scratch/replacement" >/dev/null || refuse_type "$oci_manifest"
  status=$(call "manifests/$tag" answer --request PUT --header "Content-Type: $docker_manifest" \
    --data-binary "@$scratch/replacement")
  [[ $status == 201 ]] || refuse_type "$oci_manifest"
  ask "manifests/$tag" manifest
}

refuse_type() {
  fail "SageMaker refuses what is in the registry now: it is $1, and it takes $docker_manifest only.
Docker makes the former where containerd stores its images, or where a builder adds attestations. Turn that off (in
Docker Desktop: Settings, General, 'Use containerd for pulling and storing images'; else in the engine's daemon.json:
\"features\": {\"containerd-snapshotter\": false}), and run this again."
}

# --- the registry's HTTP API

# ask PATH FILE: get a part of the repository.
ask() {
  local status
  status=$(call "$1" "$2" --header "Accept: $docker_manifest, $oci_manifest, $indexes")
  [[ $status == 200 ]] || fail "The registry answers $status for $(address "$1"), which should be there."
}

# call PATH FILE [OPTION ...]: have curl write an answer to a file of this run, and print its status.
call() {
  local path=$1 file=$2
  shift 2
  printf 'user = "AWS:%s"\n' "$password" | curl --config - --silent --show-error --location --max-time 60 \
    --dump-header "$scratch/headers" --output "$scratch/$file" --write-out '%{http_code}' "$@" "$(address "$path")" ||
    fail "$registry could not be asked what it has; curl says why above."
}

# header NAME: of the last answer.
header() {
  tr -d '\r' <"$scratch/headers" | tr '[:upper:]' '[:lower:]' |
    sed -n "s/^$1:[[:space:]]*\([^;[:space:]]*\).*/\1/p" | tail -n 1
}

is_in_config() { LC_ALL=C tr -d ' \t\r\n' <"$scratch/config" | grep "\"$1\":\"$2\"" >/dev/null; }

# Docker speaks plain HTTP to registries of this machine.
address() {
  case $registry in
    127.* | localhost | localhost:* | '[::1]'*) printf 'http://%s/v2/%s/%s' "$registry" "$name" "$1" ;;
    *) printf 'https://%s/v2/%s/%s' "$registry" "$name" "$1" ;;
  esac
}

# --- running

need() { command -v "$1" >/dev/null || fail "$2 is needed, and there is no command $1 on PATH: $3."; }

in_ecr() { aws ecr "$@" --region "$region"; }

with_login() { DOCKER_CONFIG=$scratch/docker "$@"; }

# Run what changes something.
change() {
  if [[ -z $dry_run ]]; then
    "$@" >&2
    return
  fi
  case $1 in
    in_ecr)
      shift
      say_command aws ecr "$@" --region "$region"
      ;;
    with_login)
      shift
      say_command "$@"
      ;;
    *) say_command "$@" ;;
  esac
}

say_command() {
  {
    printf '+'
    printf ' %s' "$@"
    printf '\n'
  } >&2
}

main "$@"
