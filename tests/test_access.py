"""What a run did beyond its contract is in its record, with cell and line; and being watched changes nothing."""

import json
import os
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from making import all_bytes, command, write_notebook, write_project

from mlops_nb import run
from mlops_nb.access import END, FILE, begin, strict_findings
from mlops_nb.errors import RunError
from mlops_nb.execute import execute
from mlops_nb.record import find_run
from mlops_nb.template import read_template

TEMPLATE = "nbs/pipelines/stars/50_train.ipynb"


def project(folder: Path, *cells: str, parameters: str = "seed: int = 0") -> Path:
    """Write a project with one template, whose cells begin with the third, and return its root."""
    root = write_project(folder.resolve() / "project", {"50_train": (parameters, "")})
    write_notebook(root / TEMPLATE, *cells, parameters=parameters)
    return root


def access_of(root: Path, arguments: dict | None = None) -> dict[str, list[tuple]]:
    """Run the template and return by kind what was noted, with cell and line."""
    try:
        record = run(root / TEMPLATE, arguments).record
    except RunError as error:
        record = error.run.record
    return {kind: [(one["what"], one["cell"], one["line"]) for one in found] for kind, found in record["access"].items() if isinstance(found, list)}


READERS = {
    "open": "open('a.open').read()",
    "os.open": "import os; os.close(os.open('a.os.open', os.O_RDONLY))",
    "pathlib": "import pathlib; pathlib.Path('a.pathlib').read_bytes()",
    "fromfile": "import numpy as np; np.fromfile('a.fromfile', dtype='u1')",
    "memmap": "import numpy as np; np.memmap('a.memmap', dtype='u1', mode='r')",
    "read_csv": "import pandas as pd; pd.read_csv('a.read_csv')",
    "torch": "import torch; torch.load('a.torch')",
    "sqlite": "import sqlite3; sqlite3.connect('file:a.sqlite?mode=ro', uri=True).execute('SELECT 1')",
    "joblib": "import joblib; joblib.load('a.joblib')",
}
UNSEEN = {
    "read_parquet": "import pandas as pd; pd.read_parquet('a.read_parquet')",
    "pyarrow": "import pyarrow.parquet; pyarrow.parquet.read_table('a.pyarrow')",
    "torch.save": "import torch; torch.save([1], 'a.torch.save')",
    "child": "import subprocess; subprocess.run(['cat', 'a.child'], check=True, capture_output=True)",
}


def test_which_readers_are_seen(tmp_path):
    """Whoever opens a file through Python is seen, each with the cell and line that called it; compiled code that opens one by itself is not, nor a child process."""
    import joblib
    import torch

    root = project(tmp_path, "import os\nos.chdir(os.environ['DATA'])", *(f"x = 1\n{source}" for source in [*READERS.values(), *UNSEEN.values()]))
    data = root / "data"
    data.mkdir()
    for name in [*READERS, *UNSEEN]:
        (data / f"a.{name}").write_text("1\n2\n")
    torch.save([1], data / "a.torch")
    joblib.dump([1], data / "a.joblib")
    (data / "a.sqlite").write_bytes(b"")
    for name in ("read_parquet", "pyarrow"):
        pd.DataFrame({"x": [1]}).to_parquet(data / f"a.{name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA", str(data))
        found = access_of(root)
    assert found["read"] == [(f"data/a.{name}", number, 2) for number, name in enumerate(READERS, start=4)]
    assert found["written"] == [] and [what for what, *_ in found["started"]] == ["cat a.child"]


