"""A run is run again from its own code, inputs and environment, and what does not come out the same is named."""

import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from making import command, write_notebook

from mlops_nb.environment import reached_packages
from mlops_nb.errors import BadArgument
from mlops_nb.plain import load
from mlops_nb.record import runs, write_record
from mlops_nb.reproduce import reproduce, run_again
from mlops_nb.scene import recorded_run
from mlops_nb.settings import read_settings
from mlops_nb.step import run
from mlops_nb.venv import lay_over, make_venv

FOLD = "nbs/pipelines/stars/20_fold.ipynb"
PHASE = "PERIOD = 0.85\n\n\ndef fold(t):\n    return t % PERIOD\n"
CODE = """import os, random, time
from phase import fold
from stellar import SCALE
values = [fold(float(line)) for line in open(stars)]
mean = sum(values) / len(values) * SCALE + noise * random.random()
open(folded, 'w').write('value\\n' + '\\n'.join(f'{v + noise * random.random()}' for v in values))
glue('mean', mean)
glue('table', {'table': {'columns': ['n', 'mean'], 'rows': [[len(values), mean]]}})
print(f'mean {mean:.4f} of {object()} took {random.random():.9f} s in {os.getcwd()}')"""


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, subject: str = "Fold stars") -> None:
    git(root, "add", "--all")
    git(root, "commit", "-qm", subject)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project under git with one step: it imports a module beside it and one of the root, reads data that git does not have, and can be told to be random."""
    root = tmp_path_factory.mktemp("made") / "project"
    write_notebook(root / FOLD, CODE, parameters='stars = Input("data/stars.csv")\nfolded = Output("data/folded.csv")\nnoise: float = 0.0')
    files = {".gitignore": "/runs/\n/data/\n__pycache__/\n", "settings.ini": "[store]\npath = runs\n", "nbs/pipelines/stars/phase.py": PHASE,
             "src/stellar.py": "SCALE = 2\n", "data/stars.csv": "1.0\n2.5\n4.0\n"}  # fmt: skip
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root.parent, "init", "-q", "-b", "main", str(root))
    commit(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root / "src"))
        run(root / FOLD)
    return root


@pytest.fixture
def project(made, tmp_path, monkeypatch):
    """A copy of the project, store and data included."""
    root = tmp_path / "project"
    shutil.copytree(made, root, symlinks=True)
    monkeypatch.setenv("PYTHONPATH", str(root / "src"))
    return root


def reasons(found) -> str:
    """Return everything that a reproduction says, as one text."""
    notebook = [*found.notebook.results, *(output.difference for cell in found.notebook.cells for output in cell.outputs)] if found.notebook else []
    return "\n".join([found.reason, *found.notes, *(reason for one in (*notebook, *found.outputs) for reason in one.reasons)])


def edit(path: Path, before: str, after: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def worktrees(root: Path) -> int:
    return git(root, "worktree", "list", "--porcelain").count("worktree ")


def test_what_was_edited_since_takes_no_part(project):
    """The code is the commit's and the input the recorded one, in the present environment; the tree, the store and the records stay as they are."""
    edit(project / "nbs/pipelines/stars/phase.py", "0.85", "0.5")
    edit(project / "src/stellar.py", "2", "1000")
    edit(project / FOLD, "mean =", "mean = 7 +")
    recorded = next(iter(runs(project)))
    (project / "data" / "folded.csv").unlink()
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts and "reproductions" not in path.parts}
    found = reproduce("fold", root=project, here=True)
    assert (found.verdict, found.share, found.percentage) == ("identical", 1.0, 100), reasons(found)
    assert found.run == recorded.id and found.packages == () and found.environment == "the present one"
    assert [one.verdict for one in found.outputs] == ["identical"]
    printed = next(output.difference for cell in found.notebook.cells for output in cell.outputs if output.kind == "stdout")
    assert {"timing", "folder"} <= set(printed.ignored)
    after = {path: path.read_bytes() for path in project.rglob("*") if path.is_file() and ".git" not in path.parts and "reproductions" not in path.parts}
    changed = {path.relative_to(project).as_posix() for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"runs/digests.sqlite", "runs/index.sqlite", "runs/packages.json"}
    assert len(runs(project)) == 1 and worktrees(project) == 1
    assert load((found.folder / "reproduction.json").read_bytes())["verdict"] == "identical" and (found.folder / "20_fold.ipynb").exists()


