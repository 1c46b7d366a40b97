"""Every comparison with the peers, side by side; writes RESULTS.md."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import diamond
import memory
import nothing
import overhead
import reading
import report
import reporting
import startup
import sweep
from measure import Case, Wrong, interleave, table
from ways import stop_servers

PARTS = {part.__name__: part for part in (overhead, sweep, diamond, memory, startup, reading, nothing, reporting)}


def main() -> None:
    """Measure and print; write RESULTS.md after each case, where that is asked for; exit with 1 where a command did not do its work."""
    asked = _asked()
    with tempfile.TemporaryDirectory(prefix="mlops-nb-benchmarks-") as folder:
        _be_private(Path(folder))
        try:
            for part, case in _chosen(Path(folder), asked.only):
                rounds, moment = 1 if asked.quick else asked.n or case.rounds, report.Moment()
                samples = interleave(case, rounds, case.warm_up and not asked.quick, _say)
                print(f"\n## {case.title}\n\n{table(case, samples)}\n", flush=True)
                if asked.write:
                    report.keep(part, case, samples, moment.line(rounds, case.warm_up), abouts())
        except Wrong as wrong:
            sys.exit(f"benchmarks: {wrong}")
        finally:
            stop_servers()
    print(f"written to {report.RESULTS.name}" if asked.write else f"{report.RESULTS.name} is as it was.")


def abouts() -> dict[str, str]:
    """Return what each part is about: the first sentence of its module, without the full stop."""
    return {name: (part.__doc__ or name).splitlines()[0].rstrip(".") for name, part in PARTS.items()}


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round and none before it, to see that all of it works; writes nothing")
    parser.add_argument("--only", metavar="NAMES", help=f"parts ({', '.join(PARTS)}) or cases, with commas between; writes nothing without --write")
    parser.add_argument("--write", action="store_true", help="with --only: renew these tables of RESULTS.md")
    parser.add_argument("-n", type=int, metavar="ROUNDS", help="how often each command is measured; default: as often as the case says")
    asked = parser.parse_args()
    if asked.n is not None and asked.n < 1:
        parser.error(f"-n {asked.n}: at least one round.")
    if asked.write and asked.quick:
        parser.error("--write --quick: one round says too little to be kept.")
    asked.write = asked.write or not (asked.only or asked.quick)
    return asked


def _chosen(folder: Path, only: str | None) -> list[tuple[str, Case]]:
    """Return the cases of all parts, or the chosen ones, each with its part."""
    found = [(name, case) for name, part in PARTS.items() for case in part.cases(folder / name)]
    wanted = set(only.split(",")) if only else {name for name, _ in found}
    unknown = wanted - {name for part, case in found for name in (part, case.name)}
    if unknown:
        raise Wrong(f"--only {','.join(unknown)}: there are the parts {', '.join(PARTS)}, and the cases {', '.join(case.name for _, case in found)}.")
    return [(part, case) for part, case in found if wanted & {part, case.name}]


def _be_private(folder: Path) -> None:
    """Set the variables of the processes: nothing of the user's is written to, and nothing of the user's is loaded into a kernel."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles what it imports
    os.environ.update({name: str(folder / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR")})
    os.environ.update({"MPLBACKEND": "agg", "DVC_NO_ANALYTICS": "true"})


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
