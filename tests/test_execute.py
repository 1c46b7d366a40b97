"""Every way in which a run can end: the status tells the truth, and the notebook on the disk is whole and valid."""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
import zmq
from making import command, gone, lives, until, write_notebook

import mlops_nb
from mlops_nb.errors import BadNotebook, CellFailed, RunKilled, RunTimedOut
from mlops_nb.kernel import Kernel
from mlops_nb.record import runs


def run(tmp_path: Path, *sources: str, **options):
    """Run a notebook of these cells."""
    return mlops_nb.run(write_notebook(tmp_path / "train.ipynb", *sources), **options)


def executed(tmp_path: Path):
    """Return the only run and its notebook, which must be valid."""
    [one] = runs(tmp_path)
    notebook = nbformat.read(one.notebook, as_version=4)
    nbformat.validate(notebook)
    return one, notebook


def statuses(notebook) -> list[str]:
    """Return what the metadata says of each code cell that the author wrote."""
    return [cell.metadata.papermill.status for cell in notebook.cells if cell.cell_type == "code"]


def test_a_notebook_that_runs(tmp_path):
    one = run(tmp_path, "print('first')", "6 * 7")
    found, notebook = executed(tmp_path)
    assert found == one and one.status == "succeeded"
    assert statuses(notebook) == ["completed", "completed"]
    assert notebook.cells[1].outputs[0].data["text/plain"] == "42"
    assert [cell["index"] for cell in one.record["cells"]] == [0, 1]
    assert all(cell["seconds"] > 0 for cell in one.record["cells"])


def test_a_quiet_cell_is_told_of(tmp_path):
    """Once a second, with the last line that it printed, which the next cell does not inherit."""
    told = []

    def hear(progress) -> None:
        told.append(progress)
        heard = [one.seconds for one in told if one.cell == 1 and one.line == "epoch 7"]
        if len(heard) >= 3 and heard[-1] - heard[0] >= 1:
            (tmp_path / "enough").touch()

    run(tmp_path, "import os, time; print('epoch', 7)\nfor _ in range(200):\n    if os.path.exists('enough'): break\n    time.sleep(0.05)", "time.sleep(1.5)", on_progress=hear)
    quiet = [progress.seconds for progress in told if progress.cell == 1 and progress.line == "epoch 7"]
    assert len(quiet) >= 3 and quiet[-1] - quiet[0] >= 1
    assert {progress.line for progress in told if progress.cell == 2} == {""}


def test_a_cell_that_raises(tmp_path):
    """The error shows the cell's source and a traceback without colours; the cells after it never ran."""
    with pytest.raises(CellFailed) as failure:
        run(tmp_path, "stars = [1]", "# the catalogue has one star\nstars[3]", "print('never')")
    text = str(failure.value)
    assert "train.ipynb: failed in cell 2: IndexError: list index out of range" in text
    assert "    # the catalogue has one star\n    stars[3]" in text
    assert "----> 2 stars[3]" in text and "\x1b" not in text
    one, notebook = executed(tmp_path)
    assert failure.value.run == one and one.status == "failed"
    assert statuses(notebook) == ["completed", "failed", "pending"]


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "killed", "SIGTERM"),
        ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV"),
        ("import os; os._exit(3)", "failed", "exited with code 3"),
        ("import os; os._exit(0)", "failed", "exited with code 0"),
    ],
)
def test_a_kernel_that_dies(tmp_path, source, status, said):
    """papermill marks every cell of such a notebook `completed`; here the cell that died says so, and why."""
    started = time.monotonic()
    with pytest.raises((RunKilled, CellFailed), match=said):
        run(tmp_path, "print('before')", f"print('last words', flush=True)\n{source}", "print('never')")
    assert time.monotonic() - started < 30
    one, notebook = executed(tmp_path)
    assert one.status == status and said in one.error
    assert statuses(notebook) == ["completed", "failed", "pending"]
    failed = [cell for cell in notebook.cells if cell.cell_type == "code"][1]
    assert failed.outputs[-1].output_type == "error" and said in failed.outputs[-1].evalue


def test_a_cell_that_takes_too_long(tmp_path):
    with pytest.raises(RunTimedOut, match="cell 2 took longer than 5 s"):
        run(tmp_path, "x = 1", "while True: pass", "print('never')", cell_timeout_s=5)
    one, notebook = executed(tmp_path)
    assert one.status == "timed-out" and statuses(notebook) == ["completed", "failed", "pending"]
    assert one.seconds < 20


def test_a_run_that_takes_too_long(tmp_path):
    with pytest.raises(RunTimedOut, match="the run took longer than 2 s"):
        run(tmp_path, *["import time; time.sleep(0.9)"] * 10, timeout_s=2)
    one, notebook = executed(tmp_path)
    assert one.status == "timed-out" and statuses(notebook)[-1] == "pending"


