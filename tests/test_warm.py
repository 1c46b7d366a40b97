"""The life of warm servers: who shares one, when it ends, and when a kernel is cold instead."""

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from making import gone, lives, short_folder, until

from mlops_nb.provision import Cold, Forked, Warmth, ended, fork, imports_of, runtime_folder, servers, stop_server

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"), pytest.mark.timeout(120)]

ENTRY = """
import json, os, sys, time

def serve(payload, descriptors):
    exec(payload["code"], {})

def prepare(payload):
    global state
    import helper
    state = helper.x + payload

def tell(payload, descriptors):
    print(state)
"""


@pytest.fixture(autouse=True)
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "work").mkdir()
    (tmp_path / "entry.py").write_text(ENTRY)
    with short_folder() as place:
        monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(place))
        yield
        if not (place / "mlops-nb").is_symlink():
            for server in servers():
                stop_server(server["name"], all_kernels=True)


def forked(tmp_path: Path, code: str = "", imports: tuple[str, ...] = ("json",), python: str = sys.executable, stdout: int = 1, **variables: str) -> Forked:
    environment = {**os.environ, **variables}
    warmth = Warmth(python, environment, imports, idle_s=30)
    entry = {"file": str(tmp_path / "entry.py"), "function": "serve", "payload": {"code": code}}
    return fork(warmth, entry, tmp_path / "work", ["x"], environment, stdio=(0, stdout, 2))


def said(tmp_path: Path, code: str, **options) -> str:
    read, write = os.pipe()
    child = forked(tmp_path, code, stdout=write, **options)
    os.close(write)
    with open(read) as file:
        text = file.read()
    assert child.wait(30) == 0
    child.close()
    return text.strip()


def prepared(tmp_path: Path) -> Warmth:
    """Return what a server holds that imports the module `helper` of the folder."""
    prepare = {"file": str(tmp_path / "entry.py"), "function": "prepare", "payload": 10}
    return Warmth(sys.executable, {**os.environ, "PYTHONPATH": str(tmp_path)}, ("json",), prepare=prepare, folder=tmp_path, argv=("x",))


def forked_late(tmp_path: Path, code: str = "", **options) -> Forked:
    """Fork from a server whose import has `begun`, and ends when there is a file `go`."""
    (tmp_path / "helper.py").write_text(f"import os, time\nx = 1\nopen({str(tmp_path / 'begun')!r}, 'w').close()\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n")
    warmth, entry = prepared(tmp_path), {"file": str(tmp_path / "entry.py"), "function": "serve", "payload": {"code": code}}
    return fork(warmth, entry, tmp_path, ["x"], warmth.environment, **options)


