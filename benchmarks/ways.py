"""Our own ways of doing the same: with a warm server and without one, and what this version has of them."""

import subprocess
from functools import lru_cache
from pathlib import Path

from measure import make_once, tool
from project import make_project

from mlops_nb.settings import OPTIONS

COLD = "[kernels]\nwarm = off\n"  # in settings.ini


def has_warm() -> bool:
    """Say whether kernels can be forked from a server."""
    return "warm" in OPTIONS.get("kernels", {}) and knows("kernel")


@lru_cache
def knows(
    *arguments: str,  # such as "run", "--jobs"
) -> bool:
    """Say whether the command line has a command, or a command an option."""
    command, *options = arguments
    done = subprocess.run([tool("mlops-nb"), command, "--help"], capture_output=True, text=True)
    return not done.returncode and all(option in done.stdout for option in options)


def projects(
    folder: Path,  # where the peers run
) -> dict[str, Path]:
    """Return the folder of each of our ways, by what is said of it: the first is the default of a user, without a word."""
    return {"": folder, ", cold": folder.with_name(f"{folder.name}-cold")} if has_warm() else {"": folder}


def make_projects(
    folder: Path,
) -> None:
    """Make an empty project for each of our ways."""
    for said, place in projects(folder).items():
        make_project(place, COLD if said else "")


def stop_servers() -> None:
    """Stop every warm server, so that the next command has to start one."""
    if has_warm():
        make_once(Path(), tool("mlops-nb"), "kernel", "stop", "--all")
