"""The set-up as one function: what it returns when its result can't be stored."""

import pytest

from model_server.cancellation import Cancellation
from model_server.errors import SetupResultNotStored, StorageUnavailable
from model_server.s3_faults import ObjectForbidden
from model_server.set_up import set_up
from model_server.settings import Settings
from model_server.storage import Storage


@pytest.mark.parametrize("fault", [StorageUnavailable(), ObjectForbidden(), RuntimeError("nobody thought of it")])
def test_whatever_keeps_the_result_from_being_stored_is_why_no_task_can_run(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(Storage, "put_bytes", fail)
    settings = Settings.from_env({"MODEL_SERVER_SETUP_RESULT_BUCKET": "b", "MODEL_SERVER_SETUP_RESULT_PREFIX": "p"})
    error, is_stored = set_up(settings, Storage(None, 1), None, Cancellation(), [])
    assert isinstance(error, SetupResultNotStored)
    assert not is_stored
