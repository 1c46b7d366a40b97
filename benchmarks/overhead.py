"""What a notebook costs above its own code: papermill, nbclient, nbmake, execnb and ours, with a plain script as the floor."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import Case, Command, Sample, Wrong, tool
from ways import make_projects, projects

SCIENCE = "import matplotlib.pyplot as plt\nimport numpy as np\nimport pandas as pd\nimport sklearn.ensemble"
TORCH = "import torch\n\nones = torch.ones(256, 256)\nprint(float((ones @ ones).sum()))"

PARAMETERS = "seed: int = 0"  # where a notebook has this cell, it is a template

NOTEBOOKS = {  # title, sources of the cells, what they print, rounds
    "empty": ("An empty notebook: one cell, `pass`", ["pass"], "", 5),
    "imports": ("Importing numpy, pandas, scikit-learn and matplotlib", [SCIENCE, "print(np.arange(4).sum())"], "6\n", 3),
    "torch": ("The same, torch, and a small matrix product", [SCIENCE, TORCH], "16777216.0\n", 3),
    "cells": ("100 cells that print a number", [f"print({n})" for n in range(100)], "".join(f"{n}\n" for n in range(100)), 3),
    "template": ("A template with an argument, run whether it is fresh or not", [PARAMETERS, "print(seed)"], "0\n", 3),
    "again": ("The same template a second time, after the imports of the second table", [PARAMETERS, SCIENCE, "print(seed)"], "0\n", 3),
}
TEMPLATES = ("template", "again")  # compared with papermill alone: the others take no arguments, or keep no runs

NOTE = """\
*One call* is a function called in a process that has imported it: what a second notebook of the same process costs. nbclient alone is `jupyter execute`.
exec_nb runs the cells in its own process, without a kernel."""
BARE = " *A bare kernel* is sent the cells one by one by jupyter_client's BlockingKernelClient, and nothing is written."

# Each prints, after whatever else was printed, the seconds that the call took.
TIMED = """
import json, sys, time
{imports}
started = time.perf_counter()
{call}
print(json.dumps({{"seconds": time.perf_counter() - started}}))
"""
CALLS = {
    "papermill.execute_notebook, one call": ("import papermill", "papermill.execute_notebook(sys.argv[1], sys.argv[2], progress_bar=False)"),
    "mlops_nb.step.run, one call": ("import shutil; from mlops_nb.step import run", "run = run(sys.argv[1], force=True); shutil.copy(run.notebook, sys.argv[2])"),
}
KERNEL = """
import json, sys, time
from jupyter_client.manager import KernelManager
sources = ["".join(cell["source"]) for cell in json.load(open(sys.argv[1]))["cells"]]
printed = []

def keep(message):
    if message["msg_type"] == "stream":
        printed.append(message["content"]["text"])

def execute():
    for source in sources:
        reply = client.execute_interactive(source, output_hook=keep)
        assert reply["content"]["status"] == "ok", reply
started = time.perf_counter()
manager = KernelManager(kernel_name="python3")
manager.start_kernel()
client = manager.blocking_client()
client.start_channels()
client.wait_for_ready(60)
ready = time.perf_counter()
execute()
done = time.perf_counter()
client.stop_channels()
manager.shutdown_kernel()
ended = time.perf_counter()
print(json.dumps({"seconds": {"cells": done - ready, "whole": ended - started}[sys.argv[2]], "printed": "".join(printed)}))
"""


def cases(folder: Path) -> list[Case]:
    """Return one case a notebook."""
    return [_case(name, folder / name) for name in NOTEBOOKS]


def _case(name: str, folder: Path) -> Case:
    title, sources, _, rounds = NOTEBOOKS[name]

    def make() -> None:
        make_projects(folder)
        for place in projects(folder).values():
            (place / "measured.ipynb").write_text(json.dumps(notebook(sources)))
            (place / "measured.py").write_text("\n\n".join(sources) + "\n")

    commands = [*_ours_and_papermill(name, folder), *([] if name in TEMPLATES else _others(name, folder))]
    note = "" if name in TEMPLATES else NOTE + BARE * (name == "cells")
    return Case(name, title, folder, make, tuple(commands), ours="mlops-nb run", floor="plain script", rounds=rounds, note=note)


def _ours_and_papermill(name: str, folder: Path) -> Iterator[Command]:
    prints = NOTEBOOKS[name][2]
    executed = folder / "executed" / "measured.ipynb"

    def check_script(printed: str) -> None:
        if printed != prints:
            raise Wrong(f"it printed {printed[:200]!r}, not {prints[:200]!r}")

    def check_in(place: Path):
        def check_ours(printed: str) -> None:
            check_executed(place / printed.strip(), prints)
            if name == "again" and len(list((place / "runs" / "records").iterdir())) != 1:
                raise Wrong("it ran again what was fresh")

        return check_ours

    argument = {"template": "seed=0"}.get(name)
    ours = ("run", "measured.ipynb", "-p", argument, "--force") if argument else ("run", "measured.ipynb")
    papermill = ("measured.ipynb", str(executed), *(("-p", *argument.split("=")) if argument else ()))
    yield Command("plain script", (sys.executable, "measured.py"), check_script)
    for said, place in projects(folder).items():
        yield Command(f"mlops-nb run{said}", (tool("mlops-nb"), *ours), check_in(place), folder=place)
    yield Command("papermill", (tool("papermill"), *papermill), lambda printed: check_executed(executed, prints), lambda: clear(executed.parent))


def _others(name: str, folder: Path) -> Iterator[Command]:
    prints = NOTEBOOKS[name][2]
    notebook, executed = folder / "measured.ipynb", folder / "executed" / "measured.ipynb"

    def check(printed: str) -> None:
        check_executed(executed, prints)

    def prepare() -> None:
        clear(executed.parent)

    def copy() -> None:
        """nbmake writes into the notebook that it runs."""
        clear(executed.parent)
        shutil.copy(notebook, executed)

    for said, (imports, call) in CALLS.items():
        script = TIMED.format(imports=imports, call=call)
        yield Command(said, (sys.executable, "-c", script, str(notebook), str(executed)), check, prepare, value=printed_seconds)
    yield Command("jupyter execute", (tool("jupyter"), "execute", str(notebook), "--output", str(executed)), check, prepare)
    yield Command("pytest --nbmake", (tool("pytest"), "-p", "no:cacheprovider", "--nbmake", "--overwrite", str(executed)), check, copy)
    yield Command("exec_nb", (tool("exec_nb"), str(notebook), "--dest", str(executed)), check, prepare)
    if name == "cells":
        for said, what in (("a bare kernel, the cells alone", "cells"), ("a bare kernel, its start and end too", "whole")):
            yield Command(said, (sys.executable, "-c", KERNEL, str(notebook), what), _check_bare(prints), value=printed_seconds)


def _check_bare(prints: str):
    def check(printed: str) -> None:
        if json.loads(printed)["printed"] != prints:
            raise Wrong(f"its cells printed {printed[:200]!r}")

    return check


def printed_seconds(sample: Sample) -> float:
    """Return what the process says that it took, in the last line that it printed."""
    return json.loads(sample.printed.splitlines()[-1])["seconds"]


def clear(folder: Path) -> None:
    """Leave nothing that a check could take for the work of the next process. (A run of ours has a new folder each time.)"""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


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
