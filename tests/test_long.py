"""What takes minutes: the study and a sweep of its training, on this machine's processes and on a cluster's workers. `make test-long` runs it, `make test` does not."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from mlops_nb.cluster import Cluster
from mlops_nb.jobs import Watch
from mlops_nb.pipeline import run_pipeline
from mlops_nb.record import Run, as_run, read_record
from mlops_nb.space import parse_space
from mlops_nb.sweep import run_sweep
from mlops_nb.template import read_template

TEMPLATES = Path(__file__).parents[1] / "nbs" / "pipelines" / "variables"
TRIALS = int(os.environ.get("MLOPS_NB_TEST_RUNS", "200"))  # divisible by 5
FEW = {"split": {"stars_per_class": 150}, "train": {"epochs": 6}, "evaluate": {"replicates": 200}}
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def clone(root: Path) -> Path:
    """Write a clone of the study."""
    shutil.copytree(TEMPLATES, root / "nbs" / "pipelines" / "variables")
    (root / "settings.ini").write_text("[pipelines]\ndefault = variables\n")
    return root


def came_out(run: Run) -> tuple[str, str, dict]:
    """Return what must be the same wherever a run was: its key, its results as text (nan is not equal to itself), and its outputs by digest."""
    return run.record["key"]["digest"], json.dumps(run.results, sort_keys=True), {name: file["digest"] for name, file in run.record["outputs"].items()}


def test_the_study_and_a_sweep_come_out_the_same_on_a_cluster(tmp_path):
    """The pipeline on few stars, then 200 trainings of one epoch; two clones that share nothing."""
    ways = {"jobs": None, "cluster": lambda watch: Cluster("local:2", watch)}
    steps, trials = {}, {}
    for way, make in ways.items():
        began_s = time.monotonic()
        root = clone(tmp_path / way)
        if make is None:
            ended = run_pipeline(root=root, arguments=FEW, jobs=2)
        else:
            with make(Watch()) as pool:
                ended = run_pipeline(root=root, arguments=FEW, pool=pool)
        assert ended.succeeded, ended.errors
        steps[way] = {run.step: came_out(run) for run in ended.runs}

        template = root / "nbs/pipelines/variables/50_train.ipynb"
        space = parse_space(read_template(template), {"hidden": f"8:{8 + TRIALS // 5}", "dropout": "0,0.1,0.2,0.3,0.4", "epochs": "1"})
        print(way, "the study", round(time.monotonic() - began_s, 1), "s")
        swept = run_sweep(template, space, minimize="validation_loss", way="grid", jobs=2, pool=make)
        assert [trial.status for trial in swept.trials] == ["succeeded"] * TRIALS
        print(way, "with the sweep", round(time.monotonic() - began_s, 1), "s")
        trials[way] = [(trial.setting, [came_out(as_run(swept.store, read_record(swept.store, run.id))) for run in trial.runs]) for trial in swept.trials]
    assert len(steps["jobs"]) == 7 and steps["jobs"] == steps["cluster"]
    assert trials["jobs"] == trials["cluster"]