def test_where_a_file_was_read(tmp_path):
    """The line is that of the cell that runs, also from a function of a module or of an earlier cell, a thread, a forked process, a coroutine, a cell with a magic or with empty lines above."""
    sources = [
        "from lab import first\nimport os, threading, multiprocessing, asyncio\nROOT = os.environ['ROOT']\ndef read(name):\n    return open(f'{ROOT}/{name}').read()",
        "x = 1\ny = [first(f'{ROOT}/module')\n     for _ in range(2)]",
        "\n\nread('function')",
        "thread = threading.Thread(target=first, args=[f'{ROOT}/thread'])\nthread.start()\nthread.join()",
        "x = 1\nchild = multiprocessing.get_context('fork').Process(target=read, args=['fork'])\nchild.start()\nchild.join()",
        "async def later():\n    await asyncio.sleep(0)\n    return first(f'{ROOT}/coroutine')\nawait asyncio.gather(later())",
        "%%time\nx = 1\nread('magic')",
        "x = 1\n%time read('line')",
        "if True:\n    exec(\"first(f'{ROOT}/exec')\")",
        "def broken():\n    read('failing')\n    1 / 0\nbroken()",
    ]
    root = project(tmp_path, *sources)
    (root / "nbs" / "pipelines" / "stars" / "lab.py").write_text("def first(path):\n    with open(path) as file:\n        return file.readline()\n")
    for name in ("module", "function", "thread", "fork", "coroutine", "magic", "line", "exec", "failing"):
        (root / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT", str(root))
        found = access_of(root)
    assert found["read"] == [
        ("module", 4, 2), ("function", 5, 3), ("thread", 6, None), ("fork", 7, 3), ("coroutine", 8, 3), ("magic", 9, 3), ("line", 10, 2), ("exec", 11, 2),
        ("failing", 12, 4),
    ]  # fmt: skip
    assert found["imports"] == [] and found["started"] == [("a forked process", 7, 3)]


def test_what_belongs_to_the_contract_is_not_noted(tmp_path):
    """Inputs, outputs, the run's own folder, code that the key counts, what the run made itself, temporary files, seeded generators and servers of its own are no findings."""
    sources = [
        "import lab, pathlib, tempfile, random, socket, numpy as np, torch, pandas as pd\nimport matplotlib.pyplot as plt\nimport rich.style",
        "rows = pd.read_csv(stars)\nparts = [path.read_text() for path in pathlib.Path(folder).iterdir()]",
        "pathlib.Path(model).mkdir()\npathlib.Path(model, 'weights').write_text('x')\nopen('scratch.txt', 'w').write('x')\nopen('scratch.txt').read()",
        "with tempfile.TemporaryDirectory() as place:\n    pathlib.Path(place, 'x').write_text('x')\n    pathlib.Path(place, 'x').read_text()",
        "def seed_all(seed):\n    random.seed(seed)\n    np.random.seed(seed)\n    torch.manual_seed(seed)\n    return random.random()\nseed_all(seed)",
        "random.random(), np.random.rand(3), torch.rand(3), np.random.default_rng(seed).random(), np.random.RandomState(seed).rand(), pd.DataFrame({'x': [1, 2]}).sample(1)",
        "server = socket.create_server(('127.0.0.1', 0))\nsocket.create_connection(server.getsockname()).close()",
        "plt.plot([1, 2])\nplt.show()",
        "import inspect\ninspect.getsource(lab.phase)\ntry:\n    open('missing.csv')\nexcept FileNotFoundError:\n    pass",
    ]
    root = project(tmp_path, *sources, parameters='stars = Input("stars.csv")\nfolder = Input("images")\nmodel = Output("models/m")\nseed: int = 0')
    (root / "nbs" / "pipelines" / "stars" / "lab.py").write_text("import other\ndef phase():\n    pass\n")
    (root / "nbs" / "pipelines" / "stars" / "other.py").write_text("")
    (root / "stars.csv").write_text("mass\n0.85\n")
    (root / "images").mkdir()
    (root / "images" / "1.png").write_text("x")
    run(root / TEMPLATE)
    found = run(root / TEMPLATE, force=True)
    assert found.record["access"] == {"read": [], "written": [], "hosts": [], "imports": [], "random": [], "started": [], "cut": {}, "injected": None}
    assert strict_findings(found.record) == []


def test_each_kind_is_a_finding_with_its_place(tmp_path):
    """An undeclared input and output, a host, an import that the key does not see and each global generator are findings; cells are numbered as in the template."""
    server = socket.create_server(("127.0.0.1", 0))
    sources = [
        "import os, pickle, socket, random, numpy as np, torch\nROOT = os.environ['ROOT']",
        "x = 1\nopen(f'{ROOT}/stars.csv')",
        "open(f'{ROOT}/.new', 'w').close()\nos.replace(f'{ROOT}/.new', f'{ROOT}/mass.csv')",
        "x = 1\ntry:\n    socket.getaddrinfo('archive.invalid', 443)\nexcept OSError:\n    pass",
        "quick = socket.socket()\nquick.setblocking(False)\nquick.connect_ex(('192.0.2.7', 80))",
        f"socket.create_connection(('127.0.0.1', {server.getsockname()[1]})).close()",
        "hidden = pickle.loads(b'clab\\nphase\\n.')",
        "x = 1\nrandom.shuffle([1, 2])",
        "x = [1,\n     2]\nx = np.random.rand(3)",
        "rng = np.random.default_rng()",
        "for _ in range(2):\n    torch.rand(3)",
    ]
    root = project(tmp_path, *sources)
    (root / "nbs" / "pipelines" / "stars" / "lab.py").write_text("phase = 0.5\n")
    (root / "stars.csv").touch()
    with server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT", str(root))
        record = run(root / TEMPLATE, {"seed": 1}).record
    found = [(one.code, one.cell, one.line) for one in strict_findings(record)]
    assert found == [
        ("NB801", 4, 2), ("NB802", 5, 2), ("NB803", 6, 3), ("NB803", 7, 3), ("NB803", 8, 1), ("NB804", 9, 1),
        ("NB805", 10, 2), ("NB805", 11, 3), ("NB805", 12, 1), ("NB805", 13, 1),
    ]  # fmt: skip
    said = [str(one) for one in strict_findings(record)]
    assert said[0].startswith(f"{TEMPLATE}: cell 4, line 2: NB801 reads stars.csv, which no Input declares. ")
    assert "mass.csv" in said[1] and "archive.invalid:443" in said[2] and "192.0.2.7:80" in said[3] and "lab.py" in said[5]
    assert [one["what"] for one in record["access"]["random"]] == ["random", "numpy.random", "numpy.random.default_rng", "torch"]


def test_a_fork_after_shared_cells_notes_its_own_draws(tmp_path):
    """Where runs share the cells above the parameters, a draw without a seed below is noted in each of them, and one that those cells seeded in none."""
    draws = "random.random()\nnp.random.rand()\ntorch.rand(1)"
    unseeded = write_notebook(tmp_path / "unseeded.ipynb", draws, parameters="x: int = 0")
    seeded = write_notebook(tmp_path / "seeded.ipynb", draws, parameters="x: int = 0")
    for path, seed in ((unseeded, ""), (seeded, "random.seed(1)\nnp.random.seed(1)\ntorch.manual_seed(1)")):
        content = json.loads(path.read_text())
        content["cells"][0]["source"] = f"import random\nimport numpy as np\nimport torch\n{seed}"
        path.write_text(json.dumps(content))
    runs = [run(unseeded, {"x": x}, root=tmp_path, share_head=True) for x in (1, 2)]
    for found in runs:
        assert found.record["executed_in"]["way"] == "shell"
        assert [(one["what"], one["line"]) for one in found.record["access"]["random"]] == [("random", 1), ("numpy.random", 2), ("torch", 3)]
    assert run(seeded, {"x": 1}, root=tmp_path, share_head=True).record["access"]["random"] == []


def test_a_killed_kernel_leaves_what_it_had_seen(tmp_path):
    """What was noted before a kill is in the record, and nothing is left beside it."""
    root = project(tmp_path, "import os\nopen(os.environ['STARS']).close()\nos.kill(os.getpid(), 9)")
    (root / "stars.csv").touch()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError) as killed:
        patch.setenv("STARS", str(root / "stars.csv"))
        run(root / TEMPLATE)
    assert killed.value.run.status == "killed"
    assert [one["what"] for one in killed.value.run.record["access"]["read"]] == ["stars.csv"]
    assert not list((root / "runs").rglob(FILE))