def test_random_numbers_are_caught_unless_a_tolerance_allows_them(project):
    """The result, the table, the printed number and the written file are each compared; one entry allows what is called by its name."""
    recorded = run(project / FOLD, {"noise": 100.0})
    found = reproduce(recorded.id, root=project, here=True)
    assert found.verdict == "differs" and found.share == 0
    said = reasons(found)
    assert "mean " in said and "table: column mean: 1 of 1 values differ" in said and "line 1: mean" in said and "folded: column value: 3 of 3 values differ" in said
    (project / "settings.ini").write_text("[tolerance]\nmean = 1000\nvalue = 1000\n")
    assert reproduce(recorded.id, root=project, here=True).verdict == "within tolerance"
    (project / "settings.ini").write_text("[tolerance]\nmean = 1000\nfolded = any\n")
    found = reproduce(recorded.id, root=project, here=True)
    assert found.verdict == "within tolerance" and found.share == 1


def test_changes_that_were_not_committed_are_brought_back(project):
    edit(project / "nbs/pipelines/stars/phase.py", "0.85", "0.45")
    (project / "nbs/pipelines/stars/constants.py").write_text("ZERO = 0\n")
    edit(project / "nbs/pipelines/stars/phase.py", "PERIOD =", "from constants import ZERO\nPERIOD = ZERO +")
    recorded = run(project / FOLD)
    patch = recorded.record["revision"]["patch"]
    git(project, "checkout", "--quiet", ".")
    (project / "nbs/pipelines/stars/constants.py").unlink()
    found = reproduce(recorded.id, root=project, here=True)
    assert found.verdict == "identical" and "they were brought back" in reasons(found)
    (project / "runs" / "objects" / patch[:2] / patch[2:]).unlink()
    found = reproduce(recorded.id, root=project, here=True)
    assert found.verdict == "did not run" and "the store does not have them" in found.reason and "phase.py" in found.reason


def test_what_cannot_be_brought_back_is_said_and_nothing_is_run(project):
    """An input with another content, and one that is gone; a commit that git does not have; a run that failed."""
    recorded = next(iter(runs(project)))
    (project / "data" / "stars.csv").write_text("9.0\n")
    assert "the file has another content now" in reproduce("fold", root=project, here=True).reason
    (project / "data" / "stars.csv").unlink()
    found = reproduce("fold", root=project, here=True)
    assert found.verdict == "did not run" and found.percentage == 0 and "stars = 'data/stars.csv'" in found.reason and "nothing lies there now" in found.reason
    file = project / "runs" / "records" / f"{recorded.id}.json"
    record = recorded.record
    edit(file, record["revision"]["commit"], "0" * 40)
    assert "is not in this clone" in reproduce("fold", root=project, here=True).reason
    write_record(project / "runs", {**record, "status": "failed"})
    with pytest.raises(BadArgument, match="only a run that succeeded"):
        reproduce(recorded.id, root=project, here=True)
    assert worktrees(project) == 1


def test_an_input_that_git_has_is_taken_from_the_commit(project):
    """It may have been edited since."""
    git(project, "add", "--force", "data/stars.csv")
    git(project, "commit", "-qm", "Add the stars")
    recorded = run(project / FOLD, force=True)
    (project / "data" / "stars.csv").write_text("9.0\n")
    assert reproduce(recorded.id, root=project, here=True).verdict == "identical"


