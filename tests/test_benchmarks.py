"""The benchmarks run, and say of themselves what they found."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def modules(monkeypatch):
    """The benchmarks' modules can be imported, as they import each other."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.timeout(120)
def test_a_quick_case_runs_and_writes_nothing():
    """A case is measured and printed as a table; RESULTS.md stays as it is."""
    before = (BENCHMARKS / "RESULTS.md").read_bytes()
    done = subprocess.run([sys.executable, str(BENCHMARKS), "--quick", "--only", "params"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| **mlops-nb params train.ipynb** |" in done.stdout
    assert (BENCHMARKS / "RESULTS.md").read_bytes() == before


def test_a_command_that_left_undone_its_work_ends_the_benchmark(modules, tmp_path):
    """What fails, and what exits with 0 but leaves no right output, is refused with what it said."""
    from measure import Command, Wrong, run_once, saying

    python = (sys.executable, "-c")
    with pytest.raises(Wrong, match="exited with code 3"):
        run_once(Command("fails", (*python, "raise SystemExit(3)"), saying("")), tmp_path)
    with pytest.raises(Wrong, match="'done' is not in what it printed\nnothing"):
        run_once(Command("idle", (*python, "print('nothing')"), saying("done")), tmp_path)
    assert run_once(Command("works", (*python, "print('done')"), saying("done")), tmp_path).wall_s > 0


def test_aims_are_computed_from_what_was_measured(modules):
    """A ratio is the median of the ratios of the rounds; what was not measured is said, and is not reached."""
    import aims

    cells = {"papermill": [6.0, 7.0, 90.0], "mlops-nb run": [2.0, 2.0, 2.0], "plain script": [1.0, 1.0, 1.0]}
    assert aims.times("papermill", "mlops-nb run")(cells) == 3.5
    assert aims.times_above("plain script", "papermill", "mlops-nb run")(cells) == 6
    rows = aims.table({"cells": cells, "torch": cells}).splitlines()
    assert "| 100 cells: papermill's time, in ours | at least 3 | 3.50 | reached |" in rows
    assert "| With torch: what papermill takes above a script, in what ours does | at least 15 | 6.00 | **not reached** |" in rows
    assert sum("not measured" in row for row in rows) == len(aims.AIMS) - 2


def test_the_report_is_the_one_made_of_what_was_measured(modules):
    """RESULTS.md has what is in measured.json, and each table says when it was measured."""
    import report
    import run

    text = report.render(report.read(), run.abouts())
    assert text == report.RESULTS.read_text()
    assert text.count("\n### ") == text.count("; place ") == len(report.read())
