"""Start /bin/true as another user, over and over, by the code of one side, in a process of 200 MiB.

    python spawn_rig.py shim|longshore COUNT [CHECKOUT]

Prints the median of milliseconds from the start until it has ended, and the CPU seconds of each, as JSON.
"""

import asyncio
import base64
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

RESIDENT_BYTES = 200 << 20
USER = "nobody"


def grow() -> bytearray:
    """Take memory until this process is as large as it shall be, each page of it written to."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    ballast = bytearray(max(0, RESIDENT_BYTES - pages * resource.getpagesize()))
    ballast[:: resource.getpagesize()] = b"x" * len(ballast[:: resource.getpagesize()])
    return ballast


def measured(starts: Callable[[], list[float]]) -> dict[str, float]:
    """Grow, and return the median of milliseconds, and the CPU seconds of one start."""
    ballast = grow()
    before = cpu()
    found = starts()
    used = cpu() - before
    assert ballast
    return {"milliseconds": 1000 * statistics.median(found), "cpu": used / len(found)}


def of_shim(count: int) -> dict[str, float]:
    from sagemaker_shim.models import UserProcess

    async def once() -> float:
        process = UserProcess()
        started = time.perf_counter()
        await process._start_user_process_and_stream_tasks()
        await process.process.wait()
        taken = time.perf_counter() - started
        await asyncio.gather(process.stdout_task, process.stderr_task)
        return taken

    async def all_of_them() -> list[float]:
        return [await once() for _ in range(count)]

    return measured(lambda: asyncio.run(all_of_them()))


def of_longshore(count: int, checkout: str) -> dict[str, float]:
    sys.path.insert(0, f"{checkout}/container")
    from model_server.program import Program
    from model_server.settings import Settings

    program = Program.from_settings(Settings.from_env(), ["/bin/true"])

    def once() -> float:
        started = time.perf_counter()
        with program.start() as process:
            code = process.wait()
            taken = time.perf_counter() - started
        assert code == 0
        return taken

    return measured(lambda: [once() for _ in range(count)])


def cpu() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    side, count = sys.argv[1], int(sys.argv[2])
    os.environ["GRAND_CHALLENGE_COMPONENT_USER"] = USER
    os.environ["GRAND_CHALLENGE_COMPONENT_ENTRYPOINT_B64J"] = base64.b64encode(b'["/bin/true"]').decode()
    print(json.dumps(of_shim(count) if side == "shim" else of_longshore(count, sys.argv[3])))


if __name__ == "__main__":
    main()
