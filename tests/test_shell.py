"""Cells executed in a forked shell: the executed notebook is the one that a kernel makes, and the process ends as a kernel does."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from making import PYTHON, cell, write_notebook

import mlops_nb
from mlops_nb.errors import CellFailed, RunKilled
from mlops_nb.execute import execute
from mlops_nb.record import runs
from mlops_nb.template import read_template

linux = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")
pytestmark = [linux, pytest.mark.timeout(300)] if hasattr(pytest.mark, "timeout") else [linux]

FAILS = ["raises-exception"]
NASTY = (
    "import sys, os, time, asyncio, threading, subprocess, warnings\nfrom IPython.display import display, clear_output, HTML\nprint('a'); print('b', file=sys.stderr)\n1",
    "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nplt.scatter([1], [2])",
    "In[1][:10], Out",
    "await asyncio.sleep(0.01)\nasync def f():\n    print('async'); return 3\nawait f()",
    "h = display('one', display_id='x')\nh.update('two')",
    "h.update(HTML('<b>three</b>'))",
    "for i in range(3):\n    clear_output(wait=True); print(i)",
    "print('gone'); clear_output(); print('stays')",
    "!echo bang; exit 3",
    "_exit_code",
    "def w():\n    for i in range(3): print('thread', i)\nt = threading.Thread(target=w); t.start(); t.join()",
    "pid = os.fork()\nif pid == 0:\n    print('forked', flush=True); os._exit(0)\nos.waitpid(pid, 0)[1], time.sleep(1)",
    "pid = os.fork()\nif pid == 0:\n    print('y' * 300_000, flush=True); os._exit(0)\nos.waitpid(pid, 0)[1], time.sleep(1)",
    "import multiprocessing as mp\ndef g(x):\n    return x * x\nwith mp.get_context('fork').Pool(1) as pool: print(pool.map(g, range(3)))",
    "warnings.warn('careful')",
    "import logging; logging.warning('logged')",
    ("input('?')", FAILS),
    ("import getpass; getpass.getpass()", FAILS),
    ("def f(x):\n    return g2(x)\ndef g2(x):\n    return undefined_name\nf(1)", FAILS),
    ("if True\n  x", FAILS),
    "%%capture out\nprint('captured')",
    "out.stdout, _",
    "%%bash\necho in bash; echo err >&2",
    "f?",
    "import ipywidgets as wd\ns = wd.IntSlider(3); s",
    "o = wd.Output(); display(o)\nwith o: print('inside')\nprint('outside')",
    "s.value = 9",
    "import pandas as pd; pd.DataFrame({'a': [1, 2]})",
    ("class R:\n    def _repr_html_(self): raise ValueError('no repr')\nR()", FAILS),
    "print('no newline', end='')\nsys.stdout.write('\\rover')\nNone",
    "print('x' * 200_000)",
    "sys.stdout.isatty(), sys.stdout.encoding, type(sys.stdout), sys.stdout.name",
    "os.path.basename(sys.argv[0]), sys.argv[1], sys.argv[3:], '' in sys.path, __name__, __doc__, '__file__' in globals()",
    "sys.modules['__main__'].__dict__ is globals(), type(get_ipython()), type(get_ipython().kernel)",
    "print(sys.stdin.name, os.environ.get('TERM'), os.environ.get('MPLBACKEND'), 'JPY_PARENT_PID' in os.environ)",
    "from tqdm.auto import tqdm; tqdm.__module__",
    "go = threading.Event()\ndef later():\n    go.wait(); print('late')\nlate = threading.Thread(target=later); late.start()",
    "go.set(); late.join(); print('next')",
    "get_ipython().events.register('post_run_cell', lambda r: print('hook', r.success))",
    "import signal; signal.getsignal(signal.SIGINT)",
    "'last'",
)


def notebook_of(path: Path, *cells) -> Path:
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": PYTHON, "cells": [
        {**cell(*(one if isinstance(one, tuple) else (one,))), "id": f"c{number}"} for number, one in enumerate(cells)
    ]}))  # fmt: skip
    return path


def comparable(notebook: dict) -> dict:
    """Return a notebook without times, numbers of processes, addresses and the random names of widgets."""
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key not in ("start_time", "end_time", "duration", "execution", "id")}
        if isinstance(value, list):
            return [plain(item) for item in value]
        return re.sub(r"ipykernel_\d+|0x[0-9a-f]+|\b[0-9a-f]{32}\b|IPY_MODEL_\w+", "*", value) if isinstance(value, str) else value

    notebook = plain(json.loads(json.dumps(notebook)))
    widgets = notebook["metadata"].pop("widgets", {}).get("application/vnd.jupyter.widget-state+json", {"state": {}})["state"]
    return {**notebook, "widgets": sorted(json.dumps(state, sort_keys=True) for state in widgets.values())}


def test_the_notebook_is_the_same(tmp_path, monkeypatch):
    """What a shell makes of streams, displays, errors, magics, widgets, threads and forks is what a kernel makes of them."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    path = notebook_of(tmp_path / "nasty.ipynb", *NASTY)
    shell = execute(read_template(path), tmp_path / "shell.ipynb", {}, folder=tmp_path)
    kernel = execute(read_template(path), tmp_path / "kernel.ipynb", {}, folder=tmp_path, warm=False)
    assert (shell.way["way"], kernel.way["way"]) == ("shell", "cold kernel"), shell.way
    assert shell.status == kernel.status == "succeeded"
    ours, theirs = comparable(shell.notebook), comparable(kernel.notebook)
    for one, other in zip(ours["cells"], theirs["cells"], strict=True):
        assert one == other
    assert {**ours, "widgets": sorted(map(len, ours["widgets"]))} == {**theirs, "widgets": sorted(map(len, theirs["widgets"]))}


