"""The worked study as a user runs it: every template on its defaults, from a clean copy of the project, twice."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from making import command

from mlops_nb.graph import read_graph
from mlops_nb.plain import dump
from mlops_nb.record import runs
from mlops_nb.settings import read_settings

ROOT = Path(__file__).parents[1]
STEPS = ["ingest", "explore", "split", "features", "train", "baselines", "evaluate"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with nothing in it but its sources, in which `mlops-nb run` has run."""
    root = tmp_path_factory.mktemp("clone")
    for path in subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "nbs/pipelines", "settings.ini"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes((ROOT / path).read_bytes())
    done = command("run", cwd=root)
    assert done.returncode == 0, done.stderr
    return root


def latest(project: Path) -> dict[str, dict]:
    """Return results by step of the latest runs."""
    return {one.step: one.results for one in reversed(runs(project))}


def test_every_template_runs_on_its_defaults(project):
    graph = read_graph(root=ROOT)
    assert sorted(step.name for step in graph.steps) == sorted(STEPS) and graph.pipeline == read_settings(ROOT).default_pipeline
    found = runs(project)
    assert [one.status for one in found] == ["succeeded"] * len(STEPS)
    for one in found:
        notebook = nbformat.read(one.notebook, 4)
        nbformat.validate(notebook)
        assert str(project) not in one.notebook.read_text(), "no path of the machine in an executed notebook"
        assert all(cell.metadata.papermill.status == "completed" for cell in notebook.cells)
    for step in graph.steps:
        assert all((project / path).exists() for path in step.outputs.values())


def test_the_network_stands_beside_its_baselines(project):
    """The table of results has the four models, with intervals that hold their scores, from the stated number of stars."""
    results = latest(project)["evaluate"]
    table = results["scores"]["table"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
    assert [row["model"] for row in rows] == ["network", "logistic_regression", "random_forest", "gradient_boosting"]
    for row in rows:
        assert row["macro_f1_low"] < row["macro_f1"] < row["macro_f1_high"]
        assert row["macro_f1"] > 0.85, "far above chance; what was measured is near 0.95"
    assert results["stars_used"] > 10_000 and results["verdict"].startswith("The network")


def test_run_twice_with_one_seed_the_metrics_are_equal_to_the_last_digit(project):
    before = latest(project)
    done = command("run", "--force", cwd=project)
    assert done.returncode == 0, done.stderr
    after = latest(project)
    assert len(runs(project)) == 2 * len(STEPS)
    for step in STEPS:
        assert dump(after[step]) == dump(before[step]), step


def test_another_seed_gives_another_network(project):
    """The seed reaches the weights."""
    before = latest(project)["train"]["validation_loss"]
    done = command("run", "nbs/pipelines/variables/50_train.ipynb", "-p", "seed=1", "-p", "epochs=3", cwd=project)
    assert done.returncode == 0, done.stderr
    assert latest(project)["train"]["validation_loss"] != before


def test_a_misspelt_parameter_is_refused_before_a_kernel_starts(project):
    count = len(runs(project))
    done = command("run", "nbs/pipelines/variables/50_train.ipynb", "-p", "lerning_rate=0.1", cwd=project)
    assert done.returncode == 2 and "Did you mean 'learning_rate'" in done.stderr and len(runs(project)) == count


def test_plain_papermill_trains_too(project, tmp_path):
    """The template needs nothing of ours to be run: papermill's own engine, from another folder."""
    template = project / "nbs" / "pipelines" / "variables" / "50_train.ipynb"
    done = subprocess.run(
        [Path(sys.executable).parent / "papermill", "--no-progress-bar", "--cwd", template.parent, template, tmp_path / "out.ipynb", "-p", "epochs", "2"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert any("validation_loss" in json.dumps(cell["outputs"]) for cell in cells if cell["cell_type"] == "code")
