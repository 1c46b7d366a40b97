"""Warm servers of the tests are theirs alone, and end with them."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from making import short_folder

settings.register_profile("suite", deadline=None)  # how long an example takes proves nothing on a busy machine
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def private_servers() -> Iterator[None]:
    """Let servers be started in a folder of this session, and end them after it."""
    if sys.platform != "linux":
        yield
        return
    from mlops_nb.provision import servers, stop_server

    with short_folder() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place))
        yield
        for server in servers():
            stop_server(server["name"], all_kernels=True)