def stands_still(pid: int) -> bool:
    """Say whether a process was stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def test_one_server_for_equal_wishes_and_others_for_others(tmp_path):
    """Kernels of one environment and one set of imports come from one server; another variable makes another server, one of a single call does not."""
    for variables in ({}, {"JPY_SESSION_NAME": "a.ipynb", "PYTHONPATH": "x"}, {"OMP_NUM_THREADS": "1"}):
        forked(tmp_path, **variables).wait(30)
    assert sorted(server["forked"] for server in servers()) == [1, 2]


def test_two_who_start_at_once_start_one_server(tmp_path):
    """Eight clients at the same moment start a single server."""
    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(lambda _: forked(tmp_path).wait(30), range(8)))
    assert codes == [0] * 8 and [server["forked"] for server in servers()] == [8]


def test_who_was_stopped_while_it_started_a_server_stops_nobody(tmp_path, monkeypatch):
    """A process that holds the lock and stands still is waited for as long as a start may take; then kernels are cold. A server ends all the same."""
    monkeypatch.setattr("mlops_nb.provision.LOCK_S", 0.3)
    child = forked(tmp_path)
    (server,) = servers()
    held = (runtime_folder() / "lock").open("a")
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(Cold, match="another process has been starting its server"):
        forked(tmp_path, imports=("decimal",))
    stop_server(server["name"])
    assert child.wait(30) == 0 and gone(server["pid"])
    held.close()
    assert said(tmp_path, "print(1)", imports=("decimal",)) == "1"


def test_a_child_can_be_ended_although_its_server_was_stopped(tmp_path):
    """It hears signals and is killed at once; who asks the server for another one is told, and not kept waiting; and `stop_server` ends the server."""
    child, (server,) = forked(tmp_path, "time = __import__('time'); time.sleep(60)"), servers()
    os.kill(server["pid"], signal.SIGSTOP)
    until(lambda: stands_still(server["pid"]))
    began = time.monotonic()
    with pytest.raises(Cold, match=f"its server, the process {server['pid']}, was stopped"):
        forked(tmp_path)
    child.kill()
    assert child.wait(60) == -9 and asyncio.run(ended(child)) == -9 and time.monotonic() - began < 10
    assert [one["cold"] for one in servers()] == ["it was stopped"]
    assert stop_server(server["name"]) and gone(server["pid"])
    assert forked(tmp_path).wait(30) == 0


def test_a_child_knows_its_server_also_while_that_begins(tmp_path):
    """Who asks while the server still imports, in another process than the one that will fork, is told which one is the parent of the child."""
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(forked_late, tmp_path)]
        until((tmp_path / "begun").exists)
        futures.append(pool.submit(forked_late, tmp_path))
        time.sleep(0.5)
        (tmp_path / "go").touch()
        children = [future.result() for future in futures]
    (server,) = servers()
    assert [child.server for child in children] == [server["pid"]] * 2 and [child.wait(30) for child in children] == [0, 0]


def test_more_clients_than_a_stopped_server_holds(tmp_path):
    """Each is told at once, and the server can be ended all the same."""
    forked(tmp_path).wait(30)
    (server,) = servers()
    os.kill(server["pid"], signal.SIGSTOP)
    until(lambda: stands_still(server["pid"]))
    for _ in range(140):
        with pytest.raises(Cold, match="was stopped|too many wait"):
            forked(tmp_path)
    assert [one["cold"] for one in servers()] == ["it was stopped"]
    assert stop_server(server["name"]) and gone(server["pid"])


def test_a_child_of_a_process_with_many_open_files(tmp_path):
    """Descriptors above 1,023 are no reason not to see how a child ends."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < 2000:
        pytest.skip(f"NOT TESTED: more than 1,023 open files, since {before[1]} are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], 2000), before[1]))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(open(os.devnull))
            child = forked(tmp_path, "__import__('os')._exit(3)")
            assert child.fileno() > 1023 and child.wait(30) == 3
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_server_that_is_busy_is_waited_for(tmp_path, monkeypatch):
    """It says late how its child ended, and is believed; that is not taken for the end by a signal."""
    code = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\nos._exit(3)"
    child, (server,) = forked(tmp_path, code), servers()
    monkeypatch.setattr("mlops_nb.provision._is_stopped", lambda pid: False)  # as one that is busy looks
    os.kill(server["pid"], signal.SIGSTOP)
    until(lambda: stands_still(server["pid"]))
    (tmp_path / "go").touch()
    timer = threading.Timer(3, os.kill, (server["pid"], signal.SIGCONT))
    timer.start()
    assert child.wait(60) == 3
    timer.join()


def test_it_is_private(tmp_path):
    """The folder and the socket are for this user alone, and a folder that others can open is refused."""
    forked(tmp_path).wait(30)
    folder = runtime_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o077 for file in folder.iterdir() if file.suffix in (".sock", "")} == {0} or (folder / "key").stat().st_mode & 0o077 == 0
    folder.chmod(0o750)
    with pytest.raises(Cold, match="alone"):
        forked(tmp_path)
    folder.chmod(0o700)
    for server in servers():
        stop_server(server["name"])
    shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "work")
    with pytest.raises(Cold, match="alone"):
        forked(tmp_path)


