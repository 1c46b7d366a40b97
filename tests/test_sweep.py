"""A sweep runs each setting once, whatever happens meanwhile, and says truly what came out."""

import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from making import command, write_notebook, write_project
from PIL import Image

from mlops_nb.errors import BadArgument, BadContract, CellFailed, MlopsError, UnknownParameter
from mlops_nb.jobs import Jobs
from mlops_nb.record import runs
from mlops_nb.result import read_results
from mlops_nb.search import search_in
from mlops_nb.space import Choices, Range, draws, grid, make_space, parse_space
from mlops_nb.steps import read_steps
from mlops_nb.summary import summary_of_sweep
from mlops_nb.sweep import SweepWatch, run_sweep
from mlops_nb.template import Template, read_template
from mlops_nb.trials import Sweep, Trial, TrialRun, interval, plot_parallel, plot_slices, read_sweep, sweeps, verdict, write_plots
from mlops_nb.unused import find_unused

PARAMETERS = """
x: Annotated[float, Ge(-10), Le(10)] = 0.0
width: int = 8
wide: float = 0.0
kind: Literal["tree", "forest"] = "tree"
layers: list[int] = [8]
note: str = ""
seed: int = 0
"""


def template_of(parameters: str = PARAMETERS) -> Template:
    """Return a template that is in no file."""
    cell = {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": parameters, "outputs": []}
    return Template(Path("50_train.ipynb"), {"nbformat": 4, "metadata": {}, "cells": [cell]}, "")


def project_of(folder: Path, code: str, parameters: str = "x: float = 0.0\nseed: int = 0") -> Path:
    """Write a project with one template, and return the template's path."""
    return write_project(folder / "project", {"50_train": (parameters, code)}) / "nbs" / "pipelines" / "stars" / "50_train.ipynb"


BOWL = "glue('loss', (x - 2) ** 2 + 0.1 * seed)"


class Seen(list):
    """What a sweep told of its trials: number, and `there` or the status."""

    @property
    def watch(self) -> SweepWatch:
        return SweepWatch(on_trial=lambda sweep, trial, was_there: self.append((trial.number, "there" if was_there else trial.status)))


# Spaces.


def test_a_space_is_read_with_the_contract_at_hand():
    """The same text is a number, a choice or a text, as the parameter wants it."""
    found = parse_space(template_of(), {"x": "-1..1:0.5", "width": "8,16", "kind": "tree,forest", "layers": "[8],[8,4]", "note": "a..b,0:5", "seed": "0:6:2"})
    assert found == {
        "x": Range(-1.0, 1.0, step=0.5), "width": Choices((8, 16)), "kind": Choices(("tree", "forest")), "layers": Choices(([8], [8, 4])), "note": Choices(("a..b", "0:5")),
        "seed": Choices((0, 2, 4)),
    }  # fmt: skip
    assert parse_space(template_of(), {"x": "1..5"})["x"] == Range(1.0, 5.0)
    assert parse_space(template_of(), {"width": "1..5"})["width"].values == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("x", "-11..1", "greater than or equal to -10"),
        ("x", "0..11", "less than or equal to 10"),
        ("x", "0,11", "less than or equal to 10"),
        ("x", "0..1:log", "begins above 0"),
        ("x", "1..0", "from the lower end"),
        ("x", "1..1", "one value is just that value"),
        ("x", "0.1..1:log:0.1", "not both"),
        ("x", "0..1:2", "at most 1"),
        ("x", "0..1:fast", "'fast'"),
        ("x", "0..", "low..high"),
        ("x", "nan,1", "x=nan"),
        ("wide", "-1e308..1e308", "wider than the largest float"),
        ("seed", f"0..{10**24}", "2 ** 53"),
        ("width", "1e-4..1e-2:log", "whole number"),
        ("width", "1..9:0.5", "whole step"),
        ("width", "8,,16", "whole number"),
        ("width", "0:99999", "are the most"),
        ("kind", "tree,bush", "'tree' or 'forest'"),
        ("seed", "3:3", "no whole number"),
        ("seed", "0:5:0", "no whole number"),
        ("seed", "1,2,1", "given twice"),
        ("seed", " ", "no values"),
    ],
)
def test_what_no_run_would_take_is_refused_with_what_was_wanted(name, text, said):
    with pytest.raises(BadArgument) as refusal:
        parse_space(template_of(), {name: text})
    assert said in str(refusal.value) and name in str(refusal.value)