def test_a_secret_is_in_no_path_and_no_host(tmp_path):
    """Neither the record nor what the kernel wrote down on the way holds the value."""
    source = "import os, socket, pathlib\nname = token.value\npath = pathlib.Path(os.environ['ROOT'], name)\npath.write_text('x')\n"
    source += "try:\n    socket.getaddrinfo(f'{name}.invalid', 80)\nexcept OSError:\n    pass\nnotes = [pathlib.Path(p, f).read_bytes() for p, _, names in "
    source += "os.walk(os.environ['ROOT'] + '/runs') for f in names if f.endswith('.jsonl')]\nassert notes and not any(name.encode() in note for note in notes)"
    root = project(tmp_path, source, parameters='token = Secret("ARCHIVE_TOKEN")')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROOT", str(root))
        patch.setenv("ARCHIVE_TOKEN", "hunter2hunter2")
        found = access_of(root)
    assert [what for what, *_ in found["written"]] == ["***"] and [what for what, *_ in found["hosts"]] == ["***.invalid:80"]
    assert b"hunter2" not in all_bytes(root / "runs")


def test_thousands_of_files_are_one_entry(tmp_path):
    root = project(tmp_path, "import os\nfor number in range(3000):\n    open(f\"{os.environ['IMAGES']}/{number}.png\").close()")
    images = root / "images"
    images.mkdir()
    for number in range(3000):
        (images / f"{number}.png").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGES", str(images))
        record = run(root / TEMPLATE).record
    assert record["access"]["read"] == [{"what": "images/", "cell": 3, "line": 3, "files": 3000}]
    assert "reads 3000 files of images/" in str(strict_findings(record)[0])


