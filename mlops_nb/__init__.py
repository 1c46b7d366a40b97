"""Research notebooks that give the same answer everywhere, and can prove it."""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .graph import Graph as Graph
    from .graph import read_graph as read_graph
    from .record import Run as Run
    from .record import find_run as find_run
    from .record import runs as runs
    from .result import glue as glue
    from .role import Input as Input
    from .role import Output as Output
    from .role import Secret as Secret
    from .step import run as run
    from .steps import report as report
    from .sweep import run_sweep as run_sweep
    from .trials import sweeps as sweeps
    from .pipeline import run_pipeline as run_pipeline
    from .template import read_template as read_template

# Names are imported when they are used: every kernel imports this package for `Input`, and needs nothing else of it.
_HOME = {
    "Graph": "graph",
    "Input": "role",
    "Output": "role",
    "Run": "record",
    "Secret": "role",
    "find_run": "record",
    "glue": "result",
    "read_graph": "graph",
    "read_template": "template",
    "report": "steps",
    "run": "step",
    "run_pipeline": "pipeline",
    "run_sweep": "sweep",
    "runs": "record",
    "sweeps": "trials",
}

__all__ = [
    "Graph",
    "Input",
    "Output",
    "Run",
    "Secret",
    "find_run",
    "glue",
    "read_graph",
    "read_template",
    "report",
    "run",
    "run_pipeline",
    "run_sweep",
    "runs",
    "sweeps",
    "__version__",
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