def test_a_search_does_not_list_a_range_of_whole_numbers_and_takes_what_is_no_number_for_no_value():
    """A thousand million values are as quick as ten; text, None and not-a-number are told and not learned from."""
    _, search = search_in({"n": Range(0, 10**9)}, direction="maximize", trials=4)
    began = time.monotonic()
    for number, value in enumerate(["text", None, float("nan"), 1.0]):
        setting = search.ask(number)
        assert type(setting["n"]) is int
        search.tell(number, setting, "succeeded", value, {})
    assert time.monotonic() - began < 20


def test_a_sweep_needs_a_contract():
    with pytest.raises(BadContract, match="no cell tagged `parameters`"):
        parse_space(Template(Path("look.ipynb"), {"nbformat": 4, "metadata": {}, "cells": []}, ""), {"x": "1,2"})
    with pytest.raises(UnknownParameter, match="Did you mean 'width'"):
        parse_space(template_of(), {"widht": "1,2"})


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["x", "width", "kind", "layers", "note", "seed"]), st.text(alphabet="0123456789.,:-+e[]\"'log tre", max_size=14))
def test_any_text_is_a_space_or_is_refused_with_a_sentence(name, text):
    """And what was read says itself in a text that means the same."""
    try:
        axis = parse_space(template_of(), {name: text})[name]
    except MlopsError as refusal:
        assert name in str(refusal) and len(str(refusal)) > len(name) + 10
        return
    assume(name not in ("layers", "note"))  # a list and a free text may hold what divides
    again = parse_space(template_of(), {name: str(axis)})[name]
    assert (again.low, again.high) == pytest.approx((axis.low, axis.high)) if isinstance(axis, Range) else again == axis


@settings(max_examples=100, deadline=None)
@given(st.integers(-20, 20), st.integers(-20, 20), st.integers(1, 5))
def test_whole_numbers_are_those_of_pythons_range(start, stop, step):
    assume(range(start, stop, step))
    assert parse_space(template_of(), {"seed": f"{start}:{stop}:{step}"})["seed"].values == tuple(range(start, stop, step))
    assert make_space(template_of(), {"seed": range(start, stop, step)})["seed"].values == tuple(range(start, stop, step))


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-8, 1e3), st.floats(1.001, 1e6), st.integers(0, 1000), st.booleans())
def test_what_is_drawn_lies_in_the_range(low, factor, seed, log):
    axis = Range(low, low * factor, log=log)
    assert all(axis.low <= one["x"] <= axis.high for one in islice(draws({"x": axis}, seed), 5))
    whole = Range(1, 1 + int(factor), log=log)
    assert all(type(one["x"]) is int and 1 <= one["x"] <= whole.high for one in islice(draws({"x": whole}, seed), 2))


def test_a_logarithmic_range_is_drawn_evenly_on_its_scale():
    found = [math.log10(one["x"]) for one in islice(draws({"x": Range(1e-4, 1e-2, log=True)}, 0), 400)]
    assert abs(fmean(found) + 3) < 0.1 and 160 < sum(value < -3 for value in found) < 240


def test_a_grid_is_every_combination_and_a_float_range_has_none():
    assert len(grid({"a": Choices((1, 2)), "b": Range(1, 3), "c": Range(0.0, 1.0, step=0.25)})) == 2 * 3 * 5
    for axis in (Range(0.0, 1.0), Range(1, 8, log=True)):
        with pytest.raises(BadArgument, match="--trials"):
            grid({"x": axis})


