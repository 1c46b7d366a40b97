"""What a forked kernel computes, and what a notebook can see of it, against a cold one."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Empty

import pytest
from making import gone, short_folder

from mlops_nb.kernel import Kernel
from mlops_nb.provision import pss, servers, stop_server

pytestmark = [pytest.mark.skipif(sys.platform != "linux", reason="kernels are forked on Linux alone"), pytest.mark.timeout(300)]
HEAVY = ("numpy", "pandas", "sklearn.ensemble", "sklearn.cluster", "matplotlib.pyplot", "torch", "torch.utils.data", "pyarrow.parquet", "polars", "multiprocessing")

CASES = {
    "matmul": "import torch; a = torch.ones(600, 600); print((a @ a).sum().item(), torch.get_num_threads())",
    "element-wise": "import torch; print(torch.exp(torch.zeros(3_000_000)).sum().item())",
    "autograd": "import torch; w = torch.ones(500, 500, requires_grad=True); (w @ w).tanh().sum().backward(); print(w.grad.sum().item())",
    "training": """
import torch
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 1))
steps = torch.optim.Adam(net.parameters())
x = torch.randn(4096, 64)
for _ in range(5):
    steps.zero_grad(); loss = (net(x) - x[:, :1]).square().mean(); loss.backward(); steps.step()
print(round(loss.item(), 4))""",
    "openblas": "import numpy as np; a = np.ones((700, 700)); print((a @ a).sum(), np.linalg.svd(a)[1][0].round(6))",
    "boosting": """
import numpy as np; from sklearn.ensemble import HistGradientBoostingClassifier
x = np.random.default_rng(0).normal(size=(20000, 10)); y = x[:, 0] > 0
print(HistGradientBoostingClassifier(max_iter=10, random_state=0).fit(x, y).score(x, y).__round__(3))""",
    "kmeans": """
import numpy as np; from sklearn.cluster import KMeans
x = np.random.default_rng(0).normal(size=(20000, 5)); print(round(KMeans(5, n_init=1, random_state=0).fit(x).inertia_, 2))""",
    "n_jobs": """
import numpy as np; from sklearn.ensemble import RandomForestClassifier; from sklearn.model_selection import cross_val_score
x = np.random.default_rng(0).normal(size=(500, 5)); y = x[:, 0] > 0
print(cross_val_score(RandomForestClassifier(10, random_state=0), x, y, n_jobs=2, cv=3).round(3))""",
    "pyarrow": """
import pandas as pd, pyarrow.parquet as pq, tempfile, os
name = os.path.join(tempfile.mkdtemp(), "a.parquet")
pd.DataFrame({"a": range(300_000), "b": [str(n) for n in range(300_000)]}).to_parquet(name)
print(pq.read_table(name).num_rows, pd.read_parquet(name).a.sum())""",
    "polars": """
import polars as pl, tempfile, os
name = os.path.join(tempfile.mkdtemp(), "a.parquet")
pl.DataFrame({"a": range(300_000), "b": [str(n % 7) for n in range(300_000)]}).write_parquet(name)
print(pl.read_parquet(name).height, pl.scan_parquet(name).group_by("b").agg(pl.col("a").sum()).sort("b").collect().rows())""",
    "loader": """
import torch
from torch.utils.data import DataLoader, TensorDataset
print(sum(batch[0].sum().item() for batch in DataLoader(TensorDataset(torch.ones(1000, 3)), batch_size=100, num_workers=2)))""",
    "processes": """
import multiprocessing, math
print(multiprocessing.parent_process(), multiprocessing.current_process().name, multiprocessing.get_start_method())
for method in ("fork", "spawn"):
    with multiprocessing.get_context(method).Pool(2) as pool:
        print(method, pool.map(math.factorial, range(5)))""",
    "asyncio": "import asyncio\nawait asyncio.sleep(0.01)\nprint(await asyncio.gather(*[asyncio.sleep(0.01, n) for n in range(3)]))",
    "figure": """