@pytest.mark.parametrize(("source", "said"), [("sys.stdout = None", "2"), ("sys.stdout = sys.stderr = None", "2"), ("sys.stdout = io.StringIO(); print('lost')", "2")])
def test_a_stream_that_a_cell_takes_away(tmp_path, source, said):
    """Cells go on where `sys.stdout` is nothing that can be written to, and print again once it is back."""
    write_notebook(tmp_path / "train.ipynb", "import io, sys", source, "one = 1", "sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__\none + 1")
    found = mlops_nb.run(tmp_path / "train.ipynb", timeout_s=60)
    assert found.record["executed_in"]["way"] == "shell"
    assert nbformat.read(found.notebook, 4).cells[-1].outputs[0].data["text/plain"] == said


def test_a_stream_that_a_cell_closes(tmp_path, monkeypatch):
    """Who prints into a closed stream has an error, as in a kernel; the other stream and compiled code are heard no less."""
    path = write_notebook(tmp_path / "train.ipynb", "import os, sys", "print('before'); sys.stdout.close()", "os.write(1, b'nowhere'); print('here', file=sys.stderr)", "print('closed')")
    with pytest.raises(CellFailed, match="in cell 4: ValueError: I/O operation on closed file"):
        mlops_nb.run(path, timeout_s=60)
    [found] = runs(tmp_path)
    said = [[output.text for output in one.outputs if "text" in output] for one in nbformat.read(found.notebook, 4).cells if one.cell_type == "code"]
    assert said == [[], ["before\n"], ["here\n"], []]