def test_a_cell_that_does_not_listen(tmp_path):
    """A cell that catches the interrupt is killed; the status is still why it was stopped."""
    deaf = "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass"
    with pytest.raises(RunTimedOut):
        run(tmp_path, deaf, cell_timeout_s=0.5)
    one, _ = executed(tmp_path)
    assert one.status == "timed-out" and one.seconds < 20


def test_a_kernel_that_does_not_answer(tmp_path, monkeypatch):
    """IPython fails before a cell where `sys.stdout` is None, and its kernel never says how that cell ended: the run does, and ends."""
    monkeypatch.setenv("MLOPS_NB_WARM", "off")
    monkeypatch.setattr("mlops_nb.execute.ANSWER_S", 5.0)
    with pytest.raises(CellFailed, match="in cell 2: the kernel has ended the cell and does not say how. Did a cell above replace sys.stdout"):
        run(tmp_path, "import sys; sys.stdout = None", "1 + 1", "print('never')", timeout_s=60)
    one, notebook = executed(tmp_path)
    assert one.status == "failed" and statuses(notebook) == ["completed", "failed", "pending"]


def test_a_kernel_that_does_not_start(tmp_path, monkeypatch):
    """A kernel that dies at once is an error in seconds, not a wait of a minute."""
    spec = tmp_path / "jupyter" / "kernels" / "broken" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": [sys.executable, "-c", "raise SystemExit(7)"], "display_name": "broken", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    started = time.monotonic()
    with pytest.raises(CellFailed, match="did not start: the kernel exited with code 7"):
        run(tmp_path / "project", "1", kernel="broken")
    assert time.monotonic() - started < 20
    one, _ = executed(tmp_path / "project")
    assert one.status == "failed"


def test_a_kernel_that_is_not_installed(tmp_path):
    """Refused, and nothing is left of the attempt."""
    with pytest.raises(BadNotebook, match="Did you mean 'python3'"):
        run(tmp_path, "1", kernel="pyhton3")
    assert not runs(tmp_path)
    assert not [path for path in (tmp_path / "runs").iterdir() if path.is_dir() and path.name[:2] == "20"]


def test_an_early_end_that_is_no_failure(tmp_path):
    """`sys.exit(0)` ends a notebook early and well, as under papermill; another code is a failure."""
    assert run(tmp_path, "import sys; sys.exit(0)", "print('never')").status == "succeeded"
    with pytest.raises(CellFailed, match="SystemExit"):
        run(tmp_path, "import sys; sys.exit(2)")


def test_an_error_that_the_author_expects(tmp_path):
    """The tag `raises-exception` lets a cell raise, as in nbclient, nbval and nbmake."""
    path = write_notebook(tmp_path / "train.ipynb", "1 / 0", "print('goes on')")
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["metadata"]["tags"] = ["raises-exception"]
    path.write_text(json.dumps(notebook))
    assert mlops_nb.run(path).status == "succeeded"
    _, notebook = executed(tmp_path)
    assert statuses(notebook) == ["completed", "completed"] and len(notebook.cells) == 2


def test_output_in_pieces_is_joined(tmp_path):
    """A hundred prints with flushes are one output, as in JupyterLab, and a figure between two texts stays between them."""
    run(tmp_path, "for i in range(100): print(i, flush=True)", "print('a'); display(1); print('b')")
    _, notebook = executed(tmp_path)
    assert len(notebook.cells[0].outputs) == 1 and notebook.cells[0].outputs[0].text == "".join(f"{i}\n" for i in range(100))
    assert [output.output_type for output in notebook.cells[1].outputs] == ["stream", "display_data", "stream"]


def test_hash_order_is_the_same_each_time(tmp_path):
    """Sets of texts are ordered alike in every run, unless PYTHONHASHSEED says otherwise."""
    source = "from mlops_nb import glue\nglue('order', list({'Cep', 'RRLyr', 'LPV', 'DSCT', 'T2Cep', 'DPV'}))"
    first, second = run(tmp_path, source), run(tmp_path, source)
    assert first.id != second.id and first.results == second.results


def test_it_runs_where_the_notebook_lies(tmp_path):
    """A notebook without declared files works in its own folder and can import what lies beside it, as in JupyterLab."""
    folder = tmp_path / "analysis"
    path = write_notebook(folder / "look.ipynb", "import beside, os\nassert beside.VALUE == 7\nprint(os.getcwd())")
    (folder / "beside.py").write_text("VALUE = 7\n")
    one = mlops_nb.run(path)
    assert Path(nbformat.read(one.notebook, 4).cells[0].outputs[0].text.strip()) == folder