def test_the_search_by_optuna_is_better_than_chance():
    """With the same number of trials, on a bowl in four dimensions; both searches are seeded."""
    space = {name: Range(-5.0, 5.0) for name in "abcd"}

    def lowest(way: str, seed: int) -> float:
        _, search = search_in(space, way, direction="minimize", trials=40, seed=seed)
        found = []
        for number in range(40):
            at = search.ask(number)
            found.append(sum((value - 1) ** 2 for value in at.values()))
            search.tell(number, at, "succeeded", found[-1], {})
        return min(found)

    random, tpe = (sorted(lowest(way, seed) for seed in range(5))[2] for way in ("random", "tpe"))
    assert tpe < random / 2


# Runs.


@pytest.mark.timeout(200)
def test_a_sweep_runs_each_setting_once_and_a_wider_one_only_what_is_new(tmp_path):
    template = project_of(tmp_path, BOWL)
    seen = Seen()
    first = run_sweep(template, {"x": [1.0, 4.0], "seed": [0, 1]}, minimize="loss", watch=seen.watch, jobs=2)
    assert sorted(seen) == [(0, "succeeded"), (1, "succeeded")] and len(runs(template)) == 4
    assert first.best.setting == {"x": 1.0} and first.best.values("loss") == [1.0, 1.1] and len(first.ties) == 1
    seen.clear()
    assert run_sweep(template, {"x": [1.0, 4.0], "seed": [0, 1]}, minimize="loss", watch=seen.watch).trials == first.trials
    assert seen == [(0, "there"), (1, "there")] and len(runs(template)) == 4
    seen.clear()
    wider = run_sweep(template, {"x": [1.0, 2.0, 4.0], "seed": [0, 1]}, minimize="loss", watch=seen.watch, jobs=2)
    assert sorted(seen) == [(0, "there"), (1, "succeeded"), (2, "there")] and len(runs(template)) == 6
    assert wider.best.setting == {"x": 2.0} and [sweep.id for sweep in sweeps(template)] == [wider.id, first.id]
    write_notebook(template, BOWL.replace("0.1", "0.2"), parameters="x: float = 0.0\nseed: int = 0")
    changed = run_sweep(template, {"x": [1.0], "seed": [0, 1]}, minimize="loss")
    assert changed.trials[0].values("loss") == [1.0, 1.2], "code that changed is run again"


@pytest.mark.timeout(100)
def test_what_is_wrong_is_refused_before_anything_runs(tmp_path):
    template = project_of(tmp_path, BOWL, "x: Annotated[float, Lt(3)] = 0.0\nstars = Input('data/stars.csv')\nseed: int = 0")
    for space, said in (({"x": [1.0, 3.5]}, "less than 3"), ({"x": 1.0}, "nothing varies"), ({"x": [1.0, 2.0]}, "stars.csv"), ({"y": [1, 2]}, "no parameter 'y'")):
        with pytest.raises(MlopsError, match=said):
            run_sweep(template, space)
    refused = command("sweep", template, "-p", "x=0..3", "--trials", 5, cwd=tmp_path)
    assert refused.returncode == 2 and "less than 3" in refused.stderr and "Traceback" not in refused.stderr
    assert not (template.parents[3] / "runs").exists()


@pytest.mark.timeout(200)
def test_a_result_that_no_run_glues_stops_the_sweep_and_so_does_a_template_that_never_succeeds(tmp_path):
    with pytest.raises(BadArgument, match="no result 'f1'; it glued 'loss'"):
        run_sweep(project_of(tmp_path / "a", BOWL), {"x": [float(x) for x in range(50)]}, maximize="f1", jobs=1)
    broken = project_of(tmp_path / "b", "raise ValueError('no stars')")
    with pytest.raises(CellFailed, match="(?s)first 3 runs all failed.*no stars"):
        run_sweep(broken, {"x": [float(x) for x in range(50)]}, jobs=1)
    assert len(runs(broken)) == 3