def test_nobody_uses_what_belongs_to_another(tmp_path, monkeypatch):
    """A folder of another user is refused, and a server hears its own user alone, also where the socket can be reached."""
    if os.getuid():
        pytest.skip("NOT TESTED: two users, since only root can be both")
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    place.chmod(0o755)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(place))
    forked(tmp_path).wait(30)
    folder, (server,) = runtime_folder(), servers()
    assert folder.parent == place

    def as_another(code: str) -> str:
        setting = f"import os, sys\nsys.path[:] = {sys.path!r}\nimport jupyter_core.paths, mlops_nb.provision as p, mlops_nb.warm as w\n"
        done = subprocess.run([sys.executable, "-c", setting + f"os.setgroups([]); os.setgid(65534); os.setuid(65534)\n{code}"], capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    assert "is not a folder that this user alone can open" in as_another("try: p.runtime_folder()\nexcept w.Cold as why: print(why)")
    ask = f"import pathlib\nprint('answer', p._ask(pathlib.Path({str(folder)!r}) / '{server['name']}.sock', {{'status': True}}))"
    assert "answer None" in as_another(ask)
    folder.chmod(0o711)
    (folder / f"{server['name']}.sock").chmod(0o666)
    assert "answer None" in as_another(ask), "the server looks at who asks"
    folder.chmod(0o700)
    assert [one["pid"] for one in servers()] == [server["pid"]]
    stop_server(server["name"])
    shutil.rmtree(place)


def test_it_ends_when_nobody_comes(tmp_path):
    """A server that nobody asks for longer than `idle_s` ends and leaves no socket; the next kernel gets a new one."""
    warmth = Warmth(sys.executable, dict(os.environ), ("json",), idle_s=0.5)
    entry = {"file": str(tmp_path / "entry.py"), "function": "serve", "payload": {"code": "__import__('time').sleep(60)"}}
    child = fork(warmth, entry, tmp_path, ["x"], dict(os.environ))
    pid = servers()[0]["pid"]
    child.kill()
    assert child.wait(30) == -9 and gone(pid) and not list(runtime_folder().glob("*.sock"))
    assert fork(warmth, {**entry, "payload": {"code": ""}}, tmp_path, ["x"], dict(os.environ)).wait(30) == 0


def test_a_changed_package_restarts_it(tmp_path):
    """When a distribution is installed, removed or changed, the next kernel comes from a new server with the new code."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "thing.py").write_text("x = 1\n")
    (site / "thing-1.dist-info").mkdir()
    show = "import thing; print(thing.x)"
    assert said(tmp_path, show, imports=("thing",), python=python) == "1"
    first = servers()[0]["pid"]
    assert said(tmp_path, show, imports=("thing",), python=python) == "1" and servers()[0]["pid"] == first
    (site / "thing.py").write_text("x = 22\n")
    assert said(tmp_path, show, imports=("thing",), python=python) == "22" and gone(first)
    second = servers()[0]["pid"]
    (site / "other-1.dist-info").mkdir()
    assert said(tmp_path, show, imports=("thing",), python=python) == "22" and gone(second)


def test_code_of_the_project_is_never_held(tmp_path):
    """A module beside the notebook is imported by each kernel anew; one that hides an installed module makes the kernel cold."""
    (tmp_path / "work" / "mine.py").write_text("x = 1\n")
    show = "import sys; sys.path.insert(0, ''); import mine; print(mine.x)"
    assert said(tmp_path, show, imports=("json", "mine"), PYTHONPATH=str(tmp_path / "work")) == "1"
    (tmp_path / "work" / "mine.py").write_text("x = 22\n")
    assert said(tmp_path, show, imports=("json", "mine"), PYTHONPATH=str(tmp_path / "work")) == "22"
    (tmp_path / "work" / "json.py").write_text("x = 'not the one'\n")
    with pytest.raises(Cold, match=r"json\.py comes before"):
        forked(tmp_path)
    (tmp_path / "work" / "json.py").rename(tmp_path / "json.py")
    with pytest.raises(Cold, match=r"json\.py comes before"):
        forked(tmp_path, PYTHONPATH=str(tmp_path))


def test_prepared_local_code_is_looked_at_before_each_fork(tmp_path):
    """Where a server has executed local code, a change of it makes another server execute it again."""
    warmth = prepared(tmp_path)

    def tell() -> str:
        read, write = os.pipe()
        child = fork(warmth, {"file": str(tmp_path / "entry.py"), "function": "tell", "payload": None}, tmp_path, ["x"], warmth.environment, stdio=(0, write, 2))
        os.close(write)
        with open(read) as file:
            assert child.wait(30) == 0
            return file.read().strip()

    (tmp_path / "helper.py").write_text("x = 1\n")
    assert tell() == tell() == "11"
    (tmp_path / "helper.py").write_text("x = 22\n")
    assert tell() == "32"


def test_kill_9_of_any_of_the_three(tmp_path):
    """A killed child is known at once; a killed client takes its child along; a killed server takes its children along, and the next client starts another."""
    child = forked(tmp_path, "time = __import__('time'); time.sleep(60)")
    os.kill(child.pid, signal.SIGKILL)
    began = time.monotonic()
    assert child.wait(60) == -9 and time.monotonic() - began < 5

    child = forked(tmp_path, "__import__('time').sleep(60)")
    child.close()
    assert gone(child.pid)

    child = forked(tmp_path, f"import subprocess, time; open({str(tmp_path / 'more')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); time.sleep(60)")
    until(lambda: (tmp_path / "more").exists() and (tmp_path / "more").read_text())
    os.kill(servers()[0]["pid"], signal.SIGKILL)
    assert child.wait(60) == -9 and gone(child.pid) and gone(int((tmp_path / "more").read_text())), "and what it had started"
    assert forked(tmp_path).wait(30) == 0


def test_a_client_that_goes_takes_nothing_from_the_next_one(tmp_path):
    """While a child dies whose client has gone, another client comes, and may get the number that the connection of the first one had. It is told of its own child alone."""
    for turn in range(10):
        large = tmp_path / f"large-{turn}"  # a process whose memory has to be given back takes a while to end
        first = forked(tmp_path, f"import time; large = b'x' * (1 << 30); open({str(large)!r}, 'w').close(); time.sleep(60)")
        until(large.exists)
        first.connection.close()
        second = forked(tmp_path, "import os, time; time.sleep(1); os._exit(3)")
        was_dying = lives(first.pid)
        assert second.wait(30) == 3 and gone(first.pid) and not servers()[0]["children"]
        if was_dying:
            return
    raise AssertionError("no other client came while the child was dying")


def test_nothing_is_left_for_a_client_that_did_not_wait(tmp_path):
    """No child is forked for a client which has gone meanwhile."""
    with pytest.raises(Cold, match="not ready in time"):
        forked_late(tmp_path, "__import__('time').sleep(60)", wait_s=0.5)
    (tmp_path / "go").touch()
    (server,) = servers()  # it answers in the order in which it was asked
    assert server["forked"] == 0 and not server["children"]


def test_a_kept_child_outlives_its_client(tmp_path):
    """A child that is kept lives on when its client has gone, and its server with it."""
    child = forked(tmp_path, "__import__('time').sleep(60)")
    child.keep()
    child.close()
    time.sleep(0.3)
    assert lives(child.pid) and servers()[0]["children"] == [child.pid]


@pytest.mark.parametrize(
    ("source", "reason"),
    [("1 / 0", "fails"), ("print('hello')", "prints"), ("import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()", "thread"), ("import os; os._exit(1)", "ended")],
)
def test_an_import_that_cannot_be_shared(tmp_path, source, reason, caplog):
    """An import that fails, prints or starts a thread is left to the notebook; one that ends the process makes kernels cold. Both say why."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    (site / "odd.py").write_text(source + "\n")
    options = {"imports": ("json", "odd"), "python": str(tmp_path / "venv" / "bin" / "python")}
    if reason != "ended":
        assert said(tmp_path, "import sys; print('odd' in sys.modules)", **options) == "False"
        assert reason in caplog.text and "left to the notebooks" in caplog.text
    else:
        with pytest.raises(Cold, match=reason):
            forked(tmp_path, **options)


def test_what_is_read_from_a_notebook(tmp_path):
    """Reading imports stops where the environment is changed, in local modules, too, and goes on after what is harmless."""
    (tmp_path / "mine.py").write_text("import os\nfrom csv import reader\nos.environ['OMP_NUM_THREADS'] = '1'\nimport zlib\n")
    (tmp_path / "other.py").write_text("def set_up():\n    import os\n    os.environ['X'] = '1'\n")
    assert imports_of(["import math", "import mine", "import bz2"], [tmp_path]) == ("math", "os", "csv", "csv.reader?")
    assert imports_of(["import other", "import math", "other.set_up()", "import bz2"], [tmp_path]) == ("math",)
    assert imports_of(["%env X=1", "import math"]) == ()
    assert imports_of(["import sys\nsys.path.insert(0, 'src')\nimport math"]) == ("sys",)
    assert imports_of(["import os\nx = os.environ.get('X')\nprint(os.environ['HOME'])\nimport math"]) == ("os", "math")
    assert imports_of(["import math", "this is no Python", "import zlib"]) == ("math",)


def test_plain_papermill_forks_by_the_kernelspec(tmp_path):
    """`kernel install` writes a kernelspec by which plain papermill gets forked kernels; `kernel list` shows the server, `kernel stop` ends it."""
    variables = {**os.environ, "JUPYTER_DATA_DIR": str(tmp_path / "data"), "HOME": str(tmp_path)}

    def run(*words: str) -> str:
        ended = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=100)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    run("mlops_nb", "kernel", "install", "--user", "--imports", "csv")
    spec = {"name": "mlops-nb-warm", "display_name": "warm", "language": "python"}
    cell = {"cell_type": "code", "metadata": {}, "source": "import sys\nprint('csv' in sys.modules, __name__)", "outputs": [], "execution_count": None}
    (tmp_path / "a.ipynb").write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": {"kernelspec": spec}, "cells": [cell]}))
    run("papermill", "a.ipynb", "b.ipynb", "--no-progress-bar")
    assert json.loads((tmp_path / "b.ipynb").read_text())["cells"][0]["outputs"][0]["text"] == ["True __main__\n"]
    (server,) = json.loads(run("mlops_nb", "kernel", "list", "--json"))
    assert server["forked"] == 1 and "csv" in server["imports"] and not server["children"]
    assert run("mlops_nb", "kernel", "stop").startswith("ended 1 server")
    assert gone(server["pid"])
    run("mlops_nb", "kernel", "uninstall")
