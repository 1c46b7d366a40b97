"""Nothing stale, nothing run twice: for each edit of a small project, which steps run again and what `why` says of it."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import command, write_notebook

import mlops_nb.environment
from mlops_nb.errors import BadArgument, CellFailed
from mlops_nb.pipeline import run_pipeline
from mlops_nb.status import read_status
from mlops_nb.step import run
from mlops_nb.record import runs

PHASE = '''"""Phases."""
from stars import units
from stars.table import ROWS as KNOWN

PERIOD = 0.85
UNUSED = 1


def fold(t, period=PERIOD):
    """Fold."""
    phase = units.days(t) / period
    return phase


def unused(t):
    return t


class Curve:
    scale = 2

    def at(self, t):
        return fold(t) * self.scale
'''
FILES = {
    "settings.ini": "",
    "data/raw.csv": "0.85\n",
    "nbs/pipelines/p/stars/__init__.py": "",
    "nbs/pipelines/p/stars/phase.py": PHASE,
    "nbs/pipelines/p/stars/units.py": "FACTOR = 1.0\n\n\ndef days(t):\n    return t * FACTOR\n\n\ndef hours(t):\n    return 24 * t\n",
    "nbs/pipelines/p/stars/table.py": "ROWS = [1, 2]\n",
}
TRAIN = "# first\nfrom stars.phase import Curve, fold\nresult = fold(3.0) + Curve().at(1.0)\nopen(model, 'w').write(str(result) + open(stars).read())"
STEPS = {
    "10_ingest": ('raw = Input("data/raw.csv")\nstars = Output("data/stars.csv")', "open(stars, 'w').write(open(raw).read().strip())"),
    "20_train": ('stars = Input("data/stars.csv")\nmodel = Output("models/m")\nrate: float = 0.1  # step', TRAIN),
    "30_score": ('model = Input("models/m")\nscore = Output("data/score")', "open(score, 'w').write(open(model).read()[:2])"),
}
LOCAL = Path("nbs/pipelines/p/stars")


def write_step(root: Path, name: str, markdown: str = "# Title") -> None:
    """Write a template of the project, with a markdown cell on top."""
    parameters, code = STEPS[name]
    path = write_notebook(root / "nbs/pipelines/p" / f"{name}.ipynb", code, parameters=parameters)
    notebook = json.loads(path.read_text())
    notebook["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": markdown})
    path.write_text(json.dumps(notebook))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project whose pipeline has run."""
    root = tmp_path_factory.mktemp("made")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in STEPS:
        write_step(root, name)
    assert run_pipeline(root=root).succeeded
    time.sleep(0.2)
    return root