@pytest.mark.timeout(200)
def test_a_trial_that_fails_ends_nothing_but_itself_and_is_tried_again(tmp_path):
    template = project_of(tmp_path, "assert x != 1 or (__import__('pathlib').Path.home() / 'mended').exists(), 'one is odd'\n" + BOWL)
    home = {"HOME": str(tmp_path)}
    first = command("sweep", template, "-p", "x=1,2,3", "--minimize", "loss", "--json", cwd=tmp_path, **home)
    found = json.loads(first.stdout)
    assert first.returncode == 1 and [trial["status"] for trial in found["trials"]] == ["failed", "succeeded", "succeeded"] and found["best"]["trial"] == 1
    assert "trial 0: x=1: failed, one is odd" in first.stderr
    (tmp_path / "mended").touch()
    second = command("sweep", template, "-p", "x=1,2,3", "--minimize", "loss", cwd=tmp_path, **home)
    assert second.returncode == 0 and "trial 0: x=1: loss 1\n" in second.stderr and "Best: trial 1 (x=2), loss 0 (one run: no interval)." in second.stdout
    assert len(runs(template)) == 4


@pytest.mark.timeout(200)
def test_a_sweep_that_was_killed_goes_on_and_repeats_nothing(tmp_path):
    """Killed with -9 in the middle; with the search by Optuna, which proposes the same settings again."""
    template = project_of(tmp_path, "import time; time.sleep(0.2)\n" + BOWL)
    words = ["sweep", str(template), "-p", "x=-5..5", "--trials", "6", "--minimize", "loss", "--jobs", "2"]
    with subprocess.Popen([sys.executable, "-m", "mlops_nb", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        ended = list(islice((line for line in process.stderr if line.startswith("trial ")), 3))
        os.killpg(process.pid, signal.SIGKILL)
    assert len(ended) == 3
    time.sleep(0.5)
    before = {run.id: run.key for run in runs(template, status="succeeded")}
    assert 3 <= len(before) < 6
    again = command(*words, "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    succeeded = runs(template, status="succeeded")
    assert len(found["trials"]) == 6 and {run["runs"][0]["id"] for run in found["trials"]} >= set(before)
    assert len(succeeded) == len({run.key for run in succeeded}) == 6, "a setting that had succeeded was run again"
    assert all(run.status != "running" for run in runs(template))


@pytest.mark.timeout(200)
def test_ctrl_c_ends_a_sweep_which_then_says_how_to_go_on(tmp_path):
    """And no trial is given the value of another one."""
    template = project_of(tmp_path, "import time; time.sleep(0.5)\n" + BOWL)
    words = ["sweep", str(template), "-p", "x=-5..5", "--trials", "20", "--minimize", "loss", "--jobs", "2"]
    with subprocess.Popen([sys.executable, "-m", "mlops_nb", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        next(line for line in process.stderr if line.startswith("trial "))
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130 and "The same command goes on with it." in said and "Traceback" not in said
    found = sweeps(template)[0]
    assert 1 <= found.count("succeeded") < 6 and found.count("succeeded") + found.count("waiting") == len(found.trials)
    for trial in found.trials:
        assert trial.values("loss") in ([], [pytest.approx((trial.setting["x"] - 2) ** 2)])
    assert {run.status for run in runs(template)} <= {"succeeded", "interrupted"}


PRUNING = """
import time
from mlops_nb import report
for step in range(1, 41 if x < 0 else 4):
    report("score", 1.0 if x > 0 else -1.0, step=step)
    time.sleep(1.0 if x < 0 else 0.02)
glue("score", x)
"""


def seed_of_pruning() -> int:
    """Return the seed of a search whose first five settings of x are above 0, and whose sixth is not."""
    return next(
        seed for seed in range(1000)
        if [one.get("x", 0) > 0 for one in (lambda search: [(search.ask(n), search.tell(n, {"x": 0}, "failed", None, {}))[0] for n in range(6)])(search_in({"x": Range(-1.0, 1.0)}, direction="maximize", trials=6, seed=seed)[1])] == [True] * 5 + [False]
    )  # fmt: skip


@pytest.mark.timeout(200)
def test_a_hopeless_trial_is_stopped_and_not_tried_again(tmp_path):
    """Five trials set the median; the sixth is worse from its first step, and its forty steps are never done."""
    template, seed, seen = project_of(tmp_path, PRUNING), seed_of_pruning(), Seen()
    space = {"x": Range(-1.0, 1.0)}
    found = run_sweep(template, space, trials=6, maximize="score", seed=seed, jobs=1, watch=seen.watch)
    assert [status for _, status in seen] == ["succeeded"] * 5 + ["pruned"]
    pruned = found.trials[5].runs[0]
    record = next(run for run in runs(template) if run.id == pruned.id)
    assert record.status == "killed" and record.error.startswith("pruned at step") and record.seconds < 30
    assert json.loads(record.notebook.read_text())["cells"], "what it did is there to be read"
    seen.clear()
    again = run_sweep(template, space, trials=6, maximize="score", seed=seed, jobs=1, watch=seen.watch)
    assert seen == [(number, "there") for number in range(6)] and len(runs(template)) == 6 and again.trials == found.trials
    unpruned = run_sweep(template, {"x": [found.trials[5].setting["x"]], "seed": [0, 1]}, maximize="score", jobs=2)
    assert unpruned.trials[0].status == "succeeded", "a grid prunes nothing"


@pytest.mark.timeout(200)
@pytest.mark.parametrize("jobs", [1, 2], ids=["the other run has not begun", "the other run is stopped"])
def test_a_hopeless_trial_whose_first_run_ends_before_it_is_stopped_is_pruned_too(tmp_path, jobs):
    """It is told of, its other run comes to no end, and it is not tried again."""
    code = "import time\nfrom mlops_nb import report\nreport('score', x, step=1)\ntime.sleep(100 if x < 0 and seed else 0)\nglue('score', x)"
    template, seen = project_of(tmp_path, code), Seen()
    options = {"maximize": "score", "seed": seed_of_pruning(), "watch": seen.watch}
    space = {"x": Range(-1.0, 1.0), "seed": [0, 1]}
    run_sweep(template, space, trials=5, jobs=1, **options)

    class Late(Jobs):
        def stop(self, name, status, message):
            if not name.endswith("seed=0"):
                super().stop(name, status, message)

    for before in (5, 6):
        seen.clear()
        found = run_sweep(template, space, trials=6, pool=lambda watch: Late(jobs, watch), **options)
        assert seen == [*((number, "there") for number in range(before)), *([(5, "pruned")] if before == 5 else [])]
        first, other = found.trials[5].runs
        assert first.status == "pruned" and first.steps == {"1": found.trials[5].setting["x"]} and other.status == "waiting"
        assert next(run for run in runs(template) if run.id == first.id).status == "succeeded" and len(runs(template)) == 10 + jobs


@pytest.mark.timeout(100)
def test_values_reported_step_by_step_are_a_result_and_a_curve_that_scrapbook_reads_too(tmp_path):
    from mlops_nb.step import run

    template = project_of(tmp_path, "from mlops_nb import report\nfor step in range(50):\n    report('loss', 1 / (step + 1), step=step)\nreport('other', float('nan'), step=0)")
    told = []
    finished = run(template, on_progress=lambda progress: told.append(dict(progress.reported)))
    assert finished.results["loss"] == 1 / 50 and math.isnan(finished.results["other"])
    notebook = json.loads(finished.notebook.read_text())
    assert read_steps(notebook, "loss") == {step: 1 / (step + 1) for step in range(50)} and read_results(notebook)["loss"] == 1 / 50
    assert len(notebook["cells"][-1]["outputs"]) == 2, "one output a name, whatever the number of steps"
    assert told[-1]["loss"] == (49, 1 / 50) and (0, 1.0) in [one.get("loss") for one in told]
    import scrapbook

    assert scrapbook.read_notebook(str(finished.notebook)).scraps["loss"].data == 1 / 50


@pytest.mark.timeout(100)
def test_outputs_of_trials_stay_in_the_store_and_the_best_are_laid_out_when_asked(tmp_path):
    """And what a recent sweep names is not removed."""
    template = project_of(tmp_path, "open(model, 'w').write(str(x))\nglue('x', x)", "x: float = 0.0\nmodel = Output('models/model.txt')")
    root = template.parents[3]
    found = run_sweep(template, {"x": [1.0, 2.0]}, maximize="x", jobs=2)
    assert not (root / "models").exists() and found.best.setting == {"x": 2.0}
    done = command("run", template, "-p", "x=2.0", cwd=root)
    assert done.returncode == 0 and "nothing to do" in done.stderr and (root / "models" / "model.txt").read_text() == "2.0"
    long_ago = time.time() - 90 * 86_400
    for file in (root / "runs" / "records").glob("*.json"):
        os.utime(file, (long_ago, long_ago))
    reasons = [kept.reason for kept in find_unused(root).kept]
    assert len(reasons) == 2 and f"it is a trial of the sweep {found.id}, which went on lately" in reasons and find_unused(root).unknown == ()
    os.utime(found.file, (long_ago, long_ago))
    assert len(find_unused(root).runs) == 1, "the latest that succeeded stays"


# What came out.


def sweep_of(store: Path, values: dict[float, list[float]], **more) -> Sweep:
    """Return a sweep over x with these values of the objective, one a seed."""
    trials = tuple(
        Trial(number, {"x": x}, tuple(TrialRun({"x": x, "seed": seed}, "succeeded", f"run-{number}-{seed}", None, {"score": value}) for seed, value in enumerate(scores)))
        for number, (x, scores) in enumerate(values.items())
    )
    known = {"fixed": {}, "over": "seed", "way": "grid", "objective": "score", "direction": "maximize", "seed": 0, "wanted": len(trials), "started": "", "updated": ""}
    return Sweep(**{"id": "train-00000000", "template": "train.ipynb", "space": {"x": "1,2"}, "store": store, "trials": trials, **known, **more})


def test_the_interval_over_seeds_is_students():
    """Against the formula by hand, with quantiles from a printed table."""
    table = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 7: 2.365, 19: 2.093, 60: 2.0}
    for freedom, quantile in table.items():
        values = [math.sin(number) for number in range(freedom + 1)]
        assert interval(values).half == pytest.approx(quantile * stdev(values) / math.sqrt(len(values)), rel=3e-4)
        assert interval(values).mean == pytest.approx(fmean(values))
    assert math.isnan(interval([0.5]).half) and interval([0.5]).method == "one run: no interval"


def test_the_best_is_that_of_the_mean_and_what_cannot_be_told_from_it_is_said(tmp_path):
    found = sweep_of(tmp_path, {1.0: [0.9, 0.5, 0.9], 2.0: [0.8, 0.81, 0.8], 3.0: [0.1, 0.11, 0.12], 4.0: [0.79, 0.83, 0.79]})
    assert found.best.number == 1 and [trial.number for trial in found.ties] == [3, 0]
    said = " ".join(verdict(found))
    assert "trial 1 (x=2), score 0.8033 ± 0.014 (95 % t interval of the mean of 3 runs)" in said and "trial 3, trial 0" in said
    assert sweep_of(tmp_path, {1.0: [0.9], 2.0: [0.8]}, direction="minimize").best.number == 1
    assert "one run: no interval" in " ".join(verdict(sweep_of(tmp_path, {1.0: [0.9], 2.0: [0.8]})))
    assert sweep_of(tmp_path, {1.0: [math.nan], 2.0: [0.1]}).best.number == 1, "NaN is never the best"


def test_a_mean_over_some_of_the_seeds_is_no_value(tmp_path):
    found = sweep_of(tmp_path, {1.0: [0.5, 0.5], 2.0: [0.9, 0.9]})
    broken = Trial(1, {"x": 2.0}, (found.trials[1].runs[0], TrialRun({"x": 2.0, "seed": 1}, "failed", error="no")))
    assert sweep_of(tmp_path, {}, trials=(found.trials[0], broken)).best.number == 0


def test_the_pictures_are_there_and_show_the_trials(tmp_path):
    """As PNG and SVG; not blank; with the names of the parameters and the best in orange."""
    values = {10.0**power: [0.5 + power / 20, 0.52 + power / 20] for power in range(-5, 0)}
    found = sweep_of(tmp_path, values, space={"x": "1e-5..0.1:log"}, logs=("x",))
    files = write_plots(found)
    assert sorted(path.name for path in files) == ["parallel.png", "parallel.svg", "slices.png", "slices.svg"]
    for path in files:
        if path.suffix == ".png":
            picture = Image.open(path).convert("RGB")
            colours = {colour: count for count, colour in picture.getcolors(1 << 24)}
            assert colours[0xD5, 0x5E, 0x00] > 100 and max(colours, key=colours.get) == (255, 255, 255) and len(colours) > 20
    slices = plot_slices(found)
    assert slices.axes[0].get_xscale() == "log" and slices.axes[0].get_xlabel() == "x (log scale)" and slices.axes[0].get_ylabel() == "score"
    assert [label.get_text() for label in plot_parallel(found).axes[0].get_xticklabels()] == ["x\n(log scale)", "score"]
    with pytest.raises(BadArgument, match="nothing|no numbers"):
        plot_slices(sweep_of(tmp_path, {}))
    assert write_plots(sweep_of(tmp_path, {}, id="train-11111111")) == []


def test_pictures_of_choices_and_of_one_value(tmp_path):
    """Texts stand in their order; where all values are the same nothing is divided by nothing."""
    found = sweep_of(tmp_path, {"tree": [0.5], "forest": [0.5]}, space={"x": "tree,forest"})
    assert [label.get_text() for label in plot_slices(found).axes[0].get_xticklabels()] == ["tree", "forest"]
    plot_parallel(found)


def test_a_damaged_record_says_what_to_do(tmp_path):
    file = tmp_path / "sweeps" / "train-00000000.json"
    file.parent.mkdir()
    for text in ("", "{", "[]", "{}", '{"format": 1, "trials": [3]}'):
        file.write_text(text)
        with pytest.raises(MlopsError, match="damaged. Delete it"):
            read_sweep(file)
    file.write_text('{"format": 99}')
    with pytest.raises(MlopsError, match="upgrade"):
        read_sweep(file)


def test_a_template_is_found_by_its_step(tmp_path):
    template = project_of(tmp_path, BOWL)
    found = command("sweep", "train", "-p", "x=0..1", cwd=template.parents[3])
    assert found.returncode == 2 and "no list of values" in found.stderr and read_template(template).step == "train"
    assert "no sweep yet" in command("sweep", "--list", cwd=template.parents[3]).stdout


def test_what_too_few_runs_do_not_tell_apart_is_not_told_apart(tmp_path):
    """Neither with two seeds, whatever the interval says, nor where the differences do not vary: the trial nearest to the best is never the one that is left out."""
    two = sweep_of(tmp_path, {1.0: [0.9433, 0.9433], 2.0: [0.94, 0.94], 3.0: [0.5, 0.9]})
    said = " ".join(verdict(two))
    assert "score 0.9433 (the same at 2 seeds)." in said and "With 2 seeds each, no trial can be told from the best." in said and "±" not in said and "Not to be told" not in said
    assert [trial.number for trial in two.ties] == [1, 2]
    assert "With one run each, no trial can be told from the best." in verdict(sweep_of(tmp_path, {1.0: [0.9], 2.0: [0.8]}))
    three = sweep_of(tmp_path, {1.0: [0.9, 0.8, 0.7], 2.0: [0.897, 0.797, 0.697], 3.0: [0.85, 0.8, 0.7], 4.0: [0.1, 0.11, 0.12]})
    assert [trial.number for trial in three.ties] == [1, 2]
    said = verdict(three)
    assert "Not to be told from it: trial 1 (the same difference at each seed, so nothing tells how much it varies)." in said
    assert "Not to be told from it: trial 2 (the interval of the differences, seed by seed, holds 0)." in said
    alone = verdict(sweep_of(tmp_path, {1.0: [0.9, 0.8]}))
    assert alone[0] == "1 of 1 trial: 1 succeeded." and len(alone) == 2


@pytest.mark.timeout(200)
@pytest.mark.parametrize("words", [
    ["-p", "x=0..1", "-p", "rate=0.123456789", "-p", "seed=3,5", "--way", "random", "--search-seed", "7", "--trials", "2", "--maximize", "loss"],
    ["-p", "x=0.123456789,1e-05", "-p", "fold=0,1", "--over", "fold", "-p", "note=a b $(c) 'd'"],
    ["-p", "x=1,2", "-p", "seed=0,1", "--over", "nothing", "-p", "layers=[8,4]"],
], ids=["random", "over", "not over seeds"])  # fmt: skip
def test_the_command_of_a_report_finds_the_same_sweep_and_runs_nothing(tmp_path, words):
    template = project_of(tmp_path, "glue('loss', x)", "x: float = 0.0\nrate: float = 0.5\nnote: str = ''\nlayers: list[int] = [8]\nfold: int = 0\nseed: int = 0")
    root = template.parents[3]
    assert command("sweep", template, *words, cwd=root).returncode == 0
    [found], before = sweeps(root), len(runs(root))
    [told, *_] = next(one.rows for one in summary_of_sweep(found, root).sections if one.title == "Have it again")[0]
    done = command(*shlex.split(told)[1:], cwd=root)
    assert done.returncode == 0 and "there already, nothing to do" in done.stderr, (told, done.stderr)
    assert [one.id for one in sweeps(root)] == [found.id] and len(runs(root)) == before == 4


@pytest.mark.timeout(100)
def test_a_result_that_no_run_glues_is_refused_where_all_runs_were_there_too(tmp_path):
    """By each way in which a run is found: as one that another sweep made, and as a trial of the same sweep."""
    template = project_of(tmp_path, BOWL)
    run_sweep(template, {"x": [1.0, 3.0]}, minimize="loss", jobs=1)
    for _ in range(2):
        with pytest.raises(BadArgument, match="no result 'los'; it glued 'loss'"):
            run_sweep(template, {"x": [1.0, 3.0]}, minimize="los", jobs=1)
    assert len(runs(template)) == 2


@pytest.mark.timeout(100)
def test_what_runs_when_a_sweep_ends_itself_says_why_it_was_stopped(tmp_path):
    """Nobody pressed Ctrl-C."""
    template = project_of(tmp_path, "import time; time.sleep(600 if x > 1 else 3)\n" + BOWL)
    began = time.monotonic()
    with pytest.raises(BadArgument, match="no result 'f1'"):
        run_sweep(template, {"x": [1.0, 2.0]}, maximize="f1", jobs=2)
    assert time.monotonic() - began < 30
    assert {run.status: run.error for run in runs(template)} == {"succeeded": None, "interrupted": "stopped: the sweep ended"}
