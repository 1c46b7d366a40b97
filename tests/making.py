"""Small notebooks and projects for the tests, and a way to call the command line as a person does."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

PYTHON = {"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3 (ipykernel)"}}


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a private folder whose path leaves room for a socket, and delete it on leaving."""
    with tempfile.TemporaryDirectory(prefix="nb-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def write_notebook(path: Path, *sources: str, parameters: str | None = None, metadata: dict = PYTHON) -> Path:
    """Write a notebook of these code cells; `parameters` is the source of a tagged cell put first."""
    cells = [cell(source) for source in sources]
    if parameters is not None:
        cells.insert(0, cell("from mlops_nb import Input, Output, Secret, glue"))
        cells.insert(1, cell(parameters, tags=["parameters"]))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": metadata, "cells": cells}))
    return path


def cell(source: str, tags: list[str] | None = None) -> dict:
    """Return a code cell."""
    return {"cell_type": "code", "metadata": {"tags": tags} if tags else {}, "source": source, "outputs": [], "execution_count": None}


def write_project(root: Path, templates: dict[str, tuple[str, str]], pipeline: str = "stars") -> Path:
    """Write a project with one pipeline: by name of the template, its `parameters` cell and its code."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").touch()
    for name, (parameters, code) in templates.items():
        write_notebook(root / "nbs" / "pipelines" / pipeline / f"{name}.ipynb", code, parameters=parameters)
    return root


def command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
    """Run `mlops-nb` with these words, as a process. (Where PYTEST_CURRENT_TEST is set, ipykernel does not hear C-level output.)"""
    bare = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return subprocess.run(
        [sys.executable, "-m", "mlops_nb", *map(str, words)],
        cwd=cwd, env={**bare, **variables}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def lives(pid: int) -> bool:
    """Say whether there is a process of this number that has not ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(question: Callable[[], object], within_s: float = 60) -> None:
    """Wait until a question is answered with yes."""
    ends = time.monotonic() + within_s
    while not question():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def gone(*pids: int, within_s: float = 15) -> bool:
    """Say whether all of these processes end in that time."""
    ends = time.monotonic() + within_s
    while any(map(lives, pids)) and time.monotonic() < ends:
        time.sleep(0.02)
    return not any(map(lives, pids))


def all_bytes(folder: Path) -> bytes:
    """Return the bytes of every file below a folder, one after the other, with the names."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"\n".join(str(path).encode() + b"\n" + path.read_bytes() for path in files)