import matplotlib, matplotlib.pyplot as plt
print(matplotlib.get_backend())
plt.plot([1, 2, 3]); plt.show()""",
    "left figure": "import matplotlib.pyplot as plt; plt.plot([1, 2])",
    "subprocess": "import subprocess, sys; print(subprocess.run([sys.executable, '-c', 'print(input())'], input='said', text=True, capture_output=True))",
    "shell": "!echo $((1 + 1))",
    "C": "import ctypes; c = ctypes.CDLL(None); c.printf(b'from C\\n'); c.fflush(None)",
    "thread": "import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join(); print('still here')",
    "error": "1 / 0",
    "threads": "import concurrent.futures as f; print(list(f.ThreadPoolExecutor(4).map(abs, range(-3, 0))))",
    "input": "input('?')",
}


@pytest.fixture(scope="module", autouse=True)
def private() -> Iterator[None]:
    """Servers of these tests alone, which end with them."""
    with short_folder() as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(place))
        yield
        for server in servers():
            stop_server(server["name"], all_kernels=True)


async def opened(imports: tuple[str, ...] | None, folder: Path, variables: dict[str, str] | None = None) -> Kernel:
    kernel = Kernel("python3", folder, {**os.environ, "PYTHONHASHSEED": "0", **(variables or {})}, imports=imports)
    await kernel.start()
    await kernel.connect(timeout_s=120)
    assert kernel.is_forked == (imports is not None), "the reason is in the log"
    return kernel


async def outputs(kernel: Kernel, code: str, timeout_s: float = 60) -> list:
    """Return what a cell says: texts of streams joined, kinds of data, names of errors."""
    asked, said = kernel.client.execute(code, store_history=True), []
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                message = await kernel.client.iopub_channel.get_msg(timeout=0.5)
            except Empty:
                if kernel.exit:
                    return [*said, kernel.exit[1]]
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != asked:
                continue
            if kind == "stream" and said and said[-1][0] == content["name"]:
                said[-1] = (content["name"], said[-1][1] + content["text"])
            elif kind == "stream":
                said.append((content["name"], content["text"]))
            elif kind in ("display_data", "execute_result"):
                said.append((kind, sorted(content["data"]), content["data"].get("text/plain", "").partition(" at 0x")[0]))
            elif kind == "error":
                said.append((kind, content["ename"], content["evalue"]))
            elif kind == "status" and content["execution_state"] == "idle":
                return said


def plain(said: list) -> list:
    """Return outputs without what differs between any two processes."""
    return [(one[0], *("Exception in thread" if "Exception in thread" in str(part) else part for part in one[1:])) if isinstance(one, tuple) else one for one in said]


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What each case says in a cold kernel."""

    async def all_of_them() -> dict[str, list]:
        kernel = await opened(None, tmp_path_factory.mktemp("cold"))
        try:
            return {name: plain(await outputs(kernel, code, 120)) for name, code in CASES.items()}
        finally:
            await kernel.close()

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("name", CASES)
def test_a_forked_kernel_says_what_a_cold_one_says(name: str, cold: dict[str, list], tmp_path: Path) -> None:
    """Libraries that compute with threads and processes work in a forked kernel, none hangs, and the outputs are the same."""

    async def one() -> list:
        kernel = await opened(HEAVY, tmp_path)
        try:
            return plain(await outputs(kernel, CASES[name]))
        finally:
            await kernel.close()

    assert asyncio.run(one()) == cold[name]