@pytest.fixture
def project(made, tmp_path):
    """A copy of it, in another folder."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def edit(path: Path, before: str, after: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def cells(root: Path, change, name: str = "20_train") -> None:
    """Change the cells of a template."""
    path = root / "nbs/pipelines/p" / f"{name}.ipynb"
    notebook = json.loads(path.read_text())
    change(notebook["cells"])
    path.write_text(json.dumps(notebook))


def reformat(found):
    """Write the same code in another way, with a comment."""
    found[-1]["source"] = found[-1]["source"].replace("fold(3.0) + Curve().at(1.0)", "(  fold( 3.0 )   # folded\n  + Curve().at(1.0))").replace("# first\n", "\n\n")


def faked(root: Path) -> None:
    """Replace an input by one of equal size and modification time."""
    path = root / "data/raw.csv"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_text("0.86\n")
    os.utime(path, ns=times)


NOTHING: list[str] = []
TRAIN_ON = ["train", "score"]
ONLY_TRAIN = ["train"]  # its output is byte-identical, so the step after it is a hit
CASES = {
    "nothing": (lambda r: None, NOTHING, None),
    "edit markdown": (lambda r: write_step(r, "20_train", "# Another title, and more prose"), NOTHING, None),
    "reformat and add a comment": (lambda r: cells(r, reformat), NOTHING, None),
    "outputs in the template": (lambda r: cells(r, lambda c: c[-1].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}])), NOTHING, None),
    "change a docstring": (lambda r: edit(r / LOCAL / "phase.py", '"""Fold."""', '"""Fold a curve."""'), NOTHING, None),
    "comment and formatting in a module": (lambda r: edit(r / LOCAL / "phase.py", "    return phase\n", "    # the phase\n    return (phase)\n"), NOTHING, None),
    "change an unreached function": (lambda r: edit(r / LOCAL / "phase.py", "def unused(t):\n    return t", "def unused(t):\n    return -t"), NOTHING, None),
    "change an unreached function two imports away": (lambda r: edit(r / LOCAL / "units.py", "24 * t", "25 * t"), NOTHING, None),
    "change an unreached constant": (lambda r: edit(r / LOCAL / "phase.py", "UNUSED = 1", "UNUSED = 2"), NOTHING, None),
    "touch a file": (lambda r: os.utime(r / "data/raw.csv"), NOTHING, None),
    "touch a module": (lambda r: os.utime(r / LOCAL / "phase.py"), NOTHING, None),
    "change the template's code": (lambda r: cells(r, lambda c: c[-1].update(source=c[-1]["source"].replace("3.0", "4.0"))), TRAIN_ON, "the code of its cells changed"),
    "change a function": (lambda r: edit(r / LOCAL / "phase.py", "/ period", "/ period % 1"), TRAIN_ON, "stars/phase.py: function fold changed"),
    "change a function two imports away": (lambda r: edit(r / LOCAL / "units.py", "return t * FACTOR", "return t * FACTOR + 1"), TRAIN_ON, "stars/units.py: function days changed"),
    "rename a local variable": (lambda r: edit(r / LOCAL / "phase.py", "    phase = units.days(t) / period\n    return phase", "    folded = units.days(t) / period\n    return folded"), ONLY_TRAIN, "stars/phase.py: function fold changed"),
    "change a constant that it reads": (lambda r: edit(r / LOCAL / "units.py", "FACTOR = 1.0", "FACTOR = 2.0"), TRAIN_ON, "stars/units.py: name FACTOR changed"),
    "change a class method": (lambda r: edit(r / LOCAL / "phase.py", "* self.scale", "* self.scale + 1"), TRAIN_ON, "stars/phase.py: class Curve changed"),
    "change a class attribute": (lambda r: edit(r / LOCAL / "phase.py", "scale = 2", "scale = 3"), TRAIN_ON, "stars/phase.py: class Curve changed"),
    "change a default argument": (lambda r: edit(r / LOCAL / "phase.py", "period=PERIOD", "period=0.5"), TRAIN_ON, "stars/phase.py: function fold changed"),
    "change __init__": (lambda r: (r / LOCAL / "__init__.py").write_text("import os\nos.environ['X'] = '1'\n"), ONLY_TRAIN, "stars/__init__.py: module-level code is used now"),
    "add code at the top level of a module": (lambda r: edit(r / LOCAL / "table.py", "ROWS = [1, 2]", "ROWS = [1, 2]\nROWS.append(3)"), ONLY_TRAIN, "stars/table.py: module-level code is used now"),
    "change a default of the template": (lambda r: cells(r, lambda c: c[2].update(source=c[2]["source"].replace("0.1", "0.2"))), ONLY_TRAIN, "argument rate changed (0.1 → 0.2)"),
    "change one byte of an input": (lambda r: (r / "data/raw.csv").write_text("0.86\n"), ["ingest", "train", "score"], None),
    "an input of equal size and time": (faked, ["ingest", "train", "score"], None),
    "an input that gives the same output": (lambda r: (r / "data/raw.csv").write_text("0.85\n\n"), ["ingest"], None),
    "add a class of errors that nobody uses": (lambda r: (edit(r / LOCAL / "phase.py", "UNUSED = 1", "UNUSED = 1\n\n\nclass Early(Exception):\n    pass\n\n\nclass Late(Early, TimeoutError):\n    pass")), NOTHING, None),
    "add a class whose base acts": (lambda r: (edit(r / LOCAL / "phase.py", "UNUSED = 1", "UNUSED = 1\n\n\nclass Plugin:\n    def __init_subclass__(cls):\n        globals()['PERIOD'] = 0.5\n\n\nclass Mine(Plugin):\n    pass")), TRAIN_ON, "stars/phase.py: module-level code is used now"),
    "a last line that is shown": (lambda r: cells(r, lambda c: c[-1].update(source=c[-1]["source"] + "\n42")), ONLY_TRAIN, "the code of its cells changed"),
    "a shell line": (lambda r: cells(r, lambda c: c[-1].update(source=c[-1]["source"] + "\n!true")), ONLY_TRAIN, "the code of its cells changed"),
}  # fmt: skip


def executed(root: Path, **options) -> list[str]:
    """Run the pipeline; return the steps that were executed."""
    before = {one.id for one in runs(root)}
    ended = run_pipeline(root=root, **options)
    assert ended.succeeded, ended.errors
    return [one.step for one in ended.runs if one.id not in before]


@pytest.mark.parametrize("name", CASES)
def test_what_an_edit_makes_stale(project, name):
    change, expected, reason = CASES[name]
    change(project)
    stood = {one.step: one for one in read_status(root=project)}
    if expected == ["ingest"]:
        assert stood["ingest"].status == "stale" and stood["train"].reasons == ("ingest is stale",)
    else:
        stale = [step for step, one in stood.items() if one.status != "fresh"]
        assert stale == (TRAIN_ON if expected == ONLY_TRAIN else expected), stood
    if reason:
        assert any(said.endswith(reason) for said in stood["train"].reasons), stood["train"].reasons
    assert executed(project) == expected
    assert {one.status for one in read_status(root=project)} == {"fresh"}
    assert executed(project) == []


def test_a_project_that_moved_and_a_clone_without_its_workspace(project):
    """The copy is in another folder already. Without the files that were laid out, they come from the store."""
    shutil.rmtree(project / "models")
    (project / "data/stars.csv").unlink()
    assert executed(project) == [] and (project / "models/m").exists() and (project / "data/stars.csv").read_text() == "0.85"


def test_a_changed_output_in_the_workspace_is_never_trusted(project):
    (project / "data/stars.csv").write_text("9.99")
    assert executed(project) == [] and (project / "data/stars.csv").read_text() == "0.85"


def test_from_another_folder_with_another_hash_seed(project):
    """The key is the same for every process."""
    for seed, folder in (("1", project), ("2", project / "data")):
        done = command("status", "--json", cwd=folder, PYTHONHASHSEED=seed)
        assert {one["status"] for one in json.loads(done.stdout)} == {"fresh"}, done


def test_an_edit_that_is_taken_back(project):
    """The earlier run is a hit again."""
    edit(project / LOCAL / "units.py", "FACTOR = 1.0", "FACTOR = 2.0")
    assert executed(project) == TRAIN_ON
    edit(project / LOCAL / "units.py", "FACTOR = 2.0", "FACTOR = 1.0")
    before = (project / "models/m").read_text()
    assert executed(project) == [] and (project / "models/m").read_text() != before


def test_a_package_that_is_upgraded(project, monkeypatch):
    """A reached one makes the step stale, an unreached one does not."""
    cells(project, lambda c: c[-1].update(source="import numpy\n" + c[-1]["source"]))
    executed(project)
    original = mlops_nb.environment.packages
    monkeypatch.setattr(mlops_nb.environment, "packages", lambda path=None: {**original(path), "papermill": "99"})
    assert {one.status for one in read_status(root=project)} == {"fresh"}
    monkeypatch.setattr(mlops_nb.environment, "packages", lambda path=None: {**original(path), "numpy": "99.0"})
    [train] = [one for one in read_status(root=project) if one.step == "train"]
    assert train.status == "stale" and train.reasons[0].startswith("numpy ") and train.reasons[0].endswith("→ 99.0")


def test_another_python(project, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 99, 0, "final", 0))
    assert "3.99" in read_status(root=project)[0].reasons[0]


def test_another_python_indeed(project, tmp_path):
    """Looked at with the tool in another Python, every step is stale and says so; looked at with this one again, every step is fresh."""
    here = "{}.{}".format(*sys.version_info)
    others = [f"3.{minor}" for minor in (12, 13, 14, 11) if f"3.{minor}" != here]
    pythons = {name: [shutil.which(f"python{name}"), *Path.home().glob(f".pyenv/versions/{name}.*/bin/python")] for name in others}
    usable = [(name, path) for name, paths in pythons.items() for path in paths if path and not subprocess.run([path, "-c", "import venv"], capture_output=True).returncode]
    if not usable:
        pytest.skip(f"NOT TESTED: another Python minor version; neither the PATH nor pyenv has one of {', '.join(others)}")
    other, path = usable[0]
    subprocess.run([path, "-m", "venv", tmp_path / "venv"], check=True)
    python, tool = tmp_path / "venv/bin/python", Path(mlops_nb.environment.__file__).parents[1]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", tool / "constraints.txt"]
    subprocess.run([*install, "typer", "pydantic", "psutil", "packaging", "ipykernel"], check=True)  # what looking needs; running needs more
    variables = {**os.environ, "PYTHONPATH": str(tool)}
    done = subprocess.run([python, "-m", "mlops_nb", "status", "--json"], cwd=project, env=variables, capture_output=True, text=True)
    [ingest, *after] = json.loads(done.stdout)
    assert ingest["status"] == "stale" and f"python {here} → {other}" in ingest["reasons"], done
    assert {one["status"] for one in after} == {"stale"} and executed(project) == []


def test_a_secret_that_is_rotated(tmp_path, monkeypatch):
    (tmp_path / "settings.ini").touch()
    path = write_notebook(tmp_path / "t.ipynb", "1", parameters='token = Secret("ARCHIVE_TOKEN")')
    monkeypatch.setenv("ARCHIVE_TOKEN", "first-value")
    first = run(path)
    monkeypatch.setenv("ARCHIVE_TOKEN", "second-value")
    assert run(path).id == first.id
    monkeypatch.delenv("ARCHIVE_TOKEN")
    assert run(path).id == first.id, "what need not run needs no secret"
    with pytest.raises(BadArgument, match="is not set"):
        run(path, force=True)


def test_a_pipeline_without_its_secret(tmp_path, monkeypatch):
    """What is fresh needs none; where something has to run, it is refused before anything does."""
    for number, parameters in (("10_fetch", 'token = Secret("ARCHIVE_TOKEN")\nraw = Output("raw")'), ("20_use", 'raw = Input("raw")\nuse = Output("use")\nsize: int = 1')):
        write_notebook(tmp_path / f"nbs/pipelines/p/{number}.ipynb", f"open({number[3:] if number == '20_use' else 'raw'}, 'w').write('x')", parameters=parameters)
    (tmp_path / "settings.ini").touch()
    monkeypatch.setenv("ARCHIVE_TOKEN", "first-value")
    assert run_pipeline(root=tmp_path).succeeded
    monkeypatch.delenv("ARCHIVE_TOKEN")
    assert executed(tmp_path) == [] and executed(tmp_path, arguments={"use": {"size": 2}}) == ["use"]
    with pytest.raises(BadArgument, match="is not set"):
        run_pipeline(root=tmp_path, force=True)
    (tmp_path / "runs/objects").rename(tmp_path / "elsewhere")
    with pytest.raises(BadArgument, match="is not set"):
        run_pipeline(root=tmp_path)


def test_a_notebook_that_is_run_by_another(project):
    """`%run` follows into notebooks and scripts."""
    write_notebook(project / "nbs/pipelines/shared.ipynb", "SHARED = 1")
    (project / "nbs/pipelines/extra.py").write_text("EXTRA = 1\n")
    cells(project, lambda c: c[-1].update(source="%run ../shared.ipynb\n%run ../extra.py\n" + c[-1]["source"]), "30_score")
    assert read_status(root=project)[-1].status == "stale"
    from mlops_nb.reach import read_reach
    from mlops_nb.template import read_template

    def reached():
        return read_reach(read_template(project / "nbs/pipelines/p/30_score.ipynb"), project).code

    first = reached()
    assert {"nbs/pipelines/shared.ipynb: cells", "nbs/pipelines/extra.py: script"} <= set(first)
    write_notebook(project / "nbs/pipelines/shared.ipynb", "SHARED = 2")
    (project / "nbs/pipelines/extra.py").write_text("EXTRA = 2\n")
    assert [name for name in first if reached()[name] != first[name]] == ["nbs/pipelines/extra.py: script", "nbs/pipelines/shared.ipynb: cells"]


@pytest.mark.parametrize("suffix", [".pyc", EXTENSION_SUFFIXES[-1]])
def test_a_local_module_that_is_compiled(project, suffix):
    """Its bytes count, also where it stands in the place of a module that was read."""
    compiled = project / LOCAL.parent / f"fast{suffix}"
    cells(project, lambda c: c[-1].update(source="try:\n    import fast\nexcept ImportError:\n    pass\n" + c[-1]["source"]))
    assert executed(project)
    for data in (b"first", b"other"):
        compiled.write_bytes(data)
        [train] = [one for one in read_status(root=project) if one.step == "train"]
        assert train.status == "stale" and any(compiled.name in reason for reason in train.reasons)
        assert executed(project) and "is compiled" in runs(project, step="train")[0].record["key"]["unseen"][0]


def test_a_docstring_that_is_read(project):
    """Where something may read one, docstrings count."""
    cells(project, lambda c: c[-1].update(source=c[-1]["source"] + "\nlen(fold.__doc__)"))
    assert executed(project)
    edit(project / LOCAL / "phase.py", '"""Fold."""', '"""Fold a curve."""')
    [train] = [one for one in read_status(root=project) if one.step == "train"]
    assert train.status == "stale" and train.reasons == ("nbs/pipelines/p/stars/phase.py: docstrings changed",)


def test_force_runs_what_is_fresh(project):
    assert executed(project, force=True) == ["ingest", "train", "score"]


def test_a_failed_run_is_never_a_hit(tmp_path):
    (tmp_path / "settings.ini").touch()
    path = write_notebook(tmp_path / "t.ipynb", "1 / 0", parameters="seed: int = 0")
    for _ in range(2):
        with pytest.raises(CellFailed):
            run(path)
    assert len(runs(tmp_path)) == 2


def test_a_notebook_that_declares_nothing_is_always_run(tmp_path):
    path = write_notebook(tmp_path / "t.ipynb", "1")
    assert run(path).id != run(path).id


def test_a_damaged_or_missing_object_is_no_hit(project):
    digest = runs(project, step="ingest")[0].record["outputs"]["stars"]["digest"]
    path = project / "runs/objects" / digest[:2] / digest[2:]
    path.chmod(0o644)
    path.write_text("9.99")
    assert executed(project) == ["ingest"]
    path.unlink(missing_ok=True)
    assert executed(project) == ["ingest"] and path.read_text() == "0.85"


def test_code_that_is_edited_while_it_runs(project):
    """Nobody can say which of the two ran, so the run is never a hit."""
    cells(project, lambda c: c[-1].update(source=c[-1]["source"] + "\nimport pathlib, stars.units\np = pathlib.Path(stars.units.__file__); p.write_text(p.read_text().replace('1.0', '3.0'))"))
    ended = run_pipeline(root=project)
    assert ended.runs[1].step == "train" and ended.runs[1].key is None


@pytest.mark.parametrize(
    ("code", "edited"),
    [
        ("from first import f\nx = f()\nfrom second import f\nx += f()", "first"),
        ("try:\n    from first import f\nexcept ImportError:\n    from second import f\nx = f()", "first"),
        ("try:\n    from first import f\nexcept ImportError:\n    from second import f\nx = f()", "second"),
        ("import sys\nsys.path.insert(0, '../src')\nimport hidden\nx = hidden.f()", "../src/hidden"),
        ("from sys import path\npath.append('../src')\nfrom hidden import f\nx = f()", "../src/hidden"),
        ("from importlib import import_module as load\nx = __import__('second').f()", "second"),
        ("import first as second\nimport second as other\nx = second.f() + other.f()", "second"),
        ("def call(module):\n    return getattr(module, 'f')()\nimport first\nx = call(first)", "first"),
        ("import package.deep as deep\nx = deep.f()", "package/deep"),
        ("from package import deep\nx = deep.f()", "package/deep"),
        ("from package import again\nx = again()", "package/deep"),
        ("from package import *\nx = again()", "package/deep"),
        ("import registry, plugins\nx = registry.CALLS[0]()", "plugins"),
        ("from child import Child\nx = Child().f()", "parent"),
        ("from inits import deep\nx = deep.f()", "inits/deep"),
        ("import inits\nx = inits.g()", "inits/deep"),
        ("from package.registry import R\nfrom package import plugin\nx = R['a']", "package/plugin"),
        ("from first import f\n%time x = f()", "first"),
        ("%time from first import f\nx = f()", "first"),
        ("%%time\nfrom first import f\nx = f()", "first"),
        ("from first import f\nx = ('%s %s'\n  % (f(), 2))", "first"),
        ("from first import *\nx = globals()['f']()", "first"),
        ("from first import f\nx = eval('f()')", "first"),
        ("from second import *\nfrom first import *\nx = f()", "first"),
        ("from second import f\nfrom first import *\nx = f()", "first"),
        ("import guarded\nx = guarded.T['a']", "guarded"),
        ("import reordered\nx = reordered.f()", "reordered"),
        ("from importlib import import_module as load\nx = load('first').f()", "first"),
        ("import runpy\nx = runpy.run_path('first.py')['f']()", "first"),
        ("%run first\nx = f()", "first"),
        ("import cyclic\nx = cyclic.f()", "cyclic"),
        ("import decorated\nx = decorated.CALLS[0]()", "decorated"),
    ],
)
def test_no_stale_result_through_any_import(tmp_path, code, edited):
    """Whatever way the code takes to a function, an edit of the function is seen."""
    root = tmp_path / "project"
    files = {
        "settings.ini": "", "nbs/first.py": "def f():\n    return 1\n", "nbs/second.py": "def f():\n    return 1\n", "src/hidden.py": "def f():\n    return 1\n",
        "nbs/package/__init__.py": "from .deep import f as again\n__all__ = ['again']\n", "nbs/package/deep.py": "def f():\n    return 1\n",
        "nbs/registry.py": "CALLS = []\ndef register(f):\n    CALLS.append(f)\n    return f\n",
        "nbs/plugins.py": "from registry import register\n@register\ndef f():\n    return 1\n",
        "nbs/inits/__init__.py": "from . import deep\ndef g():\n    return deep.f()\n", "nbs/inits/deep.py": "def f():\n    return 1\n",
        "nbs/package/registry.py": "R = {}\n", "nbs/package/plugin.py": "from .registry import R\ndef make():\n    return 1\nR['a'] = make()\n",
        "nbs/guarded.py": "T = {}\nif __name__ != '__main__':\n    def make():\n        return 1\n    T['a'] = make()\n",
        "nbs/reordered.py": "A = 1\nB = A\nA = 2\ndef f():\n    return 1 + B\n",
        "nbs/cyclic.py": "from cycle import *\ndef f():\n    len([1])\n    return 1\n", "nbs/cycle.py": "from cyclic import *\n",
        "nbs/decorated.py": "CALLS = []\ndef cache(f):\n    CALLS.append(f)\n    return f\n@cache\ndef g():\n    return 1\n",
        "nbs/parent.py": "class Parent:\n    def f(self):\n        return 1\n", "nbs/child.py": "from parent import Parent\nclass Child(Parent):\n    pass\n",
    }  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    path = write_notebook(root / "nbs" / "t.ipynb", f"{code}\nglue('x', x)", parameters="seed: int = 0")
    first = run(path)
    assert run(path).id == first.id
    edit(root / "nbs" / f"{edited}.py", "return 1", "return 100")  # the result is another one
    second = run(path)
    assert second.id != first.id, "served stale"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from math import floor as rnd\ndef f():\n    return rnd(1.5)", "from math import ceil as rnd\ndef f():\n    return rnd(1.5)"),
        ("import math as m\ndef f():\n    return str(m.sqrt(4))", "import cmath as m\ndef f():\n    return str(m.sqrt(4))"),
        ("A = 1\nB = A\nA = 2\ndef f():\n    return B", "A = 1\nA = 2\nB = A\ndef f():\n    return B"),
        ("TYPE_CHECKING = False\nif not TYPE_CHECKING:\n    X = 1\ndef f():\n    return X", "TYPE_CHECKING = False\nif not TYPE_CHECKING:\n    X = 2\ndef f():\n    return X"),
        ("import sys\ndef g():\n    return 1\ndef f():\n    return getattr(sys.modules[__name__], 'g')()", "import sys\ndef g():\n    return 2\ndef f():\n    return getattr(sys.modules[__name__], 'g')()"),
    ],
)
def test_edits_of_a_module_that_change_what_it_gives(tmp_path, monkeypatch, before, after):
    """Also where the edited file has the old one's size and time, for which Python would run what it compiled before."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / "settings.ini").touch()
    path = write_notebook(tmp_path / "t.ipynb", "import mod\nglue('x', mod.f())", parameters="seed: int = 0")
    (tmp_path / "mod.py").write_text(before + "\n")
    times = (tmp_path / "mod.py").stat().st_atime_ns, (tmp_path / "mod.py").stat().st_mtime_ns
    first = run(path)
    assert list((tmp_path / "__pycache__").glob("mod.*.pyc"))
    (tmp_path / "mod.py").write_text(after + "\n")
    os.utime(tmp_path / "mod.py", ns=times)
    second = run(path)
    assert second.id != first.id and second.results != first.results


