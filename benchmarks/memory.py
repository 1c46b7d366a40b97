"""What kernels take of memory: four that imported by themselves, and ten that were forked, with their server."""

import json
import sys
from pathlib import Path

from measure import Case, Command, Sample, Wrong, tool
from overhead import SCIENCE, clear, notebook
from ways import has_warm, make_projects, projects, stop_servers

COLD, FORKED = 4, 10
CELLS = [
    f"{SCIENCE}\nimport torch",
    "ones = torch.ones(256, 256)\nprint(float((ones @ ones).sum()))",
    """import os, time, uuid
from pathlib import Path
Path(f"waiting/{uuid.uuid4().hex}.txt").write_text(str(os.getpid()))
while not Path("waiting/end").exists():
    time.sleep(0.05)""",
]
NOTE = """\
Proportional set size (a page that several processes share is divided among them), while each kernel waits after the imports and a small matrix product.
Counted are the kernels and the server that they were forked from, not the processes that wait for them."""

# Runs so many notebooks at once, adds up the memory of their kernels, and lets them end.
COUNT = """
import json, subprocess, sys, time
from pathlib import Path
import psutil

count, server, command = int(sys.argv[1]), sys.argv[2] == "server", sys.argv[3:]
waiting = Path("waiting")
runs = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(count)]
try:
    until = time.monotonic() + 180
    while len(pids := [int(text) for path in waiting.glob("*.txt") if (text := path.read_text())]) < count:
        assert time.monotonic() < until and not any(run.poll() for run in runs), f"{len(pids)} of {count} kernels are there"
        time.sleep(0.1)
    processes = [psutil.Process(pid) for pid in pids]
    parents = {process.ppid() for process in processes}
    assert len(parents) == (1 if server else count), f"{count} kernels have {len(parents)} parents"
    if server:
        processes += [psutil.Process(pid) for pid in parents]
    size_mb = sum(process.memory_full_info().pss for process in processes) / 1e6
finally:
    (waiting / "end").touch()
    ends = [run.wait(60) for run in runs]
assert not any(ends), ends
print(json.dumps({"size_mb": size_mb}))
"""


def cases(folder: Path) -> list[Case]:
    """Return the one case; none where the system does not tell a process's share of memory."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    place = folder / "memory"
    cold = projects(place).get(", cold", place)

    def make() -> None:
        make_projects(place)
        for project in projects(place).values():
            (project / "measured.ipynb").write_text(json.dumps(notebook(CELLS)))

    def command(name: str, count: int, server: bool, project: Path) -> Command:
        arguments = (sys.executable, "-c", COUNT, str(count), "server" if server else "alone", tool("mlops-nb"), "run", "measured.ipynb")
        return Command(name, arguments, _check, lambda: _prepare(project), folder=project, value=_size_mb)

    commands = [command(f"{COLD} cold kernels", COLD, False, cold)]
    if has_warm():
        commands.append(command(f"{FORKED} forked kernels and their server", FORKED, True, place))
    title = "Memory of kernels that imported the scientific packages and torch"
    return [Case("memory", title, place, make, tuple(commands), ours=commands[-1].name, unit="MB", rounds=2, warm_up=False, note=NOTE)]


def _prepare(project: Path) -> None:
    stop_servers()
    clear(project / "waiting")


def _check(printed: str) -> None:
    if not 10 < json.loads(printed)["size_mb"] < 1e5:
        raise Wrong("that is no size of kernels")


def _size_mb(sample: Sample) -> float:
    return json.loads(sample.printed)["size_mb"]
