"""What an interrupted task had written to /output -> S3, apart from outputs: as much as there is time for."""

import os
from concurrent.futures import wait

from .folder import TaskFolder, open_writable
from .logs import logger
from .stage_out import entries_of, upload
from .storage import Storage
from .task import Task

FOLDER = "partial/"
SECONDS = 8.0
"""With the algorithm's usual grace it is well within the time that a stop has."""


def save_partial_outputs(task: Task, folder: TaskFolder, storage: Storage) -> int:
    """Upload the files of the output folder below `<prefix>/partial/`, and return how many came there in time.

    The container is about to end: nothing is raised, and the log says what is missing.
    """
    try:
        root = open_writable(folder.path)
        found, _ = entries_of(root)
    except OSError as error:
        logger.warning("What the interrupted task wrote can not be read: %s", error.strerror)
        return 0
    task = task.model_copy(update={"output_prefix": task.output_prefix + FOLDER})
    uploads = [storage.pool.submit(upload, task, folder, root, parts, storage) for parts in found]
    ended, late = wait(uploads, SECONDS)
    late = {transfer for transfer in late if not transfer.cancel()}
    saved = sum(1 for transfer in ended if not transfer.exception() and isinstance(transfer.result(), int))
    if not late:  # else one may open a file yet, and the number must not be another folder's by then
        os.close(root)
    if saved < len(found):
        logger.warning("Of %d files that the interrupted task wrote %d are saved", len(found), saved)
    return saved