def test_edits_of_a_template_that_its_arguments_do_not_hide(tmp_path):
    """A default that the cell itself uses, a tuple that becomes a list, a tag that decides what runs, an input of another name."""
    (tmp_path / "settings.ini").touch()
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "b.csv").write_text("x")

    def ids(parameters: str, code: str, arguments: dict, tags: list[str] | None = None) -> str:
        path = write_notebook(tmp_path / "t.ipynb", code, parameters=parameters)
        notebook = json.loads(path.read_text())
        notebook["cells"][2]["metadata"]["tags"] = tags or []
        path.write_text(json.dumps(notebook))
        return run(path, arguments).id

    for one, other in [
        (("n: int = 3\nnames = []\nnames.append(n)", "glue('x', names)", {"n": 9}), ("n: int = 4\nnames = []\nnames.append(n)", "glue('x', names)", {"n": 9})),
        (("pair = (1, 2)", "glue('x', type(pair).__name__)", {}), ("pair = [1, 2]", "glue('x', type(pair).__name__)", {})),
        (("n: int = 3", "glue('x', n)", {}, ["skip-execution"]), ("n: int = 3", "glue('x', n)", {})),
        (('raw = Input("a.csv")', "glue('x', raw[-5:])", {}), ('raw = Input("a.csv")', "glue('x', raw[-5:])", {"raw": "b.csv"})),
    ]:
        first = ids(*one)
        assert ids(*one) == first and ids(*other) != first, (one, other)