VISIBLE = """import gc, json, random, signal, sys, threading, warnings
shell = get_ipython()
state = {"globals": sorted(globals()), "In": list(In), "Out": len(Out), "count": shell.execution_count, "modules": sorted(sys.modules), "events": {name: len(all) for name, all in shell.events.callbacks.items()}}
state |= {"threads": threading.active_count(), "warnings": str(warnings.filters), "signals": str(signal.getsignal(signal.SIGINT)), "profile": [sys.gettrace(), sys.getprofile()]}
state |= {"history": [line for _, _, line in shell.history_manager.get_range()], "modules of the watch": [name for name in sys.modules if "access" in name]}
print(json.dumps(state, default=str))"""


def test_being_watched_changes_nothing_that_a_notebook_sees(tmp_path):
    """Variables, `In` and `Out`, counts, history, modules, threads, open files, warnings and outputs are those of a notebook that nobody watches."""
    template = read_template(write_notebook(tmp_path / "a.ipynb", "x = 1\nx", VISIBLE))
    states = []
    for around in (None, (begin(tmp_path / "seen", tmp_path, never=[tmp_path]), END)):
        outcome = execute(template, tmp_path / "out.ipynb", {}, folder=tmp_path, around=around)
        assert outcome.status == "succeeded", outcome.error
        assert [cell["execution_count"] for cell in outcome.notebook["cells"]] == [1, 2]
        states.append(json.loads(outcome.notebook["cells"][1]["outputs"][0]["text"]))
    assert states[0] == states[1]
    assert '"begun"' in (tmp_path / "seen").read_text()


