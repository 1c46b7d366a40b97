"""A change held against a revision, over seeds, by real runs of both."""

import json
import subprocess
from types import SimpleNamespace

import pytest
from making import command, write_project

from mlops_nb.errors import BadRevision, BadSettings, CellFailed
from mlops_nb.gate import gate, rows_apart
from mlops_nb.record import runs
from mlops_nb.store import Store

FIT = """
import random
import pandas
stars = [int(line) for line in open(catalogue)]
luck = random.Random(seed)
wrong = round(ROWS * (0.1 - GAIN - luck.gauss(0, 0.002)))
glue("score", 1 - wrong / ROWS)
glue("loss", wrong / ROWS)
pandas.DataFrame({"ID": range(ROWS), "class": ["a", "b"] * (ROWS // 2), "predicted": [("b" if n % 2 else "a") if n >= wrong else "c" for n in range(ROWS)]}).to_csv(predictions, index=False)
"""
SETTINGS = "[metrics]\nscore = higher, tolerance 0.002, seeds 3, rows accuracy\nloss = lower, tolerance 0.002, seeds 3\n[gate]\npredictions = fit.predictions\nmax_seeds = 6\n"


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True, capture_output=True)


def write(root, gain, rows=4000):
    """Write the project with a fit that is better by `gain`, on so many test rows."""
    return write_project(root, {
        "10_ingest": ('catalogue = Output("stars.txt")', 'open(catalogue, "w").write("1\\n2\\n")'),
        "20_fit": ('catalogue = Input("stars.txt")\npredictions = Output("predictions.csv")\nseed: int = 0', FIT.replace("GAIN", str(gain)).replace("ROWS", str(rows))),
    })  # fmt: skip