def test_from_a_running_event_loop(tmp_path):
    """`run` works inside a notebook, where an event loop runs already."""
    import asyncio

    async def inside():
        return run(tmp_path, "print(1)")

    assert asyncio.run(inside()).status == "succeeded"


def start(tmp_path: Path, *words: str, **variables: str) -> subprocess.Popen:
    """Start `mlops-nb run` in a session of its own, as a terminal does."""
    return subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "run", *words], cwd=tmp_path, env={**os.environ, **variables}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def wait_for(tmp_path: Path, name: str) -> None:
    """Wait until a cell has written a file."""
    until((tmp_path / name).exists)


LOOP = "import os, pathlib\npathlib.Path('pid.new').write_text(str(os.getpid()))\nos.rename('pid.new', 'pid')\nprint('working', flush=True)\nwhile True: pass"


def kernel_is_gone(tmp_path: Path) -> bool:
    """Say whether the kernel whose number was written down ends."""
    return gone(int((tmp_path / "pid").read_text()))


def test_ctrl_c_before_the_first_cell(tmp_path, monkeypatch):
    """Between the first record and the start of the kernel, too, a run is interrupted and not lost."""

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_nb.step._drop_racy_bytecode", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "1")
    [one] = runs(tmp_path)
    assert one.status == "interrupted" and one.error == "interrupted by Ctrl-C" and one.record["ended"]


def test_ctrl_c_after_the_end_was_written(tmp_path, monkeypatch):
    """What the record says of a run that has ended stays: its outputs are laid out, and the next one is found by it."""

    @contextmanager
    def interrupted(folder):
        yield
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops_nb.step.giving_signs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "1")
    [one] = runs(tmp_path)
    assert one.status == "succeeded" and one.notebook.exists()


@pytest.mark.parametrize(("number", "status", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "killed", 1)])
def test_ctrl_c_and_a_request_to_end(tmp_path, number, status, code):
    write_notebook(tmp_path / "train.ipynb", "print('before')", LOOP, "print('never')")
    process = start(tmp_path, "train.ipynb")
    wait_for(tmp_path, "pid")
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback (most recent call last):\n  File" not in said
    one, notebook = executed(tmp_path)
    assert one.status == status and statuses(notebook) == ["completed", "failed", "pending"]
    assert kernel_is_gone(tmp_path)


