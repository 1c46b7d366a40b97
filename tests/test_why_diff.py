"""`why --diff` shows the code that ran beside the code of today, and never other code in its place."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from making import command, write_notebook, write_project

from mlops_nb.changes import read_changes
from mlops_nb.pipeline import run_pipeline
from mlops_nb.record import runs
from mlops_nb.template import read_template

PHASE = '''import math


def fold(t, period):
    """Fold."""
    return t % period


def unused():
    return 1


class Curve:
    scale = 2

    def at(self, t):
        return fold(t, 0.5) * self.scale
'''
CELLS = ["from phase import Curve, fold\nimport fresh", "rate_now = rate * 2", 'open(model, "w").write(str(fold(3.0, 0.85) + Curve().at(1.0) + rate_now))']
PARAMETERS = 'model = Output("models/network.json")\nrate: float = 0.1'


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "gc.auto=0"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


def template(root: Path) -> Path:
    return root / "nbs" / "pipelines" / "stars" / "20_train.ipynb"


def write_template(root: Path, *cells: str, parameters: str = PARAMETERS) -> None:
    write_notebook(template(root), *cells, parameters=parameters)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project in a folder below the top of its repository; one module has an uncommitted edit, one is new; its step has run."""
    top = tmp_path_factory.mktemp("repository")
    root = write_project(top / "study", {})
    write_template(root, *CELLS)
    here = template(root).parent
    (here / "phase.py").write_text(PHASE.replace("t % period", "t"))
    (root / ".gitignore").write_text("/runs/\n/models/\n__pycache__/\nignored.py\n")
    git(top, "init", "-q")
    git(top, "add", ".")
    git(top, "commit", "-qm", "Begin")
    (here / "phase.py").write_text(PHASE)
    (here / "fresh.py").write_text("import ignored\nLEVEL = ignored.level()\nprint(LEVEL)\n")
    (here / "ignored.py").write_text("def level():\n    return 1\n")
    assert run_pipeline(root=root).succeeded
    return root


@pytest.fixture
def project(finished, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(finished.parent, tmp_path / "repository", symlinks=True) / "study"


def test_cells_and_definitions_then_and_now(project):
    """Shown is what counts: not prose, not what nothing reached; uncommitted code is that which ran, not that of the commit."""
    here = template(project).parent
    assert "nothing changed" not in command("why", "train", "--diff", cwd=project).stdout, "a fresh step has nothing to show"
    write_template(project, CELLS[0], "rate_now = rate * 3", CELLS[2], "print('new')")
    edit(here / "phase.py", "t % period", "(t / period) % 1")
    edit(here / "phase.py", "return 1", "return 2")
    edit(here / "phase.py", "scale = 2", "scale = 2  # a comment")
    edit(here / "fresh.py", "print(LEVEL)", "print(LEVEL, LEVEL)")
    done = command("why", "train", "--diff", cwd=project)
    assert done.returncode == 0, done.stderr
    reasons, _, shown = done.stdout.partition(f"\nthe code since the run {runs(project)[0].id}:\n")
    assert "the code of its cells changed" in reasons and "phase.py: function fold changed" in reasons
    assert "--- 20_train.ipynb, cell 4 (then)\n+++ 20_train.ipynb, cell 4 (now)\n@@ -1 +1 @@\n-rate_now = rate * 2\n+rate_now = rate * 3\n" in shown
    assert "20_train.ipynb, cell 6, new (now)\n@@ -0,0 +1 @@\n+print('new')\n" in shown
    assert '     """Fold."""\n-    return t % period\n+    return (t / period) % 1\n' in shown, "the edit that was never committed is the code that ran"
    assert "-print(LEVEL)\n+print(LEVEL, LEVEL)" in shown, "a file that was new is in the patch"
    assert "unused" not in shown and "class Curve" not in shown and "injected" not in shown and "\x1b" not in shown


def test_what_is_gone_and_what_is_used_now(project):
    here = template(project).parent
    write_template(project, "from phase import fold, unused", CELLS[1], 'open(model, "w").write(str(fold(3.0, 0.85) + rate_now + unused()))')
    edit(here / "phase.py", PHASE[PHASE.index("class Curve") :], "")
    changes = {change.what.rpartition(": ")[2]: change for change in read_changes(runs(project)[0], read_template(template(project)), project)}
    assert changes["function unused"].why == "it is used now and was not then; its code is the same"
    assert "-    scale = 2" in changes["class Curve"].diff and "+" not in changes["class Curve"].diff.partition("@@")[2].replace("+0,0", "")
    assert changes["function level"].why.endswith("ignored.py was not in git when its run began, so the code of then is not known")


def test_code_that_cannot_be_had_is_not_replaced(project):
    """One sentence per item: the commit is gone, the patch is gone, there is no git, the notebook is gone."""
    here, run = template(project).parent, runs(project)[0]
    edit(here / "phase.py", "t % period", "t + period")
    write_template(project, *CELLS[:2], CELLS[2] + " ")
    write_template(project, CELLS[0], "rate_now = rate", CELLS[2])

    def said() -> dict[str, str]:
        return {change.what.rpartition("/")[2]: change.why or "diff" for change in read_changes(run, read_template(template(project)), project)}

    assert said() == {"20_train.ipynb, cell 4": "diff", "phase.py: function fold": "diff"}
    store = project / "runs" / "objects"
    patch = run.record["revision"]["patch"]
    (store / patch[:2] / patch[2:]).unlink()
    assert said()["phase.py: function fold"] == "what git has of that time is not what ran, so the code of then is not known"
    (project.parent / ".git").rename(project.parent / "away")
    git(project.parent, "init", "-q")
    assert f"no longer has the commit {run.record['revision']['commit'][:12]}" in said()["phase.py: function fold"]
    notebook = run.record["notebook"]
    (store / notebook[:2] / notebook[2:]).unlink()
    assert "no longer has the executed notebook" in said()["20_train.ipynb"]
    parts = run.record["key"]["parts"]
    (store / parts[:2] / parts[2:]).unlink()
    assert list(said().values()) == ["the store no longer has what the key of its run was made from"]


def test_a_step_that_never_succeeded(tmp_path):
    root = write_project(tmp_path / "project", {"20_train": (PARAMETERS, "pass")})
    assert "nothing to compare with" in command("why", "train", "--diff", cwd=root).stdout


def test_colours_on_a_terminal_alone(project):
    edit(template(project).parent / "phase.py", "t % period", "t + period")

    def on_a_terminal(**variables: str) -> str:
        bare = {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "NO_COLOR")}
        child, fd = pty.fork()
        if child == 0:
            os.chdir(project)
            os.execve(sys.executable, [sys.executable, "-m", "mlops_nb", "why", "train", "--diff"], {**bare, **variables})
        printed = b""
        while True:
            try:
                piece = os.read(fd, 10_000)
            except OSError:
                break
            if not piece:
                break
            printed += piece
        assert os.waitpid(child, 0)[1] == 0, printed
        return printed.decode()

    assert "\x1b[31m-    return t % period\x1b[0m" in on_a_terminal() and "\x1b[" not in on_a_terminal(NO_COLOR="1")
    assert json.loads(command("status", "--json", cwd=project).stdout)[0]["status"] == "stale"