@pytest.fixture
def project(tmp_path):
    """A project whose `main` has a fit of two steps."""
    root = write(tmp_path / "stars", 0.0)
    (root / "settings.ini").write_text(SETTINGS)
    (root / ".gitignore").write_text("runs/\nstars.txt\npredictions.csv\n")
    git(root, "init", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-m", "First")
    return root


def test_a_change_of_prose_runs_nothing_twice(project):
    """Both sides are the same runs: one run a step, the verdict without a second seed, exit code 0."""
    notebook = json.loads((project / "nbs/pipelines/stars/20_fit.ipynb").read_text())
    notebook["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# The fit"})
    (project / "nbs/pipelines/stars/20_fit.ipynb").write_text(json.dumps(notebook))
    done = command("gate", "--against", "main", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "nothing to run, nothing changed" in done.stdout
    assert len(runs(project)) == 2


def test_a_worse_model_ends_with_exit_code_1(project):
    """A loss of one point is found over three seeds, named with its interval and its source, and over the test rows; what both sides share is run once."""
    write(project, -0.01)
    (project / "settings.ini").write_text(SETTINGS)
    done = command("gate", "--json", cwd=project)
    found = json.loads(done.stdout)
    assert done.returncode == 1, done.stderr
    assert [verdict["verdict"] for verdict in found["verdicts"]] == ["worse", "worse"]
    assert found["seeds"] == 3 and found["verdicts"][0]["difference"]["value"] == pytest.approx(-0.01, abs=1e-4)
    assert "Student 1908" in found["why"]
    assert found["verdicts"][0]["over_rows"]["n"] == 4000
    assert "Satterthwaite" in found["why"] and "McNemar" in found["notes"][0] and "mean over 3 seeds" in found["notes"][0]
    ran = runs(project)
    assert len([run for run in ran if run.step == "ingest"]) == 1
    assert len([run for run in ran if run.step == "fit"]) == 6
    again = command("gate", "--json", cwd=project)
    assert json.loads(again.stdout) == found and len(runs(project)) == len(ran)


def test_the_choice_of_few_test_rows_counts_as_noise(tmp_path, project):
    """The same loss on 100 rows is one row more: over seeds it is certain, and with other rows it may be none. Without `rows` it is worse on these rows, and that is said."""
    write(project, 0.0, rows=100)
    git(project, "commit", "-am", "Few rows")
    write(project, -0.01, rows=100)
    (project / "settings.ini").write_text(SETTINGS)
    score, loss = gate(root=project, max_seeds=3).verdicts
    assert (score.word, loss.word) == ("no difference", "worse")
    assert score.apart.half > loss.apart.half and "is not left out" in score.why


def test_each_side_runs_its_own_code_also_where_the_package_is_installed(project):
    """A module that the working tree's environment imports from the working tree comes from the checkout for the baseline; nobody's outputs are laid out."""
    cell = 'from fitting import score_at\nglue("score", score_at(seed))'
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")\nseed: int = 0', cell)})
    (project / "fitting.py").write_text("def score_at(seed):\n    return 0.9 + seed / 1000\n")
    (project / "settings.ini").write_text("[metrics]\nscore = higher, seeds 3\n")
    git(project, "add", "-A")
    git(project, "commit", "-m", "A module")
    (project / "fitting.py").write_text("def score_at(seed):\n    return 0.8 + seed / 1000\n")
    done = command("gate", "--json", "--max-seeds", "3", cwd=project, PYTHONPATH=str(project))
    [found] = json.loads(done.stdout)["verdicts"]
    assert found["old"] == pytest.approx([0.9, 0.901, 0.902]) and found["new"] == pytest.approx([0.8, 0.801, 0.802])
    assert not (project / "stars.txt").exists()


def test_a_better_model_passes(project):
    write(project, 0.01)
    (project / "settings.ini").write_text(SETTINGS)
    found = gate(root=project, max_seeds=3)
    assert found.passes and [verdict.word for verdict in found.verdicts] == ["better", "better"]


def test_seeds_are_added_until_the_verdict_is_clear(project):
    """Where three seeds leave it open, six are looked at, at a level shared by both looks and both results."""
    fit = FIT.replace("GAIN", "0.0").replace("ROWS", "4000").replace("luck.gauss(0, 0.002)", "luck.gauss(0, 0.002) - random.Random(seed + 99).gauss(-0.001, 0.004)")
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")\npredictions = Output("predictions.csv")\nseed: int = 0', fit)})
    (project / "settings.ini").write_text(SETTINGS)
    found = gate(root=project)
    assert found.seeds == 6
    assert found.verdicts[0].apart.level == pytest.approx(0.9875)
    assert all(verdict.word in ("no difference", "worse") for verdict in found.verdicts)


def test_a_model_that_diverges_at_some_seeds_does_not_pass(project):
    """NaN at one seed of three, which the baseline does not give: worse, no more seeds, and the test rows are those of the other seeds."""
    fit = FIT.replace("GAIN", "0.0").replace("ROWS", "4000").replace('glue("loss", wrong / 4000)', 'glue("loss", float("nan") if seed == 1 else wrong / 4000)')
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")\npredictions = Output("predictions.csv")\nseed: int = 0', fit)})
    (project / "settings.ini").write_text(SETTINGS.replace("seeds 3\n[", "seeds 3, rows accuracy\n["))
    found = gate(root=project, max_seeds=3)
    assert [verdict.word for verdict in found.verdicts] == ["no difference", "worse"] and found.seeds == 3
    assert "1 of 3 runs gave no finite number (nan), and 0 of 3 before" in found.why
    assert "mean over 2 seeds" in found.notes[1] and found.as_dict()["verdicts"][1]["not_finite"] == [0, 1]


def test_a_whole_number_beyond_every_float_counts_as_infinite(project):
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")\nseed: int = 0', 'glue("loss", 10**400)')})
    (project / "settings.ini").write_text("[metrics]\nloss = lower, seeds 2\n")
    [verdict] = gate(root=project, max_seeds=2).verdicts
    assert verdict.why == "loss: worse: 2 of 2 runs gave no finite number (inf), and 0 of 2 before."


def test_a_step_that_fails_ends_the_gate_with_its_own_error(project):
    write(project, "undefined")
    (project / "settings.ini").write_text(SETTINGS)
    with pytest.raises(CellFailed, match="NameError"):
        gate(root=project)


def test_a_class_that_no_test_row_has_can_be_answered(tmp_path):
    """The new model gives most of its probability to a class that the truth does not hold: every answer is wrong. What is no score, such as an id or a magnitude, is no class."""
    store = Store(tmp_path)

    def run_with(content, name="predictions.csv"):
        return SimpleNamespace(step="fit", store=tmp_path, record={"outputs": {"predictions": {"path": name, "digest": store.put(content)}}})

    old = run_with(b"ID,class,magnitude,a,b,c\n1,a,15.5,0.9,0.1,0.0\n2,b,15.5,0.2,0.8,0.0\n")
    new = run_with(b"ID,class,magnitude,a,b,c\n1,a,15.5,0.3,0.1,0.6\n2,b,15.5,0.2,0.3,0.5\n")
    apart, (lost, won, _) = rows_apart([old], [new], "predictions", "class", "accuracy")
    assert (apart.value, lost, won) == (-1.0, 2, 0)
    assert rows_apart([old], [run_with(b"PK\x03\x04\xff\xfe")], "predictions", "class", "accuracy") == "predictions of fit cannot be read as a table (UnicodeDecodeError)"
    assert rows_apart([old], [run_with(b"")], "predictions", "class", "accuracy") == "predictions of fit cannot be read as a table (EmptyDataError)"
    assert "cannot be read as a table" in rows_apart([old], [run_with(b"no parquet", "p.parquet")], "predictions", "class", "accuracy")
    assert rows_apart([old], [run_with(b"ID,class,a,b\n")], "predictions", "class", "accuracy") == "predictions has no rows"
    whole, parted = run_with(b"id,class,predicted\n1,1,1\n2,0,0\n"), run_with(b"id,class,predicted\n1.0,1.0,1\n2.0,0.0,1\n")
    assert rows_apart([whole], [parted], "predictions", "class", "accuracy")[0].value == -0.5, "1 and 1.0 are one class"
    assert rows_apart([old], [run_with(b"ID,class,a,b\n1,a,,0.1\n2,b,0.2,0.8\n")], "predictions", "class", "accuracy") == "predictions has rows without an answer: their scores are no numbers"


def test_a_minimum_holds_also_where_nothing_changed(project):
    """The same run on both sides does not pass where what it gives is below the minimum."""
    (project / "settings.ini").write_text("[metrics]\nscore = higher, seeds 2, minimum 0.99\n")
    done = command("gate", "--against", "main", cwd=project)
    assert done.returncode == 1 and "does not pass: score: worse: its mean 0." in done.stdout and "is below the minimum 0.99" in done.stdout, done.stdout
    (project / "settings.ini").write_text("[metrics]\nscore = higher, seeds 2, minimum 0.5\n")
    assert gate(root=project).passes


def test_a_change_may_add_a_result(project):
    """What the baseline does not glue is not held against it: only a limit counts, and no seeds are added for it."""
    fit = FIT.replace("GAIN", "0.0").replace("ROWS", "4000") + 'glue("speed", 5.0)\n'
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")\npredictions = Output("predictions.csv")\nseed: int = 0', fit)})
    (project / "settings.ini").write_text("[metrics]\nspeed = higher, seeds 2\n")
    found = gate(root=project, max_seeds=4)
    assert found.passes and found.seeds == 2 and found.why == "speed: not enough runs: not judged: the baseline has no such result."
    (project / "settings.ini").write_text("[metrics]\nspeed = higher, seeds 2, minimum 6\n")
    found = gate(root=project, max_seeds=4)
    assert not found.passes and found.why == "speed: worse: its mean 5 over 2 runs is below the minimum 6; not judged: the baseline has no such result."


def test_a_refusal_names_the_side_and_the_seed(project):
    """Of the baseline it is said that it is the baseline; of a result that is missing at one seed, at which."""
    fit = ('catalogue = Input("stars.txt")\nseed: int = 0', 'glue("score", 0.9 + seed) if seed != 1 else None')
    write_project(project, {"20_fit": fit})
    git(project, "commit", "-am", "Now and then")
    write_project(project, {"20_fit": (fit[0], 'glue("score", 0.9 + seed)')})
    (project / "settings.ini").write_text("[metrics]\nscore = higher, seeds 2\n")
    with pytest.raises(BadSettings, match="names 'score', and in the baseline, main at seed 1, no step glues it"):
        gate(root=project, max_seeds=2)
    write_project(project, {"20_fit": ('catalogue = Input("stars.txt")', 'glue("score", 0.9)')})
    git(project, "commit", "-am", "No seed")
    write_project(project, {"20_fit": (fit[0], 'glue("score", 0.9 + seed)')})
    with pytest.raises(BadSettings, match="^the baseline, main: no step of stars declares a parameter called seed"):
        gate(root=project, max_seeds=2)
    run = runs(project)[0]
    with pytest.raises(BadRevision, match=f"{run.id} is a run, and the gate .* needs a revision. `mlops-nb report --no-gate --against {run.id}`"):
        gate(run.id, root=project)


def test_a_result_that_nobody_glues_is_refused(project):
    (project / "settings.ini").write_text("[metrics]\nscroe = higher, seeds 2\n")
    lines = []
    with pytest.raises(BadSettings, match="no step glues it. Did you mean 'score'"):
        gate(root=project, on_line=lines.append)
    assert lines == ["the working tree at its own seed"], "before the baseline runs"
    done = command("gate", "--max-seeds", "2", "--against", "mian", cwd=project)
    assert done.returncode == 2 and "git knows no revision 'mian'" in done.stderr and "Traceback" not in done.stderr


def test_nothing_is_left_of_the_baseline(project):
    """The checkout is gone, git knows of no other work tree, and the working tree's outputs are the working tree's."""
    write(project, -0.01)
    (project / "settings.ini").write_text(SETTINGS)
    gate(root=project, max_seeds=3)
    listed = subprocess.run(["git", "worktree", "list"], cwd=project, capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == 1
    assert not any(path.is_symlink() for path in project.rglob("*") if ".git" not in path.parts)