def test_no_error_of_the_watch_reaches_a_notebook(tmp_path):
    """A path that cannot be asked about, notes that cannot be written and a program that draws from the system's entropy fail as they would unwatched, or not at all."""
    source = "class Odd:\n    def __fspath__(self):\n        raise ValueError('odd')\n"
    source += "for path, error in ((Odd(), ValueError), ('\\0', ValueError), (object(), TypeError), (-1, ValueError), ('/nowhere/x', OSError)):\n"
    source += "    try:\n        open(path)\n    except error:\n        continue\n    raise AssertionError(path)\n"
    source += "import secrets, shutil, os\nshutil.rmtree(os.environ['NOTES'])\nopen(os.environ['STARS']).close()\nsecrets.token_hex(), secrets.randbits(128)"
    notes = tmp_path / "notes"
    notes.mkdir()
    (tmp_path / "stars.csv").touch()
    template = read_template(write_notebook(tmp_path / "a.ipynb", source))
    around = (begin(notes / "seen", tmp_path, never=[notes]), END)
    outcome = execute(template, tmp_path / "out.ipynb", {}, folder=tmp_path, around=around, environment={"NOTES": str(notes), "STARS": str(tmp_path / "stars.csv")})
    assert outcome.status == "succeeded", outcome.error


def test_a_kernel_of_another_language_is_not_watched(tmp_path, monkeypatch):
    """Its record says so, and that is a finding: nobody knows what it read."""
    spec = tmp_path / "jupyter" / "kernels" / "other" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": [os.sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Other", "language": "other"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    root = project(tmp_path, "open('x', 'w').close()")
    record = run(root / TEMPLATE, kernel="other").record
    assert record["access"] is None
    assert [one.code for one in strict_findings(record)] == ["NB806"]


def test_the_home_folder(tmp_path, monkeypatch):
    """Data there is noted as `~/…`; settings and caches in hidden folders are not, except the weights of models."""
    home = tmp_path / "home"
    weights = home / ".cache" / "torch" / "hub" / "checkpoints" / "resnet.pt"
    for path in (home / "data" / "mass.csv", home / ".config" / "x.ini", weights):
        path.parent.mkdir(parents=True)
        path.touch()
    monkeypatch.setenv("HOME", str(home))
    root = project(tmp_path, "from pathlib import Path\nfor name in ('data/mass.csv', '.config/x.ini', '.cache/torch/hub/checkpoints/resnet.pt'):\n    (Path.home() / name).read_text()")
    assert access_of(root)["read"] == [("~/data/mass.csv", 3, 3), ("~/.cache/torch/hub/checkpoints/resnet.pt", 3, 3)]


def test_numbers_as_numpy_sees_them():
    """A new NumPy generator stands at 623 and knows its entropy; a seeded one has forgotten it. The watch relies on both."""
    state = np.random.RandomState()._bit_generator
    assert state.state["state"]["pos"] == 623 and state.seed_seq is not None
    assert np.random.RandomState(0)._bit_generator.seed_seq is None


def test_check_strict_at_the_command_line(tmp_path):
    """It names notebook, cell, line and remedy and exits with 1; a comment waives a rule for its line; `show` tells the same."""
    root = project(tmp_path, "import os\nopen(f\"{os.environ['ROOT']}/stars.csv\").read()\nopen(f\"{os.environ['ROOT']}/new.csv\", 'w').close()  # noqa: NB802")
    (root / "stars.csv").touch()
    assert "NB806" in command("check", "--strict", cwd=root).stdout  # nothing has run
    assert command("run", cwd=root, ROOT=str(root)).returncode == 0
    for words in ([], ["stars"], ["train"], [TEMPLATE], [find_run("train", root).id]):
        said = command("check", "--strict", *words, cwd=root)
        assert said.returncode == 1 and "NB802" not in said.stdout
        assert said.stdout.startswith(f'{TEMPLATE}: cell 3, line 2: NB801 reads stars.csv, which no Input declares. Declare it in the `parameters` cell, data = Input("stars.csv")')
    assert command("check", "--strict", "--ignore", "NB8", cwd=root).returncode == 0
    assert command("check", "--strict", "trian", cwd=root).returncode == 2
    assert "undeclared   reads stars.csv, which no Input declares (cell 3, line 2)" in command("show", "train", cwd=root).stdout
