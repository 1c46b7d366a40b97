"""The number is the height: a module imports only what stands below it, and each foreign tool is known to one module.

Seen are the forms of import that the cases below show, wherever they stand in a file. Not seen is an import whose name is computed when it runs.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each is known to one module, so that one notebook is rewritten when the tool changes or dies.
TOOLS = {
    "IPython": ("result", "steps"),
    "annotated_types": "template",
    "bleach": "board",
    "cyclonedx": "bill",
    "dask": "cluster",
    "distributed": "cluster",
    "fsspec": "remote",
    "ipykernel": ("shell", "kernels"),
    "jupyter_client": ("shell", "provision", "kernel", "kernels"),
    "jupyter_core": ("provision", "kernel", "kernelspec"),
    "nbclient": "execute",
    "nbconvert": "board",
    "nbdime": "align",
    "nbformat": "execute",
    "optuna": "search",
    "packaging": "environment",
    "packageurl": "bill",
    "papermill": "execute",
    "pydantic": ("template", "comment"),
    "pyflakes": "lint",
    "requests": "post",
    "rich": "terminal",
    "tornado": "shell",
    "traitlets": ("provision", "shell"),
    "typer": ("running", "asking", "checking", "proving", "keeping", "sharing", "kernels", "imaging", "cli"),  # a command declares its own options
    "urllib3": "post",
    "zmq": "shell",
}
ANYWHERE = {"PIL", "matplotlib", "numpy", "pandas", "psutil", "scipy"}  # used as the standard library is
NOWHERE = {"fastcore", "nbdev"}  # they write the package; it does not need them


@cache
def imports(source: str, package: str) -> list[tuple[int, str]]:
    """Return what `imported` yields."""
    return [*imported(source, package)]


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and absolute dotted name of what a file of `package` imports; `from a import b` is `a.b`."""
    nodes = list(ast.walk(ast.parse(source)))
    named = {alias.asname for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names if alias.name == "import_module"}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute("." * node.level + (node.module or ""), package)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__", *named}:
            words = {word.arg: word.value for word in node.keywords}
            name, anchor = [*node.args, *words.values()][0], words.get("package") or (node.args[1:2] or [None])[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, absolute(name.value, anchor.value if isinstance(anchor, ast.Constant) and isinstance(anchor.value, str) else package)


def absolute(name: str, package: str) -> str:
    """Return the name that a relative one means in a file of `package`."""
    dots = len(name) - len(name.lstrip("."))
    parents = package.split(".")[: len(package.split(".")) - dots + 1] if dots else []
    return ".".join([*parents, *filter(None, [name.lstrip(".")])])


def faults(source: str, module: str, heights: dict[str, float]) -> list[str]:
    """Return a sentence for each import in `module` of something that does not stand below it. Names are as in `mlops_nb.<name>`."""
    found = []
    study = module.rpartition(".")[0]
    for line, name in imports(source, f"mlops_nb.{module}".rpartition(".")[0]):
        top, _, rest = name.partition(".")
        if top in NOWHERE:
            found.append(f"line {line}: {top} writes this package, which must not need it")
        if top != "mlops_nb" or rest == "__version__":
            continue
        target = next((other for other in sorted(heights, key=len, reverse=True) if f"{rest}.".startswith(f"{other}.")), None)
        if target is None and rest.startswith("studies"):
            found.append(f"line {line}: {name} is no module that a notebook exports")
        elif target is None and not study:
            found.append(f"line {line}: {name} comes through the front door, which may open any module; import it from its own")
        elif target is None:
            pass  # a study may come through the front door, as its templates do
        elif target.startswith("studies.") and target.rpartition(".")[0] != study:
            found.append(f"line {line}: {target} belongs to a study")
        elif target.rpartition(".")[0] == study and heights[target] >= heights[module]:
            found.append(f"line {line}: {target} ({heights[target]:g}) does not stand below {module} ({heights[module]:g})")
    return found


def strangers(source: str, module: str) -> list[str]:
    """Return a sentence for each foreign package that is not `module`'s to import."""
    found = []
    for line, name in imports(source, f"mlops_nb.{module}".rpartition(".")[0]):
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names or top in ANYWHERE or top == "mlops_nb":
            continue
        owner = TOOLS.get(top)
        if owner is None and not module.startswith("studies."):
            found.append(f"line {line}: {top} is not in the table of tools; say there which module knows it")
        elif owner is not None and module not in (owner if isinstance(owner, tuple) else (owner,)):
            found.append(f"line {line}: {top} is known to {owner}; ask it")
    return found


def exported() -> dict[str, tuple[Path, int]]:
    """Return notebook and number of each module that the notebooks export."""
    found = {}
    for notebook in [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("nbs/studies/*/*.ipynb")]:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        module = re.search(r"^#\| *default_exp +(\S+)", "\n".join("".join(cell["source"]) for cell in cells), re.MULTILINE)
        if module:
            found[module[1]] = (notebook, int(re.match(r"\d+|$", notebook.name)[0] or -1))
    return found


MODULES = exported()
HEIGHTS = {module: number for module, (_, number) in MODULES.items()}


def source_of(module: str) -> str:
    return (ROOT / "mlops_nb" / module.replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_below_it(module):
    assert faults(source_of(module), module, HEIGHTS) == []


@pytest.mark.parametrize("module", MODULES)
def test_a_notebook_shows_nothing_that_it_has_not_introduced(module):
    """Its examples may use the module itself and what stands below it."""
    notebook, number = MODULES[module]
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    source = re.sub(r"^( *)[%!].*", r"\1pass", "\n".join("".join(cell["source"]) for cell in cells), flags=re.MULTILINE)
    examples = f"{module} examples"
    assert faults(source, examples, {**HEIGHTS, examples: number + 0.5}) == []


@pytest.mark.parametrize("module", MODULES)
def test_each_foreign_tool_is_known_to_one_module(module):
    assert strangers(source_of(module), module) == []


def test_every_tool_of_the_table_is_used():
    used = {name.partition(".")[0] for module in MODULES for _, name in imports(source_of(module), "mlops_nb")}
    assert set(TOOLS) <= used


def test_a_notebook_is_named_after_its_module():
    for module, (notebook, number) in MODULES.items():
        folders = notebook.parent.relative_to(ROOT / "nbs").parts
        assert notebook.name == f"{number:02d}_{module.rpartition('.')[2]}.ipynb"
        assert module == ".".join([*folders, notebook.stem[3:]])


def test_every_module_comes_from_a_notebook():
    files = {file.relative_to(ROOT / "mlops_nb").with_suffix("").as_posix().replace("/", ".") for file in ROOT.glob("mlops_nb/**/*.py")}
    doors = {"__init__", "__main__", "_modidx"}  # the front door, the command, and nbdev's index
    folders = {name for name in files if name.endswith(".__init__")}
    assert files - doors - folders == set(MODULES)
    for name in folders:
        assert list(imports(source_of(name), "mlops_nb")) == [], f"{name} imports; let what its folder holds be imported by name"


# The checkers are checked: in each case `middle` (20) reaches up to `high` (30), or past the front door, in another form.

EXAMPLE = {"low": 10, "middle": 20, "high": 30, "studies.stars.low": 10, "studies.stars.middle": 20, "studies.stars.high": 30, "studies.moons.low": 10}


@pytest.mark.parametrize(
    "source",
    [
        "import mlops_nb.high",
        "import mlops_nb.high as other",
        "import os, mlops_nb.high",
        "from mlops_nb import high",
        "from mlops_nb import low, high",
        "from mlops_nb.high import name",
        "from mlops_nb.high import *",
        "from .high import name",
        "from . import high",
        "from . import high as low",
        "def function():\n    from mlops_nb.high import name",
        "class Thing:\n    def method(self):\n        from . import high",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlops_nb.high import name",
        "try:\n    import mlops_nb.high\nexcept ImportError:\n    pass",
        "import importlib\nimportlib.import_module('mlops_nb.high')",
        "from importlib import import_module\nimport_module('.high', 'mlops_nb')",
        "from importlib import import_module\nimport_module('.high', package='mlops_nb')",
        "from importlib import import_module\nimport_module('.high', __package__)",
        "from importlib import import_module\nimport_module(name='mlops_nb.high')",
        "from importlib import import_module as load\nload('mlops_nb.high')",
        "__import__('mlops_nb.high')",
        "from mlops_nb.middle import itself",
        "import mlops_nb",
        "from mlops_nb import glue",
        "from mlops_nb import *",
        "from . import glue",
        "import mlops_nb.studies.stars.low",
        "from mlops_nb.studies.stars.low import name",
        "from .studies.stars import low",
        "import mlops_nb.studies",
        "import nbdev",
        "from fastcore.basics import patch",
        "from importlib import import_module\nimport_module('nbdev.export')",
    ],
)
def test_what_reaches_up_is_caught(source):
    assert len(faults(source, "middle", EXAMPLE)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import mlops_nb.low",
        "from mlops_nb import low",
        "from mlops_nb.low import high",
        "from .low import name",
        "from . import low",
        "from importlib import import_module\nimport_module('.low', 'mlops_nb')",
        "from mlops_nb import __version__",
        "import highway\nfrom high import name\nimport mlops_nb_high",
    ],
)
def test_what_stands_below_may_be_imported(source):
    assert faults(source, "middle", EXAMPLE) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("from mlops_nb.high import name", 0),
        ("from ...high import name", 0),
        ("from mlops_nb import glue", 0),
        ("from .low import name", 0),
        ("from mlops_nb.studies.stars import low", 0),
        ("from .high import name", 1),
        ("from . import high", 1),
        ("from mlops_nb.studies.stars.high import name", 1),
        ("from ..moons.low import name", 1),
        ("import mlops_nb.studies.moons.low", 1),
        ("from ..moons import missing", 1),
    ],
)
def test_a_study_imports_the_library_and_what_stands_below_in_the_same_study(source, count):
    assert len(faults(source, "studies.stars.middle", EXAMPLE)) == count


@pytest.mark.parametrize(
    ("source", "module", "count"),
    [
        ("import papermill", "execute", 0),
        ("from papermill.engines import Engine", "kernel", 1),
        ("def function():\n    from importlib import import_module\n    import_module('papermill')", "kernel", 1),
        ("import mlflow", "execute", 1),
        ("import json, pandas", "execute", 0),
        ("import torch", "studies.stars.low", 0),
        ("import papermill", "studies.stars.low", 1),
    ],
)
def test_a_stranger_is_caught(source, module, count):
    assert len(strangers(source, module)) == count
