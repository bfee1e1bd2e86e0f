#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/setup.sh"

run_local serve_local.py "$@"