def test_a_package_of_the_project_that_is_imported_by_a_path_of_the_environment(tmp_path):
    """PYTHONPATH, a `.pth` file and an editable install lead to local code that is not beside the notebook."""
    (tmp_path / "settings.ini").touch()
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "starlib.py").write_text("def f():\n    return 1\n")
    write_notebook(tmp_path / "t.ipynb", "import starlib\nglue('x', starlib.f())", parameters="seed: int = 0")

    def execute() -> str:
        done = command("run", "t.ipynb", cwd=tmp_path, PYTHONPATH=str(tmp_path / "src"))
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "succeeded" in execute() and "fresh" in execute()
    (tmp_path / "src" / "starlib.py").write_text("def f():\n    return 2\n")
    assert "succeeded" in execute()


@pytest.mark.parametrize("reader", ["", "import importlib_metadata"])
def test_what_is_left_of_a_package_that_was_half_removed(tmp_path, reader):
    """Folders without metadata, as an interrupted pip leaves them, own nothing, with either reader of metadata."""
    for name in ("odd-1.0.dist-info", "~umpy-1.0.dist-info", "old.egg-info"):
        (tmp_path / "site" / name).mkdir(parents=True)
    code = f"{reader}\nfrom mlops_nb.environment import packages, reached_packages\nprint('numpy' in reached_packages(['numpy']), [name for name in packages() if name in ('~umpy', 'old')])"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True)
    assert done.stdout == "True []\n", done.stderr