def test_what_compiled_code_prints_belongs_to_its_cell(tmp_path, monkeypatch):
    """A line that a subprocess or compiled code wrote at the end of a cell is in that cell, in the order in which it came."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    path = notebook_of(tmp_path / "c.ipynb", *["import os; print('python'); os.system('echo child'); os.write(2, b'fd\\n'); None"] * 5)
    outcome = execute(read_template(path), tmp_path / "out.ipynb", {}, folder=tmp_path)
    for one in outcome.notebook["cells"]:
        assert sorted((output["name"], output["text"]) for output in one["outputs"]) == [("stderr", "fd\n"), ("stdout", "python\nchild\n")]


def test_threads_that_flush_both_streams(tmp_path, monkeypatch):
    """One flushes what it prints, and another one what it logs: neither waits for the other for ever, and nothing is lost."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # ipykernel watches no descriptors where it is set
    source = """
import sys, threading
def speak(stream):
    for number in range(2000):
        stream.write(f"{number}\\n")
        stream.flush()
threads = [threading.Thread(target=speak, args=(stream,)) for stream in (sys.stdout, sys.stderr)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
    done = execute(read_template(notebook_of(tmp_path / "a.ipynb", source)), tmp_path / "b.ipynb", {}, folder=tmp_path, cell_timeout_s=60)
    assert done.way["way"] == "shell", done.way
    said = {name: "".join(one["text"] for one in done.notebook["cells"][0]["outputs"] if one["name"] == name) for name in ("stdout", "stderr")}
    assert {name: text.count("\n") for name, text in said.items()} == {"stdout": 2000, "stderr": 2000}


def test_told_to_end_while_it_starts(tmp_path, monkeypatch):
    """Where the time of a run is over before its process has begun, no cell is executed, there or in a kernel."""
    monkeypatch.setenv("FRESH", str(tmp_path))  # a server of its own, which takes a while
    path = notebook_of(tmp_path / "a.ipynb", f"open({str(tmp_path / 'ran')!r}, 'w')")
    done = execute(read_template(path), tmp_path / "b.ipynb", {}, folder=tmp_path, timeout_s=0.05)
    assert done.status == "timed-out" and not (tmp_path / "ran").exists()


def test_the_end_of_the_process(tmp_path, monkeypatch):
    """Exit handlers run, threads are waited for, and what was written to a file that nobody closed is in it."""
    write_notebook(
        tmp_path / "train.ipynb",
        "import atexit, threading, time\nopened = open('open.txt', 'w'); print(opened.write('text'))",
        "atexit.register(lambda: open('exit.txt', 'w').write('exit'))",
        "class Last:\n    def __del__(self): open('last.txt', 'w').write('last')\nlast = Last()",
        "threading.Thread(target=lambda: (time.sleep(0.3), open('thread.txt', 'w').write('thread'))).start()",
    )
    monkeypatch.setattr("mlops_nb.execute.GRACE_S", 60.0)
    assert mlops_nb.run(tmp_path / "train.ipynb").record["executed_in"]["way"] == "shell"
    assert [(tmp_path / f"{name}.txt").read_text() for name in ("open", "exit", "last", "thread")] == ["text", "exit", "last", "thread"]


@pytest.mark.parametrize(("source", "said"), [("import os; os._exit(3)", "exited with code 3"), ("import ctypes; ctypes.string_at(0)", "SIGSEGV"), ("import os; os.kill(os.getpid(), 9)", "SIGKILL")])
def test_a_death_is_known_at_once(tmp_path, source, said):
    """A process that dies is known to be dead without a wait, and by what."""
    write_notebook(tmp_path / "train.ipynb", source)
    with pytest.raises((RunKilled, CellFailed), match=said):
        mlops_nb.run(tmp_path / "train.ipynb")
    [one] = mlops_nb.runs(tmp_path)
    assert one.record["cells"][-1]["seconds"] < 3, "from the beginning of the cell until it was judged"


def test_a_fork_that_comes_to_the_end_of_its_cell(tmp_path):
    """A process that a cell forked and forgot neither answers for the cell nor takes the next one."""
    write_notebook(tmp_path / "train.ipynb", "import os\nchild = os.fork()\nif child: os.waitpid(child, 0)", "print(os.getpid() == 0, child > 0)")
    one = mlops_nb.run(tmp_path / "train.ipynb", timeout_s=60)
    assert nbformat.read(one.notebook, 4).cells[1].outputs[0].text == "False True\n"


def test_an_interrupt_leaves_no_half_message(tmp_path):
    """A cell that prints without end is interrupted; what it said is whole."""
    write_notebook(tmp_path / "train.ipynb", "while True: print('x' * 1000, flush=True)")
    with pytest.raises(mlops_nb.errors.RunTimedOut):
        mlops_nb.run(tmp_path / "train.ipynb", cell_timeout_s=1)


HEAD = "import os, random, time\nfrom mlops_nb import Input, Output, glue\nrandom.seed(1)\nos.environ['MINE'] = 'here'\nprint('head', os.getpid())"


def project(root: Path, head: str = HEAD, rest: str = "print(x, os.environ['MINE'], random.random())\nopen(out, 'w').write(str(x))") -> Path:
    """Write a project with one template of three cells."""
    (root / "settings.ini").touch()
    path = root / "train.ipynb"
    cells = [cell(head), cell("x: int = 1\nout = Output('o/x.txt')", ["parameters"]), cell(rest)]
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": PYTHON, "cells": cells}))
    return path


def texts(run) -> list[str]:
    """Return what each code cell printed."""
    return ["".join(output.get("text", "") for output in one.outputs) for one in nbformat.read(run.notebook, 4).cells]


def test_a_shared_head(tmp_path):
    """The cells above the parameters are executed once; each run has their outputs, counts, seeds, variables and notes, and a value of its own."""
    path = project(tmp_path, HEAD + "\nimport subprocess; subprocess.run(['true'])")
    runs = [mlops_nb.run(path, {"x": x}, share_head=True) for x in (1, 2, 3)]
    alone = mlops_nb.run(path, {"x": 4})
    heads = [texts(run)[0] for run in runs]
    assert heads[0] == heads[1] == heads[2] != texts(alone)[0]
    assert [texts(run)[3].split()[0] for run in runs] == ["1", "2", "3"]
    assert {texts(run)[3].split(" ", 1)[1] for run in [*runs, alone]} == {texts(alone)[3].split(" ", 1)[1]}, "what it drew after the seed"
    assert [[one.execution_count for one in nbformat.read(run.notebook, 4).cells] for run in runs] == [[1, 2, 3, 4]] * 3
    assert [run.record["access"] for run in runs] == [alone.record["access"]] * 3
    assert (tmp_path / "o/x.txt").read_text() == "4"


def test_a_head_that_changed(tmp_path):
    """A local module that changed is imported anew, and a file that the head read as well."""
    (tmp_path / "local.py").write_text("value = 1\n")
    (tmp_path / "data.txt").write_text("one")
    path = project(tmp_path, f"import os, local\nfrom mlops_nb import Output\nprint(local.value, open({str(tmp_path / 'data.txt')!r}).read())", "open(out, 'w').write('')")
    assert texts(mlops_nb.run(path, {"x": 1}, share_head=True))[0] == "1 one\n"
    (tmp_path / "local.py").write_text("value = 2\n")
    assert texts(mlops_nb.run(path, {"x": 2}, share_head=True))[0] == "2 one\n"
    (tmp_path / "data.txt").write_text("two")
    assert texts(mlops_nb.run(path, {"x": 3}, share_head=True))[0] == "2 two\n"


@pytest.mark.parametrize(
    "head",
    [
        "import os, threading, time; threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
        "import os; open('written.txt', 'w').write('1')",
        "import os; HERE = os.getcwd()",
        "import os; file = open(os.__file__)",
        "import os, socket; pair = socket.socketpair()",
        "import os, subprocess; process = subprocess.Popen(['true'])",
        "import os, time; open(DATA).read(); time.sleep(0.1); os.utime(DATA)",
    ],
)
def test_a_head_that_cannot_be_shared(tmp_path, head):
    """A head that leaves a thread, a file, a process, something open or the name of its folder is executed in each run; and so is one that read what was written meanwhile."""
    (tmp_path / "data.txt").write_text("one")
    path = project(tmp_path, head.replace("DATA", repr(str(tmp_path / "data.txt"))) + "\nfrom mlops_nb import Output\nprint(os.getpid())", "open(out, 'w').write('')")
    assert texts(mlops_nb.run(path, {"x": 1}, share_head=True))[0] != texts(mlops_nb.run(path, {"x": 2}, share_head=True))[0]


def test_a_head_that_fails(tmp_path):
    """Each run fails with the head's own error in its notebook."""
    path = project(tmp_path, "import os\nfrom mlops_nb import Output\nprint('before')\n1 / 0")
    with pytest.raises(CellFailed, match="ZeroDivisionError"):
        mlops_nb.run(path, share_head=True)
