"""Every comparison with the peers, side by side; writes RESULTS.md."""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import nothing
import overhead
import reading
import startup
from measure import Case, Wrong, interleave, table
from peers import peer_versions

from mlops_nb.environment import hardware

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("papermill", "nbclient", "jupyter_client", "ipykernel", "nbformat", "scrapbook", "numpy", "pandas", "scikit-learn", "matplotlib", "torch")
PARTS = {"overhead": overhead, "startup": startup, "reading": reading, "nothing": nothing}

HOW = """\
Each command is a process of its own, timed from its start to its end, in a project in a temporary folder. The commands of a table take turns, there and
back, {rounds} rounds after one that is not counted; a ratio is taken within a round. *The floor* is the command that does the work and nothing around it.
*Processor* is the time on a core of the process and its children. The exit code, and that the executed notebook has the outputs, are checked each time."""


def main() -> None:
    """Measure, print, and write RESULTS.md where all of it was measured; exit with 1 where a command did not do its work."""
    asked = _asked()
    rounds = asked.n or (2 if asked.quick else 5)
    began, load = time.monotonic(), os.getloadavg()[0]
    tables = []
    try:
        with tempfile.TemporaryDirectory(prefix="mlops-nb-benchmarks-") as folder:
            for case in _chosen(Path(folder), asked.only):
                tables.append(f"## {case.title}\n\n{table(case, interleave(case, rounds, _environment(Path(folder)), _say))}")
                print(f"\n{tables[-1]}\n", flush=True)
    except Wrong as wrong:
        sys.exit(f"benchmarks: {wrong}")
    if asked.only or asked.quick:
        print(f"{RESULTS.name} is as it was: it takes all cases, and not --quick.")
        return
    loads = f"{load:.1f} before, {os.getloadavg()[0]:.1f} after"
    RESULTS.write_text("\n\n".join(["# Side by side with the peers", HOW.format(rounds=rounds), _where(loads, time.monotonic() - began), *tables]) + "\n")
    print(f"written to {RESULTS.name}")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, to see that all of it works; writes nothing")
    parser.add_argument("--only", metavar="NAME", help=f"a part ({', '.join(PARTS)}) or one of its cases; writes nothing")
    parser.add_argument("-n", type=int, metavar="ROUNDS", help="how often each command is measured; default: 5")
    asked = parser.parse_args()
    if asked.n is not None and asked.n < 1:
        parser.error(f"-n {asked.n}: at least one round.")
    return asked


def _chosen(folder: Path, only: str | None) -> list[Case]:
    """Return the cases of all parts, of one part, or one case."""
    found = [(name, case) for name, part in PARTS.items() for case in part.cases(folder / name)]
    chosen = [case for part, case in found if only in (None, part, case.name)]
    if not chosen:
        raise Wrong(f"--only {only}: there are the parts {', '.join(PARTS)}, and the cases {', '.join(case.name for _, case in found)}.")
    return chosen


def _environment(folder: Path) -> dict[str, str]:
    """Return the variables of the processes: nothing of the user's is written to, and nothing of the user's is loaded into a kernel."""
    private = {name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}  # else every process compiles what it imports
    return {**variables, **private, "MPLBACKEND": "agg", "DVC_NO_ANALYTICS": "true"}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _where(loads: str, seconds: float) -> str:
    """Return machine, versions, date and commit as a list."""
    machine = hardware()
    lines = [
        f"- {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_commit()}; {seconds / 60:.0f} minutes, load average {loads}",
        f"- {machine['cores']} × {machine['cpu']}, {machine['memory_bytes'] / 2**30:.0f} GiB, {platform.system()} {platform.release()}",
        f"- Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        f"- each in an environment of its own: {peer_versions()}",
    ]
    return "\n".join(lines)


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../mlops_nb", ".", ":!RESULTS.md")
        return f"commit {git('rev-parse', '--short=12', 'HEAD')}" + (", with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "no commit"


if __name__ == "__main__":
    main()
