"""How soon a command answers: ours, papermill's, and a Python that does nothing."""

import json
import sys
from pathlib import Path

from measure import Case, Command, saying, tool
from overhead import notebook
from project import make_project, past_id, write_past_runs

RUNS = 1000  # in the store
CONTRACT = '''learning_rate: float = 1e-3  # Adam step, > 0
hidden: int = 64  # units per layer
optimizer: Literal["adam", "sgd"] = "adam"
seed: int = 0
'''


def cases(folder: Path) -> list[Case]:
    """Return one case for each question that is asked without running anything."""
    newest = past_id(RUNS - 1)

    def make_template() -> None:
        make_project(folder)
        template = notebook(["from typing import Literal", CONTRACT, "print(learning_rate)"])
        template["cells"][1]["metadata"]["tags"] = ["parameters"]
        (folder / "train.ipynb").write_text(json.dumps(template))

    def make_runs() -> None:
        make_project(folder)
        write_past_runs(folder / "runs", RUNS)

    nothing = Command("python -c pass", (sys.executable, "-c", "pass"), lambda printed: None)
    return [
        Case(
            "help", "What can it do? `--help`", folder, make_template,
            (nothing, _ours("--help", says="Usage"), _papermill("--help", says="Usage")),
            ours="mlops-nb --help", floor=nothing.name,
        ),
        Case(
            "params", "What does a notebook take?", folder, make_template,
            (nothing, _ours("params", "train.ipynb", says="learning_rate"), _papermill("--help-notebook", "train.ipynb", says="learning_rate")),
            ours="mlops-nb params train.ipynb", floor=nothing.name,
        ),
        Case(
            "runs", f"What has run? {RUNS:,} runs in the store (papermill keeps no list)", folder, make_runs,
            (nothing, _ours("runs", says=newest), _ours("show", newest, says="macro_f1", shown="show RUN")),
            ours="mlops-nb runs", floor=nothing.name,
        ),
    ]  # fmt: skip


def _ours(*arguments: str, says: str, shown: str = "") -> Command:
    return Command(f"mlops-nb {shown or ' '.join(arguments)}", (tool("mlops-nb"), *arguments), saying(says))


def _papermill(*arguments: str, says: str) -> Command:
    return Command(f"papermill {' '.join(arguments)}", (tool("papermill"), *arguments), saying(says))
