"""gunicorn's settings; socket, workers, threads and hooks are added by model_server/gunicorn_app.py.

So is the class of workers, a gthread: a sync worker is killed by its timeout in mid-task, and /ping starves for as long
as the task runs.
"""

import os

preload_app = False  # no client and no thread is made before the fork
max_requests = 0
timeout = 60  # liveness of the worker's main loop; under gthread it does not cut long requests
graceful_timeout = 18  # less than PID 1's budget, so that it can still tell of the tasks that were lost
keepalive = 75
limit_request_fields = 1000  # nginx bounds the bytes of all headers together
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - only files without a name
control_socket_disable = True
errorlog = "-"
accesslog = None
umask = 0  # of the socket; the folder that it is in lets nobody but nginx through
