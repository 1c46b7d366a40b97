"""A pull request to this very repository: what the gate and the report say of a change to its own study."""

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import files, version
from pathlib import Path

import pytest

from mlops_nb.venv import lay_over

ROOT = Path(__file__).resolve().parents[1]
NETWORK = ("mlops_nb/studies/variables/network.py", "nbs/studies/variables/50_network.ipynb")
LEARNS_FROM = "x, y = torch.tensor(inputs, device=device), torch.tensor(classes, device=device)"
SMALL = {
    "30_split": ("stars_per_class: Annotated[int, Ge(0)] = 2500", "stars_per_class: Annotated[int, Ge(0)] = 300"),
    "50_train": ("epochs: Annotated[int, Ge(1)] = 60", "epochs: Annotated[int, Ge(1)] = 12"),
    "70_evaluate": ("replicates: Annotated[int, Ge(100)] = 2000", "replicates: Annotated[int, Ge(100)] = 100"),
}


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True, capture_output=True)


def tool(folder, *words):
    """Run the clone's own `mlops-nb`."""
    return subprocess.run([folder / ".venv/bin/mlops-nb", *words], cwd=folder, capture_output=True, text=True, timeout=1500)


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


def clone(folder, small):
    """Clone the repository as it stands here, install it into an environment of its own over this one, run the study and publish it on `main`."""
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))
    git(folder, "checkout", "-B", "main")
    changed = subprocess.run(["git", "ls-files", "--modified", "--others", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, changed.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if small:
        for template, change in SMALL.items():
            edit(folder / f"nbs/pipelines/variables/{template}.ipynb", *change)
        (folder / "nbs/pipelines/variables/20_explore.ipynb").unlink()  # pictures that nothing else reads
        text = (folder / "settings.ini").read_text()
        (folder / "settings.ini").write_text(text.replace("minimum 0.95, ", "").replace("seeds 5", "seeds 3").replace("max_seeds = 20", "max_seeds = 3"))
    lay_over(Path(sys.prefix), folder / ".venv", folder, tool=False)
    for words in (("run",), ("publish",)):
        done = tool(folder, *words)
        assert done.returncode == 0, done.stderr
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "--allow-empty", "-m", "Published")
    return folder


pytestmark = pytest.mark.timeout(1500)  # it takes a minute on a quiet machine; the whole study some


@pytest.fixture(scope="module", params=["small", pytest.param("full", marks=pytest.mark.long)])
def study(request, tmp_path_factory):
    """The study on `main`, run and published: with few stars, or as it is."""
    return clone(tmp_path_factory.mktemp("study") / "stars", request.param == "small"), request.param == "small"


@pytest.fixture
def branch(study):
    """A branch that a test may change; `main` is as it was afterwards."""
    root, small = study
    git(root, "checkout", "--quiet", "-B", "change", "main")
    yield root, small
    git(root, "checkout", "--quiet", "--force", "main")
    shutil.rmtree(root / "report", ignore_errors=True)


def test_a_network_that_learns_from_a_part_of_the_stars_is_worse(branch):
    """A point of macro F1 less, or more: the changed function is named, both learning curves are drawn, the difference has its interval, the verdict is `worse`, exit code 1."""
    root, small = branch
    part = LEARNS_FROM.replace("inputs,", f"inputs[::{20 if small else 3}],").replace("classes,", f"classes[::{20 if small else 3}],")
    for file in NETWORK:
        edit(root / file, LEARNS_FROM, part)
    git(root, "commit", "--quiet", "-am", "Learn from a part of the stars")
    done = tool(root, "report", "--against", "main")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.startswith("does not pass: network_macro_f1: worse: −0.")
    html, markdown = ((root / "report" / name).read_text() for name in ("report.html", "report.md"))
    for text in ("mlops_nb/studies/variables/network.py: function train_network", "train: validation_loss_curve, before and after", "train: train_loss_curve, before and after", "Student 1908", "McNemar 1947"):
        assert text in html
    assert re.search(r"network_macro_f1</code></td><td><code>0\.\d+ ± .*?−0\.\d+, [\d.]+ % \[−0\.\d+, −0\.\d+\]</code></td><td>worse", markdown)
    assert "function train_network changed" in markdown
    # each side ran its own code: what the baseline gives at its second seed is what `main` gives there
    gate = json.loads(tool(root, "gate", "--against", "main", "--json").stdout)["verdicts"][0]
    git(root, "checkout", "--quiet", "main")
    shutil.move(root / "runs", root / "runs-of-the-gate")
    assert tool(root, "run", "-p", "train.seed=1").returncode == 0
    truth = json.loads(tool(root, "results", "evaluate", "--json").stdout)["evaluate"]["network_macro_f1"]
    shutil.rmtree(root / "runs")
    shutil.move(root / "runs-of-the-gate", root / "runs")
    assert gate["old"][1] == truth != gate["new"][1]


def test_prose_alone_runs_nothing_and_changes_nothing(branch):
    root, _ = branch
    edit(root / "nbs/pipelines/variables/50_train.ipynb", "A small neural network learns the classes", "A little neural network learns the classes")
    git(root, "commit", "--quiet", "-am", "Say it otherwise")
    before = len(list((root / "runs/records").iterdir()))
    done = tool(root, "report", "--against", "main")
    assert done.returncode == 0 and done.stdout.startswith("nothing changed: nothing to run, nothing changed"), done.stdout + done.stderr
    assert len(list((root / "runs/records").iterdir())) == before


def test_a_pin_that_changed_is_the_environment_that_changed(branch):
    """First in the lock alone, which nothing here has tried; then installed: the runs are made again, and the environment is what differs."""
    root, small = branch
    old, new = version("annotated-types"), f"{version('annotated-types')}.post1"
    edit(root / "constraints.txt", f"annotated-types=={old}\n", f"annotated-types=={new}\n")
    git(root, "commit", "--quiet", "-am", "Another annotated-types")
    done = tool(root, "report", "--against", "main")
    assert done.returncode == 0 and done.stdout.startswith("not judged"), done.stdout + done.stderr
    assert f"constraints.txt asks for annotated-types {new}, and the runs here were made with {old}" in done.stdout
    if small:
        return  # what follows runs the study once more
    [site] = root.glob(".venv/lib/python*/site-packages")
    for file in files("annotated-types"):
        if ".dist-info" in str(file) or file.suffix == ".py":
            place = site / str(file).replace(old, new)
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.locate().read_bytes().replace(f"Version: {old}".encode(), f"Version: {new}".encode()))
    try:
        done = tool(root, "report", "--against", "main")
    finally:
        for folder in ("annotated_types", f"annotated_types-{new}.dist-info"):
            shutil.rmtree(site / folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the environment changed (annotated-types {old} → {new}), and every result is the same" in done.stdout
    assert f"annotated-types {old} → {new}" in (root / "report/report.html").read_text()
