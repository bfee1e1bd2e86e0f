#!/usr/bin/env python3
"""Say which known vulnerabilities the packages of an image have: `audit.py PIP-AUDIT REQUIREMENTS`.

Exit code 0: none. 1: some, which are named. 3: nobody knows, because PyPI, which pip-audit asks, does not tell.
"""

import json
import subprocess
import sys
from typing import Any

UNKNOWN = 3
OPTIONS = [
    *("--vulnerability-service", "pypi", "--disable-pip", "--require-hashes"),
    *("--format", "json", "--progress-spinner", "off"),
]


def main(pip_audit: str, requirements: str) -> int:
    done = subprocess.run([pip_audit, *OPTIONS, "--requirement", requirements], capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except ValueError:
        print(last_line(done.stderr), file=sys.stderr)
        return UNKNOWN
    found = [(one, fault) for one in packages for fault in one.get("vulns", [])]
    for one, fault in found:
        fixed = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"{one['name']} {one['version']} has {fault['id']}, fixed in {fixed}: {fault['description']}")
    if found:
        return 1
    skipped = [one["skip_reason"] for one in packages if "skip_reason" in one]
    if skipped or not packages:
        print(f"{len(skipped)} of {len(packages)} packages: {skipped[:1]}", file=sys.stderr)
        return UNKNOWN
    print(f"None is known in {len(packages)} packages")
    return 0


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["pip-audit said nothing"])[-1]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