@pytest.mark.parametrize(
    ("code", "ended"),
    [
        ("import ctypes; ctypes.string_at(0)", "the kernel was killed by SIGSEGV: a crash in compiled code"),
        ("import os; os._exit(7)", "the kernel exited with code 7"),
        ("import os; os.abort()", "the kernel was killed by SIGABRT: compiled code gave up"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the kernel was killed by SIGKILL: by somebody, or by the system when memory ran out"),
    ],
)
def test_the_end_of_a_forked_kernel_is_known_at_once(code: str, ended: str, tmp_path: Path) -> None:
    """A kernel that dies is known to be dead, with its code or signal, within a fraction of a second."""

    async def one() -> tuple[str, str] | None:
        kernel = await opened(HEAVY, tmp_path)
        kernel.client.execute(code)
        try:
            return await asyncio.wait_for(kernel.died(), 10)
        finally:
            await kernel.close()

    assert asyncio.run(one())[1] == ended


def test_a_busy_cell_is_interrupted(tmp_path: Path) -> None:
    """The stop button raises KeyboardInterrupt in the cell, and the next cell runs."""

    async def one() -> tuple[list, list]:
        kernel = await opened(HEAVY, tmp_path)
        try:
            busy = asyncio.create_task(outputs(kernel, "print('begun', flush=True)\nopen('busy', 'w').close()\nwhile True: pass"))
            while not (tmp_path / "busy").exists() and not busy.done():
                await asyncio.sleep(0.02)
            await kernel.interrupt()
            return await busy, await outputs(kernel, "print('on')")
        finally:
            await kernel.close()

    busy, after = asyncio.run(one())
    assert [said[1] for said in busy] == ["begun\n", "KeyboardInterrupt"] and after == [("stdout", "on\n")]


SEEN = '''
import array, asyncio, atexit, ctypes, gc, json, locale, logging, multiprocessing, os, random, re, resource, signal, socket, sys, tempfile, threading, time, uuid, warnings
import numpy, torch, matplotlib, pandas, sklearn.ensemble
libc = ctypes.CDLL(None)
libc.getenv.restype = ctypes.c_char_p


def of_a_client(number):
    """Is this file the connection of a channel? The kernel takes them one after another, some while this cell runs already."""
    try:
        with socket.socket(fileno=os.dup(number)) as connection:
            return "kernel-ipc" in str(connection.getsockname()) and not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return False


seen = {
    "folder": os.getcwd(), "environment": dict(os.environ), "C environment": {name: str(libc.getenv(name.encode())) for name in os.environ},
    "order": [name for name in os.environ if not name.startswith("KMP_")], "argv": sys.argv[:1] + sys.argv[3:], "orig_argv": sys.orig_argv[:-2], "path": sys.path, "executable": sys.executable, "prefix": sys.prefix,
    "flags": str(sys.flags), "xoptions": sys._xoptions, "warnoptions": sys.warnoptions, "hash": hash("a"), "recursion": sys.getrecursionlimit(),
    "main": sorted(name for name in vars(sys.modules["__main__"]) if name.startswith("__")), "name": __name__,
    "package": str(__spec__) if "__spec__" in globals() else None,
    "stdin": [sys.__stdin__.encoding, sys.__stdin__.fileno(), sys.stdin is sys.__stdin__],
    "streams": [[s.encoding, s.errors, s.fileno(), s.line_buffering, s.name] for s in (sys.__stdout__, sys.__stderr__)], "kinds": [type(sys.stdout).__name__, type(sys.stderr).__name__],
    "signals": {s.name: str(signal.getsignal(s)).partition(" at 0x")[0] for s in signal.Signals}, "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "umask": [os.umask(0o22), os.umask(0o22)][0], "session": [os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid()], "nice": os.nice(0), "cores": len(os.sched_getaffinity(0)),
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT")},
    "locale": [locale.setlocale(locale.LC_ALL), locale.getpreferredencoding(), sys.getfilesystemencoding()],
    "gc": [gc.isenabled(), gc.get_threshold()], "switch": sys.getswitchinterval(), "trace": [sys.gettrace(), sys.getprofile()],
    "thread": [threading.current_thread() is threading.main_thread(), threading.main_thread().name, threading.main_thread().native_id == os.getpid(), threading.main_thread().ident == threading.get_ident()],
    "threads": sorted(t.name.rpartition("-")[0] or t.name for t in threading.enumerate()), "excepthooks": [sys.excepthook is sys.__excepthook__, threading.excepthook.__name__],
    "multiprocessing": [str(multiprocessing.parent_process()), multiprocessing.current_process().name, multiprocessing.process.ORIGINAL_DIR, next(multiprocessing.process._process_counter)],
    "tracker": str(multiprocessing.resource_tracker._resource_tracker._fd) if hasattr(multiprocessing, "resource_tracker") else None,
    "torch": [torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(), str(torch.get_default_dtype())],
    "matplotlib": [matplotlib.get_backend(), matplotlib.is_interactive(), str(matplotlib.rcParams)], "pandas": pandas.get_option("display.max_rows"), "numpy": str(numpy.geterr()),
    "temp": tempfile.gettempdir(), "policy": type(asyncio.get_event_loop_policy()).__name__, "filters": sorted(str(f) for f in warnings.filters),
    "hooks": [len(sys.meta_path), len(sys.path_hooks), len(sys.audit.__class__.__mro__)], "logging": [logging.root.level, len(logging.root.handlers)],
    "files": sorted(re.sub("mlops-nb-\\w+", "", os.readlink(f"/proc/self/fd/{n}").partition(":")[0]) for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}") and not of_a_client(int(n))),
    "status": [line for line in open("/proc/self/status") if line.startswith(("Uid", "Gid", "Groups", "Seccomp:", "NoNewPrivs", "SigBlk", "SigIgn", "SigCgt", "Cap", "CoreDumping"))],
    "oom": open("/proc/self/oom_score_adj").read(), "cgroup": open("/proc/self/cgroup").read(), "comm": "python" in open("/proc/self/comm").read(),
}
fresh = {"random": random.random(), "numpy": numpy.random.rand(), "generator": numpy.random.default_rng().random(), "torch": torch.rand(1).item(), "uuid4": str(uuid.uuid4()), "uuid1": str(uuid.uuid1()), "temp": tempfile.mktemp(),
         "key": multiprocessing.current_process().authkey.hex(), "pid": os.getpid()}
fresh["modules"] = sorted(sys.modules)
fresh["frozen"] = gc.get_freeze_count() > 0
fresh["parent"] = os.getppid()
print(json.dumps([seen, fresh], default=str))
'''


async def look(imports: tuple[str, ...] | None, folder: Path) -> list[dict]:
    kernel = await opened(imports, folder, {"HELLO": "w\u00f6rld", "PYTHONPATH": f"{folder}{os.pathsep}not/there"})
    try:
        return json.loads(next(said[1] for said in await outputs(kernel, SEEN, 120) if said[0] == "stdout"))
    finally:
        await kernel.close()


def test_a_notebook_sees_no_difference(tmp_path: Path) -> None:
    """All that a notebook sees of its process is as in a cold kernel, but for what is named here; what is random is fresh in each."""
    (tmp_path / "helper.py").write_text("x = 1\n")
    at_cold, cold_fresh = asyncio.run(look(None, tmp_path))
    forked, fresh = asyncio.run(look(HEAVY, tmp_path))
    again, fresh_again = asyncio.run(look(HEAVY, tmp_path))
    for name, value in at_cold.items():
        assert forked[name] == value, name
    assert forked == again
    for name in ("random", "numpy", "torch", "generator", "uuid4", "uuid1", "temp", "key", "pid"):
        assert len({cold_fresh[name], fresh[name], fresh_again[name]}) == 3, name
    assert fresh["parent"] == fresh_again["parent"] != os.getpid()  # known: it is the server's child
    assert fresh["frozen"] and not cold_fresh["frozen"]  # known: what was imported is not looked at by the collector
    assert set(cold_fresh["modules"]) <= set(fresh["modules"])  # known: modules are there before they are asked for
    assert not [name for name in fresh["modules"] if name.startswith(("mlops_nb", "_mlops_nb")) and name not in cold_fresh["modules"]]


def test_exit_handlers_run_and_files_are_whole(tmp_path: Path, monkeypatch) -> None:
    """At the end of a forked kernel, exit handlers run, threads are waited for, and files left open are whole."""

    async def one() -> None:
        kernel = await opened(HEAVY, tmp_path)
        code = """
import atexit, threading, time, tempfile
atexit.register(lambda: open("handled", "w").write("yes"))
left = open("left", "w"); left.write("whole")
class Loop:
    def __init__(self): self.me = self; self.file = open("cycle", "w"); self.file.write("whole")
    def __del__(self): open("deleted", "w").write("yes")
loop = Loop()
def late(): time.sleep(0.5); open("late", "w").write("yes")
threading.Thread(target=late).start()
"""
        assert await outputs(kernel, code) == []
        monkeypatch.setattr("mlops_nb.kernel.GRACE_S", 60.0)
        await kernel.close()

    asyncio.run(one())
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "handled": "yes", "left": "whole", "cycle": "whole", "deleted": "yes", "late": "yes",
    }  # fmt: skip


