"""What this is to reach, what was measured, and whether it is reached."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass

Values = dict[str, list[float]]  # by command, one a round


@dataclass(frozen=True)
class Aim:
    """A number that is to be above or below another."""

    said: str
    case: str  # where it is measured
    number: Callable[[Values], float]  # raises KeyError where a command was not measured
    least: float | None = None
    most: float | None = None

    def row(
        self,
        measured: dict[str, Values],  # by case
    ) -> str:
        """Return its row of the table."""
        wanted = f"at least {self.least:g}" if self.most is None else f"at most {self.most:g}"
        try:
            number = self.number(measured[self.case])
        except KeyError:
            return f"| {self.said} | {wanted} | not measured | |"
        reached = number >= self.least if self.most is None else number <= self.most
        shown = f"{number:.2f}" if math.isfinite(number) else "ours is no slower than the floor"
        return f"| {self.said} | {wanted} | {shown} | {'reached' if reached else '**not reached**'} |"


def times(
    large: str,  # names of commands
    small: str,
) -> Callable[[Values], float]:
    """Return the median of the ratios within a round."""
    return lambda values: statistics.median(one / other for one, other in zip(values[large], values[small], strict=True))


def times_above(
    floor: str,
    large: str,
    small: str,
) -> Callable[[Values], float]:
    """Return the ratio of what two take above the floor (medians of the differences within a round); infinite where the second takes nothing."""

    def number(values: Values) -> float:
        above = [statistics.median(one - least for one, least in zip(values[name], values[floor], strict=True)) for name in (large, small)]
        return above[0] / above[1] if above[1] > 0 else math.inf

    return number


def seconds(
    name: str,  # of a command
) -> Callable[[Values], float]:
    """Return the median of what a command takes."""
    return lambda values: statistics.median(values[name])


POOL, SWEEP, XARGS = "a fork pool of plain functions", "mlops-nb sweep --jobs 2", "xargs -P2 papermill"
AIMS = (
    Aim("Empty notebook: papermill's time, in ours", "empty", times("papermill", "mlops-nb run"), least=1),
    Aim("The same without a warm server", "empty", times("papermill", "mlops-nb run, cold"), least=1),
    Aim("With torch: what papermill takes above a script, in what ours does", "torch", times_above("plain script", "papermill", "mlops-nb run"), least=15),
    Aim("100 cells: papermill's time, in ours", "cells", times("papermill", "mlops-nb run"), least=3),
    Aim("100 cells: our time, in a bare kernel's for the cells alone", "cells", times("mlops-nb run", "a bare kernel, the cells alone"), most=2),
    Aim("100 cells: our time, in a bare kernel's with its start and end", "cells", times("mlops-nb run", "a bare kernel, its start and end too"), most=2),
    Aim("Sweep: time of `xargs -P2 papermill`, in ours with a warm server", "sweep-papermill", times(XARGS, f"{SWEEP}, warm"), least=15),
    Aim("The same, ours starting its server", "sweep-papermill", times(XARGS, f"{SWEEP}, no server"), least=15),
    Aim("Sweep: our time with a warm server, in the fork pool's", "sweep-floor", times(f"{SWEEP}, warm", POOL), most=1.5),
    Aim("The same, ours starting its server", "sweep-floor", times(f"{SWEEP}, no server", POOL), most=1.5),
    Aim("Report of 20 steps that all changed, results there, in seconds", "report-pipeline", seconds("mlops-nb report"), most=5),
    Aim("Report of a sweep of 1,000 runs, in seconds", "report-sweep", seconds("mlops-nb report --sweep"), most=5),
    Aim("Memory of ten forked kernels and their server, in that of four cold ones", "memory", times("10 forked kernels and their server", "4 cold kernels"), most=1),
)


def table(
    measured: dict[str, Values],  # by case
) -> str:
    """Return the aims in markdown."""
    return "\n".join(["| a ratio, or seconds | aim | measured | |", "|---|---|---:|---|", *(aim.row(measured) for aim in AIMS)])
