"""Warm servers of the tests are theirs alone, and end with them."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let servers be started in a folder of this session, and end them after it."""
    if sys.platform != "linux":
        yield
        return
    from mlops_nb.provision import servers, stop_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield
        for server in servers():
            stop_server(server["name"], all_kernels=True)