def test_ctrl_c_from_python(tmp_path):
    """In Python the interrupt is an error with the record, as every other end is."""
    path = write_notebook(tmp_path / "train.ipynb", LOOP)
    program = (
        "import os, signal, threading, time, pathlib, mlops_nb\n"
        "def press():\n    while not pathlib.Path('pid').exists(): time.sleep(0.05)\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread(target=press, daemon=True).start()\n"
        f"try: mlops_nb.run({str(path)!r})\n"
        "except mlops_nb.errors.RunInterrupted as error: print(error.run.status)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "interrupted", done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "killed")])
def test_told_to_end_before_the_first_cell(tmp_path, number, status):
    """While the kernel starts, too, the status is true and a notebook is kept."""
    write_notebook(tmp_path / "train.ipynb", "print('never')")
    (tmp_path / "sitecustomize.py").write_text("import os, time\nif 'MLOPS_NB_RUN' in os.environ:\n    open(os.environ['STARTED'], 'w').close()\n    time.sleep(30)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "run", "train.ipynb"], cwd=tmp_path, text=True, stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "STARTED": str(tmp_path / "started")},
    )  # fmt: skip
    wait_for(tmp_path, "started")
    time.sleep(1.5)
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    one, notebook = executed(tmp_path)
    assert one.status == status and statuses(notebook) == ["pending"]


def test_output_that_a_widget_takes(tmp_path):
    """A stream that goes into an Output widget is no failure."""
    assert run(tmp_path, "import ipywidgets\nout = ipywidgets.Output()\ndisplay(out)\nwith out: print('inside')\nprint('after')").status == "succeeded"


def test_an_answer_that_comes_while_something_is_sent(tmp_path):
    """ZeroMQ tells of a message once, and who sends at that moment takes this away from the event loop: the answer is found all the same."""

    async def ask() -> bool:
        kernel = Kernel("python3", tmp_path, os.environ)
        try:
            await kernel.start()
            await kernel.connect(60)
            channel = kernel.client.shell_channel
            waits = asyncio.ensure_future(channel.get_msg())
            await asyncio.sleep(0.1)
            kernel.client.execute("1")
            assert select.select([channel.socket.FD], [], [], 30)[0]
            zmq.Socket.shadow(channel.socket.underlying).getsockopt(zmq.EVENTS)  # as each send does
            return (await asyncio.wait_for(waits, 5))["content"]["status"] == "ok"
        finally:
            await kernel.close()

    assert asyncio.run(ask())


def test_the_process_that_runs_it_is_killed(tmp_path):
    """After `kill -9` of the runner the next look says `lost`; the notebook is as far as it came, and the kernel ends by itself."""
    write_notebook(tmp_path / "train.ipynb", "print('before')", LOOP)
    process = start(tmp_path, "train.ipynb")
    wait_for(tmp_path, "pid")
    [saved] = (tmp_path / "runs").glob("*/train.ipynb")
    until(lambda: nbformat.read(saved, as_version=4).cells[1].outputs)
    assert [one.status for one in runs(tmp_path)] == ["running"]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    one, notebook = executed(tmp_path)
    assert one.status == "lost" and one.record["status"] == "lost"
    assert statuses(notebook) == ["completed", "running"]
    assert notebook.cells[1].outputs[0].text == "working\n"
    assert kernel_is_gone(tmp_path)


def test_the_journal(tmp_path):
    """After `kill -9` of the runner the notebook is made whole up to the last cell that ended, with updates of earlier outputs and without secrets. A run that ends has no journal."""
    write_notebook(
        tmp_path / "train.ipynb",
        "import os\nfrom IPython.display import display\nshown = display('first', display_id=True)",
        "print('token', os.environ['TOKEN'])",
        "shown.update('second')",
        LOOP,
        parameters="token = Secret('TOKEN')",
    )
    process = start(tmp_path, "train.ipynb", TOKEN="correct horse battery")
    wait_for(tmp_path, "pid")
    [journal] = (tmp_path / "runs").glob("*/.train.ipynb.journal")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    written = journal.read_bytes()
    journal.write_bytes(written + b'{"index": 3, "outp')  # cut off
    one, notebook = executed(tmp_path)
    assert one.status == "lost" and not journal.exists() and b"correct horse" not in written
    assert statuses(notebook) == ["completed"] * 5 + ["running"]
    assert notebook.cells[2].outputs[0].data["text/plain"] == "'second'" and notebook.cells[3].outputs[0].text == "token ***\n"
    *ended, last = [cell.execution_count for cell in notebook.cells]
    assert ended == [1, 2, 3, 4, 5] and last in (None, 6), "the notebook may have been saved while the last cell ran"


def test_a_held_kernel(tmp_path):
    """`--hold` keeps the kernel of a run that failed: a client attaches and sees the variables. A run that succeeds holds none."""
    write_notebook(tmp_path / "train.ipynb", "stars = 399679\nimport os\nopen('pid', 'w').write(str(os.getpid()))", "1 / 0")
    done = command("run", "train.ipynb", "--hold", cwd=tmp_path)
    assert done.returncode == 1 and "jupyter console --existing " in done.stderr and "never retrieved" not in done.stderr, done.stderr
    connection = done.stderr.partition("--existing ")[2].split()[0]
    pid = int((tmp_path / "pid").read_text())
    try:
        from jupyter_client import BlockingKernelClient

        client = BlockingKernelClient(connection_file=connection)
        client.load_connection_file()
        client.start_channels()
        client.wait_for_ready(timeout=30)
        answer = client.execute_interactive("print(stars)", timeout=30, output_hook=lambda message: None)
        assert answer["content"]["status"] == "ok"
        client.shell_channel.send(client.session.msg("shutdown_request", {"restart": False}))  # on the control channel, ipykernel hangs in one of ten ends
        client.stop_channels()
        assert kernel_is_gone(tmp_path)
    finally:
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)

    write_notebook(tmp_path / "train.ipynb", "import os\nopen('pid', 'w').write(str(os.getpid()))")
    assert "--existing" not in command("run", "train.ipynb", "--hold", cwd=tmp_path).stderr
    assert kernel_is_gone(tmp_path)


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    """No kernel, no socket and no temporary folder outlive a run, however it ends."""
    (tmp_path / "t").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    run(tmp_path, "print(1)")
    with pytest.raises(CellFailed):
        run(tmp_path, "1 / 0")
    with pytest.raises(RunKilled):
        run(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert {child.pid for child in psutil.Process().children(recursive=True) if lives(child.pid)} <= before
    assert not list((tmp_path / "t").iterdir())


def test_sockets_not_ports(tmp_path, monkeypatch):
    """A kernel's messages go over Unix sockets in a folder that only this user can enter. (ipykernel opens one port on loopback by itself, for what forked children print.)"""
    source = (
        "import json, os\nfrom ipykernel.connect import get_connection_file\n"
        "info = json.load(open(get_connection_file()))\nassert info['transport'] == 'ipc'\n"
        "assert os.stat(os.path.dirname(info['ip'])).st_mode & 0o077 == 0"
    )
    monkeypatch.setenv("MLOPS_NB_WARM", "off")
    assert run(tmp_path, source).status == "succeeded"
