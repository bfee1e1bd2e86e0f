"""Ask a server's /ping 50 times a second, each time on a new connection, until stdin ends.

    python pinger.py PORT

Prints the milliseconds of each as JSON. They count from when the request was due, so none that had to wait is left out;
one that was not answered with 200 counts as a minute.
"""

import http.client
import json
import select
import sys
import time

INTERVAL_SECONDS = 0.02
FAILED_MS = 60_000.0


def ping(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/ping")
        response = connection.getresponse()
        response.read()
        return response.status == 200
    except OSError:
        return False
    finally:
        connection.close()


def main() -> None:
    port = int(sys.argv[1])
    found = []
    due = time.monotonic()
    while not select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0]:
        answered = ping(port)
        found.append(1000 * (time.monotonic() - due) if answered else FAILED_MS)
        due += INTERVAL_SECONDS
    print(json.dumps(found))


if __name__ == "__main__":
    main()