def test_ten_forked_kernels_take_less_memory_than_four_cold_ones(tmp_path: Path) -> None:
    """Forked kernels share what was imported: ten of them and their server take less memory (PSS) than four cold ones."""
    work = "import numpy, pandas, sklearn.ensemble, matplotlib.pyplot, torch; print(torch.ones(300, 300).sum().item())"

    async def memory(count: int, imports: tuple[str, ...] | None) -> int:
        async with contextlib.AsyncExitStack() as stack:
            kernels = []
            for _ in range(count):
                kernels.append(await opened(imports, tmp_path))
                stack.push_async_callback(kernels[-1].close)
                await outputs(kernels[-1], work)
            server = sum(server["memory_bytes"] for server in servers() if imports and kernels[0].pid in server["children"])
            return sum(pss(kernel.pid) for kernel in kernels) + server

    one_cold = asyncio.run(memory(2, None)) * 2  # two are measured for four: cold ones share little
    assert asyncio.run(memory(10, HEAVY)) < one_cold


def test_signals_reach_what_a_kernel_started(tmp_path: Path) -> None:
    """A kernel that is killed takes along the processes that its cells started."""

    async def one() -> int:
        kernel = await opened(HEAVY, tmp_path)
        said = await outputs(kernel, "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)")
        await kernel.kill()
        await asyncio.wait_for(kernel.died(), 30)
        await kernel.close()
        return int(said[0][1])

    pid = asyncio.run(one())
    assert gone(pid), "the kernel's child is still there"