def test_a_file_that_was_read_and_not_declared_is_missing(project):
    """Git does not have it and no record names it, so the second run fails where the first did not."""
    write_notebook(project / FOLD, "glue('n', len(open('../../../data/stars.csv').read()))", parameters="n: int = 1")
    commit(project)
    recorded = run(project / FOLD)
    found = reproduce(recorded.id, root=project, here=True)
    assert found.verdict == "did not run" and "FileNotFoundError" in found.reason
    assert str(project) not in found.reason.partition("FileNotFoundError")[0]


def test_an_interruption_leaves_no_checkout(project):
    write_notebook(project / FOLD, "import time, os\nif os.path.exists(where):\n    open(where, 'w').write('here')\n    time.sleep(60)", parameters="where: str = ''")
    commit(project)
    flag = project.parent / "flag"
    recorded = run(project / FOLD, {"where": str(flag)})
    flag.touch()
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb", "reproduce", recorded.id, "--here"], cwd=project, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not flag.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert worktrees(project) == 2
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert worktrees(project) == 1 and "Traceback" not in said


def test_what_a_killed_process_left_is_cleared_away(project):
    write_notebook(project / FOLD, "import time, os\nif os.path.exists(where):\n    open(where, 'w').write('here')\n    time.sleep(60)", parameters="where: str = ''")
    commit(project)
    flag = project.parent / "flag"
    recorded = run(project / FOLD, {"where": str(flag)})
    flag.touch()
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb", "reproduce", recorded.id, "--here"], cwd=project, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not flag.read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.kill()
    process.wait()
    assert worktrees(project) == 2
    flag.unlink()
    assert reproduce(recorded.id, root=project, here=True).verdict == "identical"
    assert worktrees(project) == 1


PACKAGE = '[build-system]\nrequires = ["setuptools>=80"]\nbuild-backend = "setuptools.build_meta"\n[project]\nname = "stellar-folds"\nversion = "1.0"\n[tool.setuptools.packages.find]\nwhere = ["lib"]\n'


