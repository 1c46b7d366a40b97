"""What a run needs, what the machine has, and what each run gets: as notebooks see it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from making import command, write_notebook, write_project

import mlops_nb
from mlops_nb.errors import BadSettings
from mlops_nb.graph import read_graph
from mlops_nb.pipeline import _width
from mlops_nb.resources import THREADS, Machine, Needs, check_needs, count_cores, gpus, parse_needs, share_of, this_machine, variables_of

SEES = "import os\nglue('threads', {name: os.environ.get(name) for name in os.environ if name.endswith('_THREADS')})"


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", Needs()),
        ("threads=4", Needs(threads=4)),
        ("memory=8GB, gpu=1", Needs(memory_bytes=8 * 10**9, gpu=1)),
        ("memory=0.5gib", Needs(memory_bytes=2**29)),
        ("memory=500MB", Needs(memory_bytes=5 * 10**8)),
        ("memory=1MiB threads=1 gpu=2", Needs(1, 2**20, 2)),
    ],
)
def test_needs_are_read(text, needs):
    """Numbers, units of 10 and of 2, in any order."""
    assert parse_needs(text) == needs


@pytest.mark.parametrize(
    "text", ["threads", "threads=", "threads=0", "threads=-1", "threads=two", "memory=8", "memory=GB", "memory=0GB", "memory=8 GB", "memory=1e9B", "gpu=-1", "cpu=4", "gpu=1 gpu=1"]
)
def test_what_cannot_be_read_is_refused(text):
    """Nothing is guessed."""
    with pytest.raises(BadSettings, match="resources"):
        parse_needs(text)


def test_a_name_that_no_notebook_has_is_refused(tmp_path):
    """Before anything runs, on the command line, with what was meant."""
    root = write_project(tmp_path, {"30_train": ("seed: int = 0", "pass")})
    (root / "settings.ini").write_text("[resources]\n30_trian = memory=1GB\n")
    said = command("run", cwd=root)
    assert said.returncode == 2 and "[resources] names '30_trian'" in said.stderr and "Did you mean '30_train'?" in said.stderr and not mlops_nb.runs(root)


def test_more_than_there_is_is_refused():
    """With both numbers."""
    small = Machine(cores=2, memory_bytes=10**9, gpus=("0",))
    check_needs(Needs(2, 10**9, 1), "t.ipynb", small)
    for needs, said in [(Needs(threads=3), "threads=3, and this machine has 2 cores"), (Needs(memory_bytes=2 * 10**9), "memory=2 GB, and this machine has 1 GB"), (Needs(gpu=2), "has 1 that can be seen")]:
        with pytest.raises(BadSettings, match=said):
            check_needs(needs, "t.ipynb", small)


def test_the_machine_is_what_this_process_may_use():
    """A process that is bound to one core has one core."""
    assert this_machine().cores == count_cores() <= len(os.sched_getaffinity(0)) and this_machine().memory_bytes > 10**8
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from mlops_nb.resources import count_cores; print(count_cores())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "1\n"


def test_gpus_are_those_that_may_be_seen(tmp_path):
    """As the variable names them; without it, as the driver lists them."""
    for card in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / card).mkdir()
        (tmp_path / card / "information").write_text("Model: a card\n")
    assert gpus({}, tmp_path) == ("0", "1") and gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path) == ("1",)
    assert gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()


def test_a_share_depends_on_what_was_asked_for_alone():
    """Cores divided by how many may be side by side; what was declared wins; all cores means nothing is set."""
    eight = Machine(cores=8, memory_bytes=10**10, gpus=("0", "1"))
    assert [share_of(Needs(), eight, jobs).threads for jobs in (1, 2, 3, 8, 20)] == [None, 4, 2, 1, 1]
    assert [share_of(Needs(threads=3), eight, jobs).threads for jobs in (1, 8)] == [3, 3]
    assert variables_of(share_of(Needs(), eight, 1), {}) == {} and set(variables_of(share_of(Needs(), eight, 2), {}).values()) == {"4"}
    assert set(variables_of(share_of(Needs(), eight, 2), {"OMP_NUM_THREADS": "7"})) == set(THREADS) - {"OMP_NUM_THREADS"}


def test_a_notebook_sees_the_threads_that_were_declared(tmp_path, monkeypatch):
    """Also one that runs alone; a variable of the user's wins, and the record says both."""
    for name in THREADS:
        monkeypatch.delenv(name, raising=False)
    path = write_notebook(tmp_path / "t.ipynb", SEES, parameters="seed: int = 0")
    (tmp_path / "settings.ini").write_text("")
    plain = mlops_nb.run(path)
    assert plain.results["threads"] == {} and plain.record["share"] == {}
    (tmp_path / "settings.ini").write_text("[resources]\ndefault = threads=1\n")
    monkeypatch.setenv("MKL_NUM_THREADS", "2")
    declared = mlops_nb.run(path, force=True)
    assert declared.results["threads"] == {name: "2" if name.startswith("MKL") else "1" for name in THREADS if name.endswith("_THREADS")}
    assert declared.record["share"] == {"threads": 1, "set_by_user": {"MKL_NUM_THREADS": "2"}} and declared.key == plain.key


def test_the_width_of_a_graph(tmp_path):
    """How many steps can be side by side at most; a chain has room for one."""
    def project(name: str, *needs: str) -> int:
        steps = {f"{number:02d}_{step[0]}": ("\n".join([f'{other} = Input("data/{other}")' for other in step[1:]] + [f'out = Output("data/{step[0]}")']), "pass") for number, step in enumerate(needs)}
        graph = read_graph(root=write_project(tmp_path / name, steps))
        return _width(graph, list(graph.steps))

    assert project("chain", "a", "ba", "cb") == 1 and project("diamond", "a", "ba", "ca", "dbc") == 2
    assert project("wide", "a", "b", "c", "dab", "ebc", "fac", "g") == 4 and project("ladder", "a", "ba", "c", "dc", "eb", "fd") == 2


def test_a_limit_is_for_the_kernel_and_what_it_starts(tmp_path):
    """Memory of a child process counts; memory that two of them share counts once."""
    (tmp_path / "settings.ini").write_text("[resources]\ndefault = memory=450MB\n")
    child = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; data = bytearray(b\"x\") * 500_000_000; time.sleep(40)'])"
    with pytest.raises(mlops_nb.errors.RunKilled, match=r"memory limit: \d+ MB used of 450 MB"):
        mlops_nb.run(write_notebook(tmp_path / "child.ipynb", child))
    shared = (
        "import os, time\ndata = bytearray(b'x' * 200_000_000)\npids = []\nfor _ in range(3):\n    pid = os.fork()\n    if pid == 0:\n        time.sleep(1.5)\n        os._exit(0)\n"
        "    pids.append(pid)\nfor pid in pids:\n    os.waitpid(pid, 0)"
    )
    assert mlops_nb.run(write_notebook(Path(tmp_path / "shared.ipynb"), shared)).status == "succeeded"
