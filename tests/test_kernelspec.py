"""The kernelspec that `kernel install` writes serves nbval, nbmake and JupyterLab with forked kernels."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import websocket
from asking import execute

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"), pytest.mark.timeout(200)]
SPEC = {"name": "mlops-nb-warm", "display_name": "warm", "language": "python"}
SOURCE = "import os, sys\nprint('decimal' in sys.modules, __name__, os.environ.get('COLOUR'))"
TOKEN = "of-this-test"


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable]:
    """Return what runs a module in a folder with the kernelspec installed for a user of its own, and leave no server."""
    variables = {**os.environ, "HOME": str(tmp_path), "COLOUR": "red", **{f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("DATA", "RUNTIME", "CONFIG")}}
    variables.pop("PYTEST_CURRENT_TEST", None)

    def run_module(*words: str) -> str:
        ended = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=150)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    run_module.variables = variables
    run_module("mlops_nb", "kernel", "install", "--user", "--imports", "decimal")
    yield run_module
    run_module("mlops_nb", "kernel", "stop", "--all")


def servers(run: Callable) -> list[dict]:
    """Return what `kernel list` says."""
    return json.loads(run("mlops_nb", "kernel", "list", "--json"))


def children(run: Callable, wanted: list[int]) -> list[int]:
    """Return the kernels of the only server, as soon as they are those that are wanted, or after 10 s."""
    ends_s = time.monotonic() + 10
    while (found := servers(run)[0]["children"]) != wanted and time.monotonic() < ends_s:
        time.sleep(0.2)
    return found


def write(path: Path, printed: str) -> None:
    """Write a notebook with the output that it should have."""
    outputs = [{"output_type": "stream", "name": "stdout", "text": printed}]
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": SOURCE, "outputs": outputs, "execution_count": 1}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": SPEC}, "cells": [cell]}))


@pytest.mark.parametrize("option", ["--nbval", "--nbmake"])
def test_notebooks_are_tested_in_forked_kernels(tmp_path, run, option):
    """nbval compares, and nbmake executes, in a kernel that holds the imports from its start and has the variables of its caller."""
    write(tmp_path / "a.ipynb", "True __main__ red\n")
    run("pytest", "-q", "-p", "no:cacheprovider", option, "a.ipynb")
    (server,) = servers(run)
    assert server["forked"] == 1 and "decimal" in server["imports"] and not server["children"]


def test_nbval_still_fails_where_the_output_differs(tmp_path, run):
    """It is the notebook's own output that is compared."""
    write(tmp_path / "a.ipynb", "False __main__ red\n")
    with pytest.raises(AssertionError, match="1 failed"):
        run("pytest", "-q", "-p", "no:cacheprovider", "--nbval", "a.ipynb")


@contextmanager
def lab(folder: Path, variables: dict[str, str]) -> Iterator[Callable]:
    """Start JupyterLab, and yield what asks its REST API."""
    words = ["-m", "jupyterlab", "--no-browser", "--allow-root", "--port=0", f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"]
    with open(folder / "lab.log", "wb") as log:
        process = subprocess.Popen([sys.executable, *words], cwd=folder, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        ends_s = time.monotonic() + 60
        while not (found := [file for file in (folder / "runtime").glob("jpserver-*.json") if file.read_text().rstrip().endswith("}")]):  # it is not written at once
            assert process.poll() is None and time.monotonic() < ends_s, (folder / "lab.log").read_text()
            time.sleep(0.1)
        url = json.loads(found[0].read_text())["url"]

        def ask(method: str, path: str, body: dict | None = None) -> dict | list | None:
            request = Request(f"{url}api/{path}", json.dumps(body).encode() if body is not None else None, {"Authorization": f"token {TOKEN}"}, method=method)
            text = urlopen(request, timeout=60).read()
            return json.loads(text) if text else None

        ask.url = url
        yield ask
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_jupyterlab_starts_interrupts_and_restarts_forked_kernels(tmp_path, run):
    """By the REST API and the websocket that JupyterLab's page uses: a kernel executes, is interrupted, restarted as a new fork, and gone when it is shut down."""
    with lab(tmp_path, run.variables) as ask:
        kernel = ask("POST", "kernels", {"name": SPEC["name"]})["id"]

        def connected() -> websocket.WebSocket:
            address = ask.url.replace("http", "ws", 1) + f"api/kernels/{kernel}/channels?token={TOKEN}"
            return websocket.create_connection(address, timeout=60)

        channels = connected()
        assert execute(channels, SOURCE) == ("True __main__ red\n", "ok")
        pid = int(execute(channels, "print(os.getpid())")[0])
        assert children(run, [pid]) == [pid]

        loop = "print('runs', flush=True)\nwhile True: pass"
        assert execute(channels, loop, lambda: ask("POST", f"kernels/{kernel}/interrupt"))[1] == "error"
        assert execute(channels, "print(1 + 1)") == ("2\n", "ok")

        ask("POST", f"kernels/{kernel}/restart")
        channels.close()
        channels = connected()
        new = int(execute(channels, "import os; print(os.getpid())")[0])
        assert new != pid and children(run, [new]) == [new] and servers(run)[0]["forked"] == 2
        channels.close()
        ask("DELETE", f"kernels/{kernel}")
        assert children(run, []) == []
