"""What a notebook costs above its own code: papermill, nbclient and ours, with a plain script as the floor."""

import json
import shutil
import sys
from pathlib import Path

from measure import Case, Command, Wrong, tool
from project import make_project

SCIENCE = "import matplotlib.pyplot as plt\nimport numpy as np\nimport pandas as pd\nimport sklearn.ensemble"
TORCH = "import torch\n\nones = torch.ones(256, 256)\nprint(float((ones @ ones).sum()))"

PARAMETERS = "seed: int = 0"  # where a notebook has this cell, it is a template

NOTEBOOKS = {  # title, sources of the cells, what they print
    "empty": ("An empty notebook: one cell, `pass`", ["pass"], ""),
    "imports": ("Importing numpy, pandas, scikit-learn and matplotlib", [SCIENCE, "print(np.arange(4).sum())"], "6\n"),
    "torch": ("The same, torch, and a small matrix product", [SCIENCE, TORCH], "16777216.0\n"),
    "cells": ("100 cells that print a number", [f"print({n})" for n in range(100)], "".join(f"{n}\n" for n in range(100))),
    "template": ("A template with an argument, run whether it is fresh or not", [PARAMETERS, "print(seed)"], "0\n"),
    "again": ("The same template a second time, after the imports of the second table", [PARAMETERS, SCIENCE, "print(seed)"], "0\n"),
}


def cases(folder: Path) -> list[Case]:
    """Return one case a notebook."""
    return [_case(name, folder / name) for name in NOTEBOOKS]


def _case(name: str, folder: Path) -> Case:
    title, sources, prints = NOTEBOOKS[name]
    file, executed = "measured.ipynb", folder / "executed" / "measured.ipynb"

    def make() -> None:
        make_project(folder)
        (folder / file).write_text(json.dumps(notebook(sources)))
        (folder / "measured.py").write_text("\n\n".join(sources) + "\n")

    def clear() -> None:
        """Leave nothing that the check could take for the work of the next process. (A run of ours has a new folder each time.)"""
        shutil.rmtree(executed.parent, ignore_errors=True)
        executed.parent.mkdir()

    def check_script(printed: str) -> None:
        if printed != prints:
            raise Wrong(f"it printed {printed[:200]!r}, not {prints[:200]!r}")

    def check_ours(printed: str) -> None:
        check_executed(folder / printed.strip(), prints)
        if name == "again" and len(list((folder / "runs" / "records").iterdir())) != 1:
            raise Wrong("it ran again what was fresh")

    def check_other(printed: str) -> None:
        check_executed(executed, prints)

    argument = {"template": "seed=0"}.get(name)
    ours = ("run", file, "-p", argument, "--force") if argument else ("run", file)
    papermill = (file, str(executed), "-p", *argument.split("=")) if argument else (file, str(executed))
    commands = [
        Command("plain script", (sys.executable, "measured.py"), check_script),
        Command("mlops-nb run", (tool("mlops-nb"), *ours), check_ours),
        Command("papermill", (tool("papermill"), *papermill), check_other, clear),
    ]
    if PARAMETERS not in sources:  # it takes no arguments
        commands.append(Command("jupyter execute", (tool("jupyter"), "execute", file, "--output", str(executed)), check_other, clear))
    return Case(name, title, folder, make, tuple(commands), ours="mlops-nb run", floor="plain script")


def notebook(sources: list[str]) -> dict:
    """Return a notebook of code cells that have not run."""
    cells = [
        {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "execution_count": None, "source": source, "outputs": []}
        for number, source in enumerate(sources)
    ]
    if PARAMETERS in sources:
        cells[sources.index(PARAMETERS)]["metadata"] = {"tags": ["parameters"]}
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


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