@pytest.mark.timeout(900)  # pip installs thirty packages
def test_the_recorded_environment_is_made_again(tmp_path, monkeypatch):
    """The packages are the recorded ones, and not those that are here; an environment of the same list is used again. The project's own package is installed from the checkout. What cannot be installed is said."""
    root = tmp_path / "project"
    write_notebook(
        root / "nbs" / "pipelines" / "stars" / "10_scale.ipynb",
        "import importlib.metadata, importlib.util, sys\nfrom stellar import SCALE\nglue('scale', SCALE)\nglue('own', importlib.metadata.version('stellar-folds'))\n"
        "glue('pandas', importlib.util.find_spec('pandas') is not None)\nglue('prefix', sys.prefix)",
        parameters="n: int = 1",
    )
    for name, text in {".gitignore": "/runs/\n*.egg-info/\n__pycache__/\n", "pyproject.toml": PACKAGE, "lib/stellar/__init__.py": "SCALE = 2\n", "settings.ini": "[tolerance]\nprefix = any\n"}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    commit(root)
    own = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    packages = {**reached_packages(["ipykernel"]), "pip": own, "setuptools": metadata.version("setuptools")}
    place, _ = make_venv(packages, platform.python_version(), root / "runs" / "environments")
    python = lay_over(place, tmp_path / "layer", root)
    kernel = {"argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "small", "language": "python"}
    (tmp_path / "jupyter" / "kernels" / "small").mkdir(parents=True)
    (tmp_path / "jupyter" / "kernels" / "small" / "kernel.json").write_text(json.dumps(kernel))
    with monkeypatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
        patch.delenv("PYTHONPATH", raising=False)
        recorded = run(root / "nbs" / "pipelines" / "stars" / "10_scale.ipynb", kernel="small")
    assert recorded.results["pandas"] is False and recorded.results["own"] == "1.0"
    edit(root / "lib" / "stellar" / "__init__.py", "2", "1000")
    shutil.rmtree(tmp_path / "layer")

    found = reproduce(recorded.id, root=root)
    assert (found.verdict, found.environment, found.packages) == ("identical", "kept from before", ()), reasons(found)

    known = recorded_run(recorded)
    other = {**known.environment, "packages": {**known.environment["packages"], "ipykernel": "0.0.999"}}
    found = run_again(replace(known, environment=other), read_settings(root))
    assert found.verdict == "did not run" and "ipykernel==0.0.999" in found.reason and "--here" in found.reason
    other = {**known.environment, "python": {"version": "3.2.1", "implementation": "CPython"}}
    assert "there is no python3.2 here" in run_again(replace(known, environment=other), read_settings(root)).reason
    assert len(list((root / "runs" / "environments").glob("*/complete"))) == 1, "what could not be made is not taken for an environment"


def test_the_command_says_the_verdict_and_writes_page_badge_and_json(project):
    """Exit code 0 where it is the same, 1 where it differs, 3 where it did not run, 2 where it is refused; nothing is loaded from elsewhere."""
    edit(project / "nbs/pipelines/stars/phase.py", "0.85", "0.5")
    page, badge = project.parent / "page.html", project.parent / "badge.svg"
    done = command("reproduce", "fold", "--here", "--html", page, "--badge", badge, cwd=project)
    assert done.returncode == 0 and done.stdout.startswith("fold: identical, 100 %  ("), done.stdout + done.stderr
    assert "Content-Security-Policy" in page.read_text() and "<script" not in page.read_text() and not re.search(r'(?:src|href)=["\']?(?:https?:)?//', page.read_text())
    assert "reproduced: 100 % (identical)" in badge.read_text()
    recorded = run(project / FOLD, {"noise": 0.1})
    done = command("reproduce", recorded.id, "--here", "--json", cwd=project)
    said = json.loads(done.stdout)
    assert done.returncode == 1 and said["verdict"] == "differs" and any(one["verdict"] == "differs" for one in said["results"])
    assert sorted(path.name for path in (project / "runs" / "reproductions").glob(f"{recorded.id}*/*")) == ["20_fold.ipynb", "badge.svg", "report.html", "reproduction.json"]
    (project / "data" / "stars.csv").unlink()
    done = command("reproduce", recorded.id, "--here", cwd=project)
    assert done.returncode == 3 and "fold: did not run" in done.stdout and "nothing lies there now" in done.stdout
    for words in (["nothing-like-it"], [], ["fold", "--timeout", "0"]):
        done = command("reproduce", *words, cwd=project)
        assert done.returncode == 2 and done.stderr.startswith("mlops-nb: ") and "Traceback" not in done.stderr


def test_an_image_that_cannot_be_had_again_is_refused(project):
    """Before any engine is asked: the run was made in none, or nobody knows in which, or there is none that was pushed."""
    recorded = next(iter(runs(project)))
    for image, said in (None, "was not made in an image"), ({"name": None, "digest": None, "environment": "a" * 64, "commit": "b" * 40}, "cannot be had again (its name was not told"):
        write_record(project / "runs", {**recorded.record, "image": image})
        done = command("reproduce", recorded.id, "--in-image", cwd=project)
        assert done.returncode == 2 and said in done.stderr and "leave out --in-image" in done.stderr, done.stderr
    for words, said in (["fold", "--in-image", "--here"], "leave out --here"), (["--published", "--in-image"], "there is no image.json"):
        done = command("reproduce", *words, cwd=project)
        assert done.returncode == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


def test_code_that_is_not_what_ran_is_not_run(project):
    """The commit is asked by digest: the cells, and every function that they reach."""
    known = recorded_run(next(iter(runs(project))))
    assert known.parts["reach"], "the step imports code of the project"
    reach = {**known.parts["reach"], next(iter(known.parts["reach"])): "0" * 64}
    found = run_again(replace(known, parts={**known.parts, "reach": reach}), read_settings(project), here=True)
    assert found.verdict == "did not run" and "not the code that ran" in found.reason and next(iter(reach)) in found.reason
    found = run_again(replace(known, parts={**known.parts, "code": {"cells": "0" * 64}}), read_settings(project), here=True)
    assert found.verdict == "did not run" and "not the notebook that ran" in found.reason
