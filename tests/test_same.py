"""The executed notebook is the same whether a forked shell or a cold kernel executed it: notebooks as our peers test theirs with, our templates, our tutorials."""

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from test_shell import comparable, notebook_of

import mlops_nb
from mlops_nb.execute import execute
from mlops_nb.template import read_template

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone"), pytest.mark.timeout(300)]
NBS = Path(__file__).parents[1] / "nbs"
FAILS, SKIPPED = ["raises-exception"], ["skip-execution"]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

PEERS = {
    # as papermill's
    "simple execute": ("msg = 'hello'", "print(msg)"),
    "sys.exit": ("print('before')", "import sys\nsys.exit()", "print('never')"),
    "sys.exit(0)": ("import sys\nsys.exit(0)", "print('never')"),
    "sys.exit(1)": ("import sys\nsys.exit(1)", "print('never')"),
    "complex parameters": ({"source": "a = 1.5\nb = 'text'\nc = {'k': [1, None, True]}\nd: list = ['é']", "tags": ["parameters"]}, "print(a, b, c, d)", "c, d"),
    "magics": ("%%bash\necho magic", "%env NEVER_SET_HERE=1", "%precision 3\n3.14159", "%who_ls"),
    "broken": ("raise ValueError('broken')", "print('never')"),
    "keyboard interrupt": ("raise KeyboardInterrupt", "print('never')"),
    "syntax error": ("print('a')", "this is no Python", "print('never')"),
    "a progress that is written over": ("for k in range(5): print('\\r', k, end='', flush=True)",),
    # as nbclient's
    "hello": ("print('Hello World')",),
    "clear output": (
        "from IPython.display import clear_output, display\nfor k in range(10):\n    clear_output()\n    print(k)",
        "print('Hello'); clear_output()", "print('Hello'); clear_output(wait=True); print('World')",
        "handle = display('Hello', display_id=True); clear_output(); handle.update('World')" , "display('a'); clear_output(wait=True)",
    ),
    "exceptions that may be": (("1 / 0", FAILS), "print('next')", ("# nothing", FAILS), "%%javascript\n1"),
    "cells that are left out": (("print('left out')", SKIPPED), "print('done')"),
    "svg": ("from IPython.display import SVG", "SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"><circle r=\"4\"/></svg>')"),
    "unicode": ("print('☃ é 日本 \\U0001f600')", "'ü'", "print('☃'.encode())", "import sys; sys.stdout.write('ß')"),
    "update a display": (
        "from IPython.display import display, update_display\ndisplay('one', display_id='here')", "display('two', display_id='here')",
        "display('three', display_id='here')", "update_display({'text/plain': 'four', 'text/html': '<b>4</b>'}, raw=True, display_id='here')",
    ),
    "widgets that take outputs": (
        "import ipywidgets as w\nfrom IPython.display import display, clear_output\nout = w.Output()\nout", "with out: print('in'); display('shown')",
        "print('beside')", "with out: 1 / 0", "out.clear_output()\nwith out:\n    print('again'); clear_output(wait=True); print('last')",
        "a, b = w.IntSlider(value=2), w.FloatText()\nw.jslink((a, 'value'), (b, 'value'))\nbox = w.VBox([a, b]); box", "a.value = 7\nbox.children = [a]",
        "@w.interact(x=3)\ndef f(x): print(x)", "out.append_stdout('given')\nout.outputs",
    ),
    "an image": (f"from IPython.display import Image\nimport base64\nImage(base64.b64decode('{PNG}'))", f"from IPython.display import display; display({{'image/png': '{PNG}'}}, raw=True)"),
    "other comms": (
        "from ipykernel.comm import Comm\ncomm = Comm(target_name='unknown', data={'a': 1})", "comm.send({'b': 2}); comm.close()",
        "get_ipython().kernel.comm_manager.register_target('mine', lambda comm, message: None)\nsorted(get_ipython().kernel.comm_manager.targets)",
    ),
    "history": ("1 + 1", "_, __, _1", "get_ipython().history_manager.get_tail(2, raw=True) and In[-2]", "%history -l 2", "%history 1-2", "len(In), sorted(Out)"),
    "an error": ("0 / 0",),
    "an error in a module": ("import json\njson.loads('{')",),
    "an error with a cause": ("class Own(Exception):\n    pass\ntry:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise Own('two\\nlines') from e",),
    "factorials": ("i, j = 1, 1", "for m in range(10):\n    i, j = j, i + j\n    print(j)"),
    "killed by itself": ("print('before', flush=True)", "import os, signal, time\nos.kill(os.getpid(), signal.SIGKILL); time.sleep(9)", "print('never')"),
    "exits hard": ("import os; os._exit(4)", "print('never')"),
    "side by side": ("import concurrent.futures as c\nwith c.ThreadPoolExecutor(3) as p: print([*p.map(lambda k: k * k, range(5))])", "import asyncio\nawait asyncio.gather(*(asyncio.sleep(0, k) for k in range(3)))"),
    "empty cells": ("", "  \n", "1;", "None", "# a comment"),
    "many outputs": ("from IPython.display import display\nfor k in range(3000): display(k)", "import sys\nfor k in range(200): print(k, flush=True); print(k, file=sys.stderr, flush=True)"),
    "a line without end": ("print('x' * 3_000_000)", "print('after')"),
    "bytes that are no text": ("import os, time; n = os.write(1, b'\\xff\\xfe\\x00 raw \\xc3'); time.sleep(1)", "print('after')", "os.system('printf \"\\\\377\\\\000\"'); time.sleep(1)"),
    "closed descriptors": ("import os\nfor fd in (0, 1, 2): os.close(fd)", "print('still here')", "1 + 1"),
    "forks that print": ("import os, time\nfor k in range(3):\n    if not (pid := os.fork()):\n        print('child', k, flush=True); os._exit(0)\n    os.waitpid(pid, 0)\ntime.sleep(1)", "print('parent')"),
    "a daemon": ("import os, time\nif not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n    time.sleep(0.3); os._exit(0)\nos.wait()[1]", "print('on')"),
    "signal handlers": ("import signal\nsignal.signal(signal.SIGUSR1, lambda n, f: print('caught'))\nsignal.raise_signal(signal.SIGUSR1)", "signal.signal(signal.SIGINT, signal.SIG_IGN)", "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on')", "signal.setitimer(signal.ITIMER_REAL, 0), signal.getsignal(signal.SIGCHLD), signal.pthread_sigmask(signal.SIG_BLOCK, [])"),
    "options that pandas sets by where it is imported": ("import pandas as pd\npd.get_option('display.max_columns')", "pd.DataFrame({f'column {k}': [k] for k in range(30)})"),
    "what the process is": (
        "import os, resource, sys, locale\nos.umask(0o22), os.getcwd() == os.environ.get('PWD', ''), resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_CORE)",
        "locale.getlocale(), sys.getfilesystemencoding(), sys.flags, sys.getrecursionlimit(), sys.getswitchinterval()", "os.sched_getaffinity(0), os.nice(0), os.isatty(0), os.isatty(1)",
        "sorted(name for name in os.environ)", "[path for path in sys.path]", "sys.executable, sys.argv[1:2], sys.orig_argv[1:4]", "sys.dont_write_bytecode, sys.pycache_prefix, sys.getdlopenflags()",
        "import threading, multiprocessing, gc; threading.active_count() > 0, threading.current_thread() is threading.main_thread(), multiprocessing.get_start_method(), gc.isenabled(), gc.get_threshold()",
        "hash('text'), {'a', 'b', 'c', 'd'}", "import warnings; len(warnings.filters) > 0, warnings.filters[0][:1]", "__builtins__, __spec__, __package__, dir()[:5]",
    ),
}  # fmt: skip