def test_a_kernel_of_another_environment(project, monkeypatch, tmp_path):
    """The packages of the Python that runs the kernel count, not those of the one that starts it."""
    import venv

    import mlops_nb.key

    venv.create(tmp_path / "other", with_pip=False)
    python = str(tmp_path / "other/bin/python")
    monkeypatch.setattr(mlops_nb.key, "kernel_python", lambda name, memory: python)
    before = read_status(root=project)[0]
    assert before.status == "stale"
    site = next((tmp_path / "other").glob("lib/python*/site-packages"))
    (site / "starlib-1.0.dist-info").mkdir()
    mlops_nb.environment._asked.cache_clear()
    assert any("starlib" in reason for reason in read_status(root=project)[0].reasons)


def test_equal_cells_of_two_templates_are_two_runs(tmp_path):
    """A hit is a run of the same template."""
    (tmp_path / "settings.ini").touch()
    for name in ("a", "b"):
        path = write_notebook(tmp_path / name / "t.ipynb", "glue('x', open('x.txt').read())", parameters="seed: int = 0")
        (tmp_path / name / "x.txt").write_text(name)
        assert run(path).results == {"x": name}


def test_results_are_those_that_are_laid_out(project):
    """After an argument was tried and taken back, `results` tells of the run that is fresh again."""
    first = run_pipeline(root=project).runs[1]
    other = run(project / "nbs/pipelines/p/20_train.ipynb", {"rate": 0.9})
    assert other.pipeline == "p" and other.id != first.id
    printed = json.loads(command("results", "p", "--json", cwd=project).stdout)
    assert set(printed) == {"ingest", "train", "score"}
    assert [one.run.id for one in read_status(root=project) if one.step == "train"] == [first.id]


