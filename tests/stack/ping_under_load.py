#!/usr/bin/env python3
"""Ask /ping 50 times a second while a server is busy in all the ways it can be, and print how long it took.

    python tests/stack/ping_under_load.py [--seconds 30] [--share 1.0] [--only WORDS]

moto's S3 server stands in for AWS, in a process of its own. Exits with 1 when a ping was not answered with 200, or the
99.9th percentile is 200 ms or more.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from loads import LOADS, measure
from pinging import Pings
from soak import BUCKET, s3_server

from conftest import Bucket

LIMIT_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="each load goes on for, at least")
    parser.add_argument("--share", type=float, default=1.0, help="of the full size of each load")
    parser.add_argument(
        "--only", default="", help="those loads whose name holds one of these words, with commas between them"
    )
    options = parser.parse_args()
    print(f"{'while':45} {'pings':>6} {'p50':>7} {'p99':>7} {'p99.9':>7} {'max':>7}  ms", flush=True)
    passed = True
    with s3_server() as (endpoint, client):
        bucket = Bucket(BUCKET, endpoint, client)
        for load in LOADS:
            if any(word in load.name for word in options.only.split(",")):
                size = max(1, int(load.full * options.share))
                pings, times = measure(load, bucket, size, options.seconds)
                show(f"{load.name} ({size:,} {load.unit}, {times} x)", pings)
                passed &= pings.statuses == {200} and pings.quantile(0.999) < LIMIT_SECONDS
    sys.exit(0 if passed else 1)


def show(name: str, pings: Pings) -> None:
    shown = [pings.quantile(share) * 1000 for share in (0.5, 0.99, 0.999)] + [max(pings.seconds) * 1000]
    told = "" if pings.statuses == {200} else f"  {pings.statuses}"
    print(f"{name:45} {len(pings.seconds):6} {' '.join(f'{value:7.1f}' for value in shown)}{told}", flush=True)


if __name__ == "__main__":
    main()