def both(path: Path, folder: Path, **options) -> tuple:
    """Execute a notebook in a shell and in a cold kernel; return both outcomes."""
    outcomes = []
    for warm in (True, False):
        place = Path(tempfile.mkdtemp(dir=folder)) / path.name
        outcomes.append(execute(read_template(path), place, {}, folder=folder, warm=warm, **options))
    assert [outcome.way["way"] for outcome in outcomes] == ["shell", "cold kernel"], outcomes[0].way
    return outcomes


def assert_same(one: dict, other: dict) -> None:
    """Compare wholly, cell by cell first, so that a difference is small enough to read."""
    ours, theirs = comparable(one), comparable(other)
    for mine, yours in zip(ours["cells"], theirs["cells"], strict=True):
        assert mine == yours
    assert ours == theirs


@pytest.mark.parametrize("name", PEERS)
def test_a_notebook_of_the_peers(tmp_path, monkeypatch, name):
    """Cells, counts, outputs, errors, metadata and the widgets' states are the same, and so is how the run ended."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)  # ipykernel does not hear C-level output where it is set
    path = notebook_of(tmp_path / "peer.ipynb", *((one["source"], one["tags"]) if isinstance(one, dict) else one for one in PEERS[name]))
    shell, kernel = both(path, tmp_path)
    assert shell.status == kernel.status
    assert_same(shell.notebook, kernel.notebook)


def test_an_interrupted_notebook(tmp_path, monkeypatch):
    """A cell that takes too long is interrupted in the same way."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    path = notebook_of(tmp_path / "long.ipynb", "print('here')", "import time\nprint('sleeps', flush=True)\ntime.sleep(600)", "print('never')")
    shell, kernel = both(path, tmp_path, cell_timeout_s=8)
    assert shell.status == kernel.status == "timed-out"
    assert_same(shell.notebook, kernel.notebook)


