"""What a notebook costs above its own code: papermill, nbclient and ours, with a plain script as the floor."""

import json
import shutil
import sys
from pathlib import Path

from measure import Case, Command, Wrong, tool
from project import make_project

SCIENCE = "import matplotlib.pyplot as plt\nimport numpy as np\nimport pandas as pd\nimport sklearn.ensemble"
TORCH = "import torch\n\nones = torch.ones(256, 256)\nprint(float((ones @ ones).sum()))"

NOTEBOOKS = {  # title, sources of the cells, what they print
    "empty": ("An empty notebook: one cell, `pass`", ["pass"], ""),
    "imports": ("Importing numpy, pandas, scikit-learn and matplotlib", [SCIENCE, "print(np.arange(4).sum())"], "6\n"),
    "torch": ("The same, torch, and a small matrix product", [SCIENCE, TORCH], "16777216.0\n"),
    "cells": ("100 cells that print a number", [f"print({n})" for n in range(100)], "".join(f"{n}\n" for n in range(100))),
}


def cases(folder: Path) -> list[Case]:
    """Return one case a notebook."""
    return [_case(name, folder / name) for name in NOTEBOOKS]


def notebook(sources: list[str]) -> dict:
    """Return a notebook of code cells that have not run."""
    cells = [
        {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": None, "source": source, "outputs": []}
        for number, source in enumerate(sources)
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _case(name: str, folder: Path) -> Case:
    title, sources, prints = NOTEBOOKS[name]
    file, executed = "measured.ipynb", folder / "executed" / "measured.ipynb"

    def make() -> None:
        make_project(folder)
        (folder / file).write_text(json.dumps(notebook(sources)))
        (folder / "measured.py").write_text("\n\n".join(sources) + "\n")

    def empty() -> None:
        """Leave nothing that a later check could take for the work of the next process."""
        for left in ("executed", "runs"):
            shutil.rmtree(folder / left, ignore_errors=True)
        executed.parent.mkdir()

    def check_script(printed: str) -> None:
        if printed != prints:
            raise Wrong(f"it printed {printed[:200]!r}, not {prints[:200]!r}")

    commands = (
        Command("plain script", (sys.executable, "measured.py"), check_script, empty),
        Command("mlops-nb run", (tool("mlops-nb"), "run", file), lambda printed: check_executed(folder / printed.strip(), prints), empty),
        Command("papermill", (tool("papermill"), file, str(executed)), lambda printed: check_executed(executed, prints), empty),
        Command(
            "jupyter execute", (tool("jupyter"), "execute", file, "--output", str(executed)), lambda printed: check_executed(executed, prints), empty
        ),
    )
    return Case(name, title, folder, make, commands, ours="mlops-nb run", floor="plain script")


def check_executed(
    path: Path,
    prints: str,  # what its cells print, together
) -> None:
    """Raise `Wrong` where an executed notebook is missing, has cells that did not run, or outputs that it should not have."""
    if not path.is_file():
        raise Wrong(f"it left no notebook {path.name}")
    cells = json.loads(path.read_text())["cells"]
    idle = [number for number, cell in enumerate(cells, start=1) if not cell["execution_count"]]
    if idle:
        raise Wrong(f"cells {idle} did not run")
    outputs = [output for cell in cells for output in cell["outputs"]]
    printed = "".join("".join(output["text"]) for output in outputs if output["output_type"] == "stream" and output["name"] == "stdout")
    if printed != prints:
        raise Wrong(f"its cells printed {printed[:200]!r}, not {prints[:200]!r}")
    errors = [output["evalue"] for output in outputs if output["output_type"] == "error"]
    if errors:
        raise Wrong(f"a cell raised {errors[0]}")
