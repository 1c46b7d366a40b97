"""Reading the results of many runs: our index, made anew and at hand, and scrapbook over the executed notebooks.

Each is a fresh process, which takes the time of the one call; starting Python and importing are left out.
"""

import json
import sys
from pathlib import Path

from measure import Case, Command, Sample, Wrong
from project import make_project, past_results, write_past_notebooks, write_past_runs

OURS = """
import json, sys, time
from mlops_nb import runs
started = time.perf_counter()
found = runs(sys.argv[1])
macro_f1 = [run.results["macro_f1"] for run in found]
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "macro_f1": sorted(macro_f1)}))
"""
SCRAPBOOK = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import scrapbook
started = time.perf_counter()
found = scrapbook.read_notebooks(sys.argv[1]).notebooks
macro_f1 = [notebook.scraps["macro_f1"].data for notebook in found]
seconds = time.perf_counter() - started
print(json.dumps({"seconds": seconds, "macro_f1": sorted(macro_f1)}))
"""


def cases(folder: Path) -> list[Case]:
    """Return the case of 1,000 runs, with scrapbook beside ours, and the one of 10,000."""
    return [_case("reading-1000", 1_000, folder, True), _case("reading-10000", 10_000, folder, False)]


def _case(name: str, count: int, folder: Path, with_scrapbook: bool) -> Case:
    project, notebooks = folder / name, folder / "notebooks"
    index = project / "runs" / "index.sqlite"

    def make() -> None:
        make_project(project)
        write_past_runs(project / "runs", count)
        if with_scrapbook:
            write_past_notebooks(notebooks, count)

    def check(printed: str) -> None:
        if json.loads(printed)["macro_f1"] != sorted(past_results(number)["macro_f1"] for number in range(count)):
            raise Wrong("the results that it read are not those that were written")

    ours, scrapbook = (sys.executable, "-c", OURS, str(project)), (sys.executable, "-c", SCRAPBOOK, str(notebooks))
    commands = [
        Command("mlops_nb.runs", ours, check, value=_seconds),
        Command("mlops_nb.runs, no index yet", ours, check, lambda: index.unlink(missing_ok=True), value=_seconds),
    ]
    if with_scrapbook:
        commands.append(Command("scrapbook.read_notebooks", scrapbook, check, value=_seconds))
    title = f"Reading the results of {count:,} runs"
    return Case(name, title, project, make, tuple(commands), ours="mlops_nb.runs", unit="ms")


def _seconds(sample: Sample) -> float:
    return json.loads(sample.printed)["seconds"]