def test_a_notebook_of_a_run_that_was_deleted_comes_back(project):
    one = runs(project, step="train")[0]
    shutil.rmtree(one.notebook.parent)
    assert executed(project) == [] and one.notebook.exists()


def test_several_that_ask_at_once_run_it_once(tmp_path):
    (tmp_path / "settings.ini").touch()
    write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(2)", parameters="seed: int = 0")
    started = [subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", "t.ipynb"], cwd=tmp_path, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4
    assert len(runs(tmp_path)) == 1 and sum("fresh, nothing to do" in text for text in said) == 3


NAMES = ["a", "b", "c"]


@st.composite
def module_graphs(draw):
    """Modules m0 … m2, each with functions a, b, c that call functions of later modules in one of several ways."""
    sources = []
    for index in range(3):
        lines = [f"K = {draw(st.integers(0, 1))}"]
        for name in NAMES:
            body = str(draw(st.integers(0, 2)))
            if index < 2 and draw(st.booleans()):
                other, called = draw(st.integers(index + 1, 2)), draw(st.sampled_from(NAMES))
                way = draw(st.sampled_from(["from", "as", "module", "inside", "star"]))
                top = {"from": f"from m{other} import {called} as {name}_{called}", "as": f"import m{other} as mm{other}", "module": f"import m{other}", "star": f"from m{other} import *", "inside": ""}[way]
                call = {"from": f"{name}_{called}()", "as": f"mm{other}.{called}()", "module": f"m{other}.{called}()", "star": "K", "inside": f"__import__('m{other}').{called}()"}[way]
                if top:
                    lines.insert(0, top)
                body += f" + {call}"
            lines.append(f"def {name}():\n    return {body} + K")
        sources.append("\n".join(lines) + "\n")
    return sources


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=module_graphs(), after=module_graphs(), entry=st.sampled_from(NAMES))
def test_equal_reach_means_equal_results(tmp_path_factory, before, after, entry):
    """For random modules and random edits: where the reach is the same, what runs gives the same."""
    from mlops_nb.reach import read_reach
    from mlops_nb.template import read_template

    found = []
    for sources in (before, after):
        root = tmp_path_factory.mktemp("graph")
        code = f"import m0\nresult = m0.{entry}()"
        write_notebook(root / "t.ipynb", code)
        for index, source in enumerate(sources):
            (root / f"m{index}.py").write_text(source)
        names: dict = {}
        for name in ("m0", "m1", "m2"):
            sys.modules.pop(name, None)
        sys.path.insert(0, str(root))
        try:
            exec(code, names)
        finally:
            sys.path.remove(str(root))
        found.append((read_reach(read_template(root / "t.ipynb"), root).code, names["result"]))
    (one, first), (other, second) = found
    if one == other:
        assert first == second
