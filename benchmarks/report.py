"""RESULTS.md: every table with when, where and at what load it was measured, made from measured.json."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import aims
from measure import Case, Sample, table, values
from peers import peer_versions

from mlops_nb.environment import hardware

MEASURED, RESULTS = Path(__file__).with_name("measured.json"), Path(__file__).with_name("RESULTS.md")
PACKAGES = (
    "papermill", "nbclient", "jupyter_client", "ipykernel", "nbformat", "nbmake", "execnb", "distributed", "scrapbook",
    "numpy", "pandas", "scikit-learn", "matplotlib", "torch",
)  # fmt: skip

HOW = """\
Each command is a process of its own, timed from its start to its end, in a project in a temporary folder. The commands of a table take turns, there and
back, for some rounds after one that is not counted; a ratio is taken within a round. *The floor* is the command that does the work and nothing around it.
*Processor* is the time on a core of the process and the children that it waited for: what a warm server does is not in it. *Cold* is `warm = off` in
settings.ini. The exit code, the executed notebook's outputs and the values that were to be found are checked each time."""


class Moment:
    """The time and the load when measuring a case begins."""

    def __init__(self) -> None:
        self.started, self.load = time.monotonic(), os.getloadavg()[0]

    def line(
        self,
        rounds: int,
        warm_up: bool,
    ) -> str:
        """Return what a table says of its measuring, now that it has ended."""
        times = f"{rounds} round{'s' * (rounds > 1)}" + ("" if warm_up else ", all counted")
        took = f"{time.monotonic() - self.started:.0f} s, load average {self.load:.1f} before, {os.getloadavg()[0]:.1f} after"
        return f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_commit()}; {times} in {took}"


def keep(
    part: str,
    case: Case,
    samples: dict[str, list[Sample]],
    line: str,  # of its `Moment`
    parts: Mapping[str, str],  # what each part is about, in the order of the report
) -> None:
    """Put a case that was measured into measured.json, in the place of its last time, and write RESULTS.md again."""
    known = read()
    known[case.name] = {
        "part": part, "title": case.title, "measured": line, "place": _place(), "note": case.note,
        "table": table(case, samples), "values": values(case, samples),
    }  # fmt: skip
    MEASURED.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    RESULTS.write_text(render(known, parts))


def read() -> dict[str, dict]:
    """Return what has been measured, by the name of the case."""
    return json.loads(MEASURED.read_text()) if MEASURED.exists() else {}


def render(
    known: Mapping[str, dict],  # as `read`
    parts: Mapping[str, str],
) -> str:
    """Return RESULTS.md."""
    places = list(dict.fromkeys(one["place"] for one in known.values()))
    text = ["# Side by side with the peers", HOW, "Each table says when it was measured, and on which of these:"]
    text.append("\n".join(f"{number}. {place}" for number, place in enumerate(places, start=1)))
    text += ["## The aims", aims.table({name: one["values"] for name, one in known.items()})]
    for part, about in parts.items():
        found = [one for one in known.values() if one["part"] == part]
        text += [f"## {about}"] if found else []
        for one in found:
            text += [f"### {one['title']}", f"{one['measured']}; place {places.index(one['place']) + 1}.", one["note"], one["table"]]
    return "\n\n".join(filter(None, text)) + "\n"


def _place() -> str:
    """Return machine and versions."""
    machine = hardware()
    cpu = f"{machine['cores']} × {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, {platform.system()} {platform.release()}"
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return f"{cpu}; Python {platform.python_version()}, {packages}; each in an environment of its own: {peer_versions()}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../mlops_nb", ".", f":!{RESULTS.name}", f":!{MEASURED.name}")
        return f"commit {git('rev-parse', '--short=12', 'HEAD')}" + (", with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"
