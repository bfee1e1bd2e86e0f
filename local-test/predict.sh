#!/usr/bin/env bash
set -euo pipefail

# shellcheck source=setup.sh
source "$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)/setup.sh"

find_python
exec "$python" "$checkout/local-test/predict.py" "$@"
