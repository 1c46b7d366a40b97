"""Reports once the results are there: of a pipeline of 20 steps against its base, and of a sweep of 1,000 runs.

Nothing is executed: every run of both sides is in the store. The page, its pictures and the comment are written each time.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from measure import Case, Command, Wrong, make_once, saying, tool
from overhead import notebook
from project import make_project, past_id, past_results, write_past_runs

from mlops_nb.trials import Sweep, Trial, TrialRun, write_sweep

STEPS, TRIALS = 20, 1000
SETTINGS = "[metrics]\nscore = higher, tolerance 0.001, seeds 2\n[gate]\nmax_seeds = 2\n"
SHARED = "def grow(values):\n    return [value + 0.001 for value in values]\n"
FIRST = 'values = [0.5] * 1000'
LATER = 'values = [float(line) for line in open(source)]'
CODE = 'open(target, "w").write("\\n".join(map(str, grow(values))))\nglue("mean", sum(values) / len(values))\nglue("curve", [value * n for n, value in enumerate(values[:40])])'
LAST = 'import random\nglue("score", values[0] + random.Random(seed).gauss(0, 0.0002))'


def cases(folder: Path) -> list[Case]:
    """Return a case for each of the two reports."""
    return [_pipeline(folder / "report-pipeline"), _sweep(folder / "report-sweep")]


def _pipeline(project: Path) -> Case:
    def make() -> None:
        make_project(project, SETTINGS)
        templates = project / "nbs/pipelines/growth"
        templates.mkdir(parents=True)
        (templates / "shared.py").write_text(SHARED)
        for number in range(1, STEPS + 1):
            parameters = [f'target = Output("data/{number}.txt")', *([f'source = Input("data/{number - 1}.txt")'] if number > 1 else []), *(["seed: int = 0"] if number == STEPS else [])]
            code = [LATER if number > 1 else FIRST, CODE, *([LAST] if number == STEPS else [])]
            text = notebook(["from mlops_nb import Input, Output, glue\nfrom shared import grow", "\n".join(parameters), "\n".join(code)])
            text["cells"][1]["metadata"] = {"tags": ["parameters"]}
            (templates / f"{number:02}_step{number}.ipynb").write_text(json.dumps(text))
        (project / ".gitignore").write_text("/runs/\n/data/\n/report/\n__pycache__/\n")
        for words in (("run",), ("publish",)):
            make_once(project, tool("mlops-nb"), *words)
        who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
        for words in (("add", "-A"), (*who, "commit", "--quiet", "--message", "Published"), ("branch", "base")):
            subprocess.run(["git", *words], cwd=project, check=True)
        (templates / "shared.py").write_text(SHARED.replace("0.001", "0.002"))
        make_once(project, tool("mlops-nb"), "report", "--against", "base")  # runs both sides

    def whole(printed: str) -> None:
        page = (project / "report/report.html").read_text()
        if not printed.startswith("passes: score: better") or "every step: nbs/pipelines/growth/shared.py: function grow changed" not in page or page.count("before and after") < 8:
            raise Wrong("the report does not say what it has to")

    commands = (
        Command("python -c pass", (sys.executable, "-c", "pass"), lambda printed: None),
        Command("mlops-nb compare", (tool("mlops-nb"), "compare", "base"), saying("function grow changed")),
        Command("mlops-nb report", (tool("mlops-nb"), "report", "--against", "base"), whole),
    )
    return Case("report-pipeline", f"The report of {STEPS} steps that all changed", project, make, commands, ours="mlops-nb report")


def _sweep(project: Path) -> Case:
    def make() -> None:
        make_project(project)
        write_past_runs(project / "runs", TRIALS)
        stamp = "2026-01-01T00:00:00+00:00"
        axes = {"seed": f"0:{TRIALS}"}
        sweep = Sweep("train-0a1b2c3d", "nbs/pipelines/variables/50_train.ipynb", axes, {}, None, "random", "macro_f1", "maximize", 0, TRIALS, stamp, stamp, project / "runs")
        runs = [TrialRun({"seed": n}, "succeeded", past_id(n), f"{n:064x}", {name: value for name, value in past_results(n).items() if isinstance(value, float)}) for n in range(TRIALS)]
        write_sweep(replace(sweep, trials=tuple(Trial(n, run.arguments, (run,)) for n, run in enumerate(runs))))

    commands = (
        Command("python -c pass", (sys.executable, "-c", "pass"), lambda printed: None),
        Command("mlops-nb report --sweep", (tool("mlops-nb"), "report", "--sweep"), saying(f"{TRIALS:,} of {TRIALS:,} trials succeeded")),
    )
    return Case("report-sweep", f"The report of a sweep of {TRIALS:,} runs", project, make, commands, ours="mlops-nb report --sweep")
