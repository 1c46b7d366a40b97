"""Whole processes in turn: their times, medians, and ratios pair by pair."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


class Wrong(Exception):
    """A command that did not do its work. What it took says nothing."""


@dataclass(frozen=True)
class Sample:
    """What one process took."""

    wall_s: float
    cpu_s: float  # of the process and of every child that it waited for
    printed: str  # on its standard output


@dataclass(frozen=True)
class Command:
    """One command of a comparison, run in a process of its own."""

    name: str  # as the tables show it
    arguments: tuple[str, ...]
    check: Callable[[str], None]  # takes the standard output; raises `Wrong`
    prepare: Callable[[], None] = lambda: None  # before each process, not measured
    folder: Path | None = None  # where it runs; None: the folder of its case
    value: Callable[[Sample], float] = lambda sample: sample.wall_s  # what is compared


@dataclass(frozen=True)
class Case:
    """Commands that do the same work, one of them ours."""

    name: str  # for --only
    title: str
    folder: Path  # where the commands run
    make: Callable[[], None]  # makes the folder and what the commands need
    commands: tuple[Command, ...]
    ours: str  # name of the command that the others are compared with
    floor: str | None = None  # name of the command that does the work and nothing around it
    unit: str = "s"  # of the values: s, ms (the values are seconds) or MB
    rounds: int = 5  # that are counted
    warm_up: bool = True  # whether a round before them is not counted; a case of minutes can do without
    note: str = ""  # what a reader of the table has to know


def tool(
    name: str,  # such as "papermill"
) -> str:
    """Return the path of a command beside the Python that runs this. Raises `Wrong` where it is not installed."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        raise Wrong(f"{name} is not installed beside {sys.executable}; `make bench` installs it.")
    return str(path)


def run_once(command: Command, folder: Path) -> Sample:
    """Run one process to its end. Raises `Wrong`, with what it said, where it failed or its work is not there."""
    command.prepare()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(command.arguments, cwd=command.folder or folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        printed, complaint = (_read(file) for file in (out, err))
    try:
        if process.returncode:
            raise Wrong(f"it exited with code {process.returncode}")
        command.check(printed)
    except Wrong as wrong:
        raise Wrong(f"{command.name}: {wrong}\n{printed[-2000:]}{complaint[-4000:]}") from None
    return Sample(wall_s, usage.ru_utime + usage.ru_stime, printed)


def saying(
    text: str,
) -> Callable[[str], None]:
    """Return a check that the text is in what a command printed."""

    def check(printed: str) -> None:
        if text not in printed:
            raise Wrong(f"{text!r} is not in what it printed")

    return check


def make_once(
    folder: Path,
    *command: str,
) -> str:
    """Run a command that is part of making a case, and is not measured; return what it printed. Raises `Wrong` where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"{Path(command[0]).name}: it failed before anything was measured: {done.stdout[-1000:]}{done.stderr[-2000:]}")
    return done.stdout


def _read(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def interleave(
    case: Case,
    rounds: int,  # that are counted
    warm_up: bool,  # whether a round before them fills the caches and is not counted
    say: Callable[[str], None],  # told what goes on
) -> dict[str, list[Sample]]:
    """Run every command once a round, there and back (A B C, C B A, …), so that a busy minute meets all of them; return the samples by command."""
    case.make()
    samples: dict[str, list[Sample]] = {command.name: [] for command in case.commands}
    for number in range(0 if warm_up else 1, rounds + 1):
        for command in case.commands if number % 2 else reversed(case.commands):
            sample = run_once(command, case.folder)
            if number:
                samples[command.name].append(sample)
            say(f"{case.name} {f'{number}/{rounds}' if number else 'warm-up'}  {command.name}: {sample.wall_s:.2f} s")
    return samples


def values(
    case: Case,
    samples: dict[str, list[Sample]],
) -> dict[str, list[float]]:
    """Return what is compared, by command and round."""
    return {command.name: [command.value(sample) for sample in samples[command.name]] for command in case.commands}


def table(case: Case, samples: dict[str, list[Sample]]) -> str:
    """Return the comparison in markdown. A ratio is taken within each round; shown is the median of the ratios, with the least and the greatest."""
    took = values(case, samples)
    scale, digits = {"s": (1, 2), "ms": (1000, 1), "MB": (1, 0)}[case.unit]
    head = [f"{case.unit}, median (least – greatest)", "times ours, median (least – greatest)"]
    if case.floor:
        head[1:1] = [f"above the floor, {case.unit}", "processor, s"]
    lines = ["| | " + " | ".join(head) + " |", "|---" + "|---:" * len(head) + "|"]
    for name, seconds in took.items():
        cells = [_spread([second * scale for second in seconds], digits)]
        if case.floor:
            above = [second - least for second, least in zip(seconds, took[case.floor], strict=True)]
            cells.append("" if name == case.floor else f"{statistics.median(above) * scale:.{digits}f}")
            cells.append(f"{statistics.median(sample.cpu_s for sample in samples[name]):.2f}")
        ratios = [second / ours for second, ours in zip(seconds, took[case.ours], strict=True)]
        cells.append("1" if name == case.ours else _spread(ratios, 2))
        lines.append(f"| {f'**{name}**' if name == case.ours else name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(numbers: list[float], digits: int) -> str:
    middle = f"{statistics.median(numbers):.{digits}f}"
    return f"{middle} ({min(numbers):.{digits}f} – {max(numbers):.{digits}f})" if len(numbers) > 1 else middle
