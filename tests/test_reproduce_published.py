"""What is published is run again from a clone alone."""

import subprocess
from pathlib import Path

import pytest
from making import command, write_notebook

from mlops_nb.errors import BadPublication
from mlops_nb.pipeline import run_pipeline
from mlops_nb.publish import publish
from mlops_nb.reproduce import reproduce_published

STEPS = {
    "10_ingest": ('raw = Input("raw.csv")\nstars = Output("data/stars.csv")\nnoise: float = 0.0', "import random\nopen(stars, 'w').write(f'{float(open(raw).read()) + noise * random.random()}')"),
    "20_fold": ('stars = Input("data/stars.csv")', "from phase import fold\nvalue = fold(float(open(stars).read()))\nglue('folded', value)\nprint(f'folded {value:.3f} of {stars}')"),
}


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clone(tmp_path):
    """A clone, without a store and without the commit that was recorded, of a project whose pipeline was run before its last changes were committed, and published with them."""
    root = tmp_path / "project"
    for name, (parameters, code) in STEPS.items():
        write_notebook(root / "nbs" / "pipelines" / "stars" / f"{name}.ipynb", code, parameters=parameters)
    phase = root / "nbs" / "pipelines" / "stars" / "phase.py"
    for path, text in {root / "settings.ini": "", root / ".gitignore": "/runs/\n/data/\n__pycache__/\n", root / "raw.csv": "3.0", phase: "def fold(t):\n    return t % 0.85\n"}.items():
        path.write_text(text)
    git(tmp_path, "init", "-q", "-b", "main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "-qm", "Begin")
    phase.write_text("def fold(t):\n    return t % 0.75\n")
    assert run_pipeline(root=root).succeeded
    publish(root=root)
    git(root, "add", "--all")
    git(root, "commit", "-qm", "Fold otherwise")
    phase.write_text("def fold(t):\n    return 0\n")
    git(root, "commit", "-qam", "Break it")
    git(tmp_path, "clone", "-q", "--depth", "2", root.as_uri(), "clone")
    return tmp_path / "clone"


def test_a_clone_alone_reproduces_what_is_published(clone):
    """Each step after those that it reads from, with the code of the commit that published it; a number that was edited is refused, one that does not come out is caught."""
    found = reproduce_published(root=clone, here=True)
    assert [(one.step, one.verdict) for one in found] == [("ingest", "identical"), ("fold", "identical")], found
    assert "which published the result" in found[1].notes[0]
    page = clone.parent / "page.html"
    done = command("reproduce", "--published", "--here", "--html", page, cwd=clone)
    assert done.returncode == 0 and "ingest: identical, 100 %" in done.stdout and "fold: identical, 100 %" in done.stdout, done.stdout + done.stderr
    assert page.read_text().count("<article") == 2
    record = clone / "results" / "stars" / "20_fold.json"
    record.write_text(record.read_text().replace('"folded": 0.0', '"folded": 0.5'))
    with pytest.raises(BadPublication, match="20_fold"):
        reproduce_published(root=clone, here=True)
    with pytest.raises(BadPublication, match="nothing is published of 'moons'"):
        reproduce_published("moons", root=clone)