@pytest.mark.long
@pytest.mark.parametrize("path", sorted((NBS / "tutorials").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_tutorial(tmp_path, monkeypatch, path):
    """The cells of the tutorials, which run notebooks themselves; what they say is not reproducible is compared by its kind."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    given = notebook_of(tmp_path / path.name, *(("".join(cell["source"]), cell["metadata"].get("tags")) for cell in cells))
    shell, kernel = both(given, tmp_path)
    assert shell.status == kernel.status == "succeeded", (shell.error, kernel.error)
    for outcome in (shell, kernel):
        for cell in outcome.notebook["cells"]:
            if "nbval-ignore-output" in cell["metadata"].get("tags", ()):
                cell["outputs"] = sorted({output["output_type"] for output in cell["outputs"]})
    assert_same(shell.notebook, kernel.notebook)


@pytest.mark.long
def test_the_templates_of_the_study(tmp_path, monkeypatch):
    """Each template of the study, one after the other: the executed notebook, the results and the bytes of what it writes."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    (tmp_path / "settings.ini").touch()
    place = tmp_path / "nbs/pipelines/variables"
    shutil.copytree(NBS / "pipelines/variables", place, ignore=shutil.ignore_patterns(".*"))
    arguments = {"split": {"stars_per_class": 150}, "train": {"epochs": 6}, "evaluate": {"replicates": 200}}
    for path in sorted(place.glob("*.ipynb")):
        runs = []
        for warm in ("on", "off"):
            monkeypatch.setenv("MLOPS_NB_WARM", warm)
            runs.append(mlops_nb.run(path, arguments.get(path.stem[3:], {}), force=True))
        assert [one.record["executed_in"]["way"] for one in runs] == ["shell", "cold kernel"], runs[0].record["executed_in"]
        one, other = (json.loads(re.sub(r"\d{8}T\d{6}-\w+-[0-9a-f]{8}|\bin \d+\.\d s", "…", run.notebook.read_text())) for run in runs)
        assert_same(one, other)
        assert {name: file["digest"] for name, file in runs[0].record["outputs"].items()} == {name: file["digest"] for name, file in runs[1].record["outputs"].items()}


