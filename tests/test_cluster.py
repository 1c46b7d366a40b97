"""A cluster: a real scheduler and real workers, as processes on loopback that are killed, stopped and given other code."""

import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from making import command, gone, until, write_notebook, write_project

from mlops_nb import cluster as module
from mlops_nb.cluster import Cluster, proxied, version_faults
from mlops_nb.errors import BadArgument, BadWorker, CellFailed, ClusterLost, RunInterrupted
from mlops_nb.jobs import Done, Jobs, Task, Watch
from mlops_nb.record import runs_in
from mlops_nb.resources import Needs

RUNS = int(os.environ.get("MLOPS_NB_TEST_RUNS", "200"))  # of the test that kills
START_S = 60

SQUARE = ('n: int = 0\nseconds: float = 0.0', 'import time\nprint("n is", n)\ntime.sleep(seconds)\nglue("square", n * n)')
WRITES = (
    'stars = Input("data/stars.csv")\nmodel = Output("models/mean")\nfactor: float = 1.0',
    'mean = sum(map(float, open(stars))) / 2 * factor\nopen(model, "w").write(str(mean))\nglue("mean", mean)',
)


def bare() -> dict[str, str]:
    """Return the environment for processes. Under pytest ipykernel does not hear C-level output; and the workers of a test are no continuous integration."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTEST_CURRENT_TEST", "CI")}


class Processes:
    """A scheduler and workers, started as a person starts them."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", self.file)
        until(lambda: self.file.exists() and self.file.read_text().endswith("}"))
        self.address = json.loads(self.file.read_text())["address"]
        self.workers: list[subprocess.Popen] = []

    def worker(self, *words: str, **variables: str) -> subprocess.Popen:
        """Start a worker without a nanny, so that its process is the one that is killed."""
        self.workers.append(self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", *words, **variables))
        return self.workers[-1]

    def _start(self, *words, **variables) -> subprocess.Popen:
        place = self.folder / "place"  # where workers keep what they do not share
        words = (sys.executable, "-m", "dask", *map(str, words), *(("--local-directory", str(place)) if words[0] == "worker" else ()))
        with open(self.folder / f"{time.monotonic_ns()}.log", "w") as log:
            return subprocess.Popen(words, env={**bare(), **variables}, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()


@pytest.fixture
def processes(tmp_path):
    """A scheduler without workers."""
    (tmp_path / "cluster").mkdir()
    made = Processes(tmp_path / "cluster")
    yield made
    made.close()


@contextmanager
def cluster(processes: Processes, workers: int, **watch):
    """A cluster once it has so many workers; what it says is in `said`."""
    said = []
    with Cluster(processes.address, Watch(on_warning=said.append, **watch)) as pool:
        pool.said = said
        until(lambda: len(pool._workers()) == workers)
        yield pool


def results(ended: list[Done]) -> dict[str, object]:
    """Return the results by task; each must have succeeded."""
    assert {one.task.name: str(one.error) for one in ended if one.error} == {}
    return {one.task.name: one.run.results for one in ended}


def trials(notebook: Path, count: int, **arguments) -> list[Task]:
    return [Task(f"trial {n}", notebook, {"n": n, **arguments}) for n in range(count)]


@pytest.fixture
def project(tmp_path):
    """A project with a template that squares."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "settings.ini").touch()
    return write_notebook(root / "square.ipynb", SQUARE[1], parameters=SQUARE[0]).parent


@pytest.mark.timeout(900)
def test_every_run_succeeds_once_although_one_worker_is_killed_and_one_is_stopped(project, processes):
    """None is left running, the results are those of `--jobs 2`, and the half run of the dead worker is lost."""
    first, second, _ = (processes.worker() for _ in range(3))
    begun = []
    with cluster(processes, 3, on_progress=lambda name, progress: begun.append(name)) as pool:
        for task in trials(project / "square.ipynb", RUNS, seconds=0.1):
            pool.add(task)
        ended = [pool.next() for _ in range(RUNS // 4)]
        running = {record["process"]["pid"] for record in [one.record for one in runs_in(project / "runs", status="running")]}

        def stands_still_in_a_run() -> bool:
            first.send_signal(signal.SIGSTOP)
            until(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED)
            if any(record["status"] == "running" and record["process"]["pid"] == first.pid for record in [one.record for one in runs_in(project / "runs", status="running")]):
                return True
            first.send_signal(signal.SIGCONT)
            return False

        until(stands_still_in_a_run)
        first.kill()
        second.send_signal(signal.SIGSTOP)
        ended += [pool.next() for _ in range(RUNS // 10)]
        second.send_signal(signal.SIGCONT)
        ended += [pool.next() for _ in range(RUNS - len(ended))]
    assert running <= {worker.pid for worker in processes.workers}
    records = runs_in(project / "runs")
    assert sorted(one.arguments["n"] for one in records if one.status == "succeeded") == list(range(RUNS))
    assert {one.status for one in records} == {"succeeded", "lost"} and sum(one.status == "lost" for one in records) <= 2
    assert begun

    other = project.parent / "other"
    shutil.copytree(project, other, ignore=shutil.ignore_patterns("runs"))
    with Jobs(2) as pool:
        for task in trials(other / "square.ipynb", RUNS):
            pool.add(task)
        assert results(ended) == results([pool.next() for _ in range(RUNS)])


def test_workers_are_not_profiled(processes):
    """Dask's profiler of tasks may stop a worker for ever with some versions of Python."""
    processes.worker()
    with cluster(processes, 1) as pool:
        assert list(pool._client.run(lambda dask_worker: "profile" in dask_worker.periodic_callbacks).values()) == [False]


def test_an_answer_outlives_its_worker(project, processes):
    """What a worker said before it was killed, or stopped, is known: nothing waits for the worker, and nothing runs again."""
    for end in (signal.SIGSTOP, signal.SIGKILL):
        worker = processes.worker()
        with cluster(processes, 1) as pool:
            pool._events = events = queue.Queue()
            pool.add(Task("square", project / "square.ipynb", {"n": end}, {"force": True}))
            until(lambda: any(kind == "ended" for kind, _ in list(events.queue)))  # noqa: B023
            worker.send_signal(end)
            began = time.monotonic()
            assert results([pool.next()]) == {"square": {"square": end**2}} and time.monotonic() - began < 20
        worker.send_signal(signal.SIGCONT)
        worker.kill()
        worker.wait()
    assert [one.status for one in runs_in(project / "runs")] == ["succeeded"] * 2


def test_a_worker_that_is_killed_leaves_no_kernel(project, processes):
    """The process that executed its cells ends with it; the run is lost."""
    notebook = write_notebook(project / "long.ipynb", 'import os, time\nopen(file, "w").write(str(os.getpid()))\ntime.sleep(100)', parameters='file: str = ""')
    worker, file = processes.worker(), project / "pid"
    with cluster(processes, 1) as pool:
        pool.add(Task("long", notebook, {"file": str(file)}))
        until(lambda: file.exists() and file.read_text())
        assert psutil.pid_exists(int(file.read_text()))
        worker.kill()
        worker.wait()
        until(lambda: not psutil.pid_exists(int(file.read_text())), 10)
        pool.stop("long", "interrupted", "no longer wanted")
        assert isinstance(pool.next().error, RunInterrupted)
    assert [one.status for one in runs_in(project / "runs")] == ["lost"]


def write_clones(folder: Path, count: int) -> list[Path]:
    """Write so many clones of one project, which share nothing but a store at a URL."""
    (folder / "shared").mkdir()
    clones = []
    for number in range(count):
        clones.append(write_project(folder / f"clone{number}", {"20_mean": WRITES}))
        (clones[-1] / "settings.ini").write_text(f"[store]\nremote = {folder / 'shared'}\n")
    return clones


def test_a_worker_that_shares_no_folder(tmp_path, processes):
    """Its inputs and its outputs go through the shared store; an input that only the caller has is sent there."""
    here, there = write_clones(tmp_path, 2)
    processes.worker(MLOPS_NB_ROOT=str(there))
    (here / "data").mkdir()
    (here / "data" / "stars.csv").write_text("0.75\n1.25\n")
    mean = here / "nbs/pipelines/stars/20_mean.ipynb"
    with cluster(processes, 1) as pool:
        pool.add(Task("mean", mean, {}))
        one = pool.next()
        assert results([one]) == {"mean": {"mean": 1.0}} and not one.was_there
        assert (here / "models" / "mean").read_text() == "1.0" and one.run.notebook.is_relative_to(here) and one.run.notebook.exists()
        assert [run.id for run in runs_in(there / "runs")] == [one.run.id]
        pool.add(Task("mean", mean, {}))
        assert pool.next().was_there, "nothing is asked of the cluster"
        (here / "data" / "stars.csv").write_text("none\n")
        pool.add(Task("mean", mean, {}))
        failed = pool.next()
    assert isinstance(failed.error, CellFailed) and "could not convert string to float" in str(failed.error)
    assert failed.run.status == "failed" and failed.run.notebook.exists() and failed.run.notebook.is_relative_to(here)


def test_waiting_for_a_worker_that_stands_still_can_be_interrupted(tmp_path, processes):
    """What a failed run left is fetched from its worker, if the two share no folder; that never keeps Ctrl-C from being heard, and goes on with the worker."""
    here, there = write_clones(tmp_path, 2)
    worker = processes.worker(MLOPS_NB_ROOT=str(there))
    for root in (here, there):
        (root / "data").mkdir()
        (root / "data" / "stars.csv").write_text("none\n")
    with cluster(processes, 1) as pool:
        pool._events = events = queue.Queue()
        pool.add(Task("mean", here / "nbs/pipelines/stars/20_mean.ipynb", {}))
        until(lambda: any(kind == "ended" for kind, _ in list(events.queue)))
        worker.send_signal(signal.SIGSTOP)

        def press_twice() -> None:
            until(lambda: all(attempt.processes for attempt in pool._attempts.values()))  # it is known to have begun
            for _ in range(2):
                time.sleep(1)
                os.kill(os.getpid(), signal.SIGINT)
                until(lambda: all(attempt.stopped for attempt in pool._attempts.values()))

        presses = threading.Thread(target=press_twice)
        with pytest.raises(KeyboardInterrupt):
            presses.start()
            pool.next()
        presses.join()
        worker.send_signal(signal.SIGCONT)
        failed = pool.next()
    assert isinstance(failed.error, CellFailed) and failed.run.notebook.exists()


def test_a_worker_with_other_code_is_refused(tmp_path, processes):
    """It says which part differs; a worker with the same code runs it, and where there is none, nothing runs."""
    here, there, same = write_clones(tmp_path, 3)
    for root in (here, there, same):
        (root / "data").mkdir()
        (root / "data" / "stars.csv").write_text("0.75\n1.25\n")
    write_project(there, {"20_mean": (WRITES[0], WRITES[1].replace("/ 2", "/ 3"))})
    processes.worker(MLOPS_NB_ROOT=str(there))
    task = Task("mean", here / "nbs/pipelines/stars/20_mean.ipynb", {})
    with cluster(processes, 1) as pool:
        pool.add(task)
        one = pool.next()
        assert isinstance(one.error, BadWorker) and one.run is None and "the code of its cells changed" in str(one.error)
        processes.worker(MLOPS_NB_ROOT=str(same))
        until(lambda: len(pool._workers()) == 2)
        pool.add(task)
        assert results([pool.next()]) == {"mean": {"mean": 1.0}}
    assert not runs_in(there / "runs")


def test_a_worker_without_the_project_is_refused(project, processes):
    processes.worker(MLOPS_NB_ROOT=str(project.parent / "nowhere"))
    with cluster(processes, 1) as pool:
        pool.add(Task("square", project / "square.ipynb", {}))
        assert "there is no project at" in str(pool.next().error)


def test_what_a_run_gets(project, processes):
    """Dask's nanny sets OMP_NUM_THREADS=1 for its own tasks; a run gets its share of the machine. Resources and priorities are Dask's."""
    processes.workers.append(processes._start("worker", processes.address, "--nthreads", "1", "--no-dashboard", "--resources", "gpu=1 memory=1e9"))
    write_notebook(project / "threads.ipynb", 'import os\nglue("threads", os.environ.get("OMP_NUM_THREADS"))\nglue("n", n)', parameters="n: int = 0")
    with cluster(processes, 1) as pool:
        pool.add(Task("threads", project / "threads.ipynb", {}))
        assert results([pool.next()]) == {"threads": {"threads": None, "n": 0}}
        pool.add(Task("two", project / "threads.ipynb", {"n": 1}, needs=Needs(threads=2)))
        assert results([pool.next()]) == {"two": {"threads": "2", "n": 1}}
        pool.add(Task("much", project / "threads.ipynb", {"n": 2}, needs=Needs(gpu=2)))
        assert any("much waits for a worker with gpu=2, and there is none" in text for text in pool.said)
        pool.stop("much", "interrupted", "no longer wanted")
        assert isinstance(pool.next().error, RunInterrupted)
        pool.add(Task("now", write_notebook(project / "first.ipynb", "import os, time\nwhile not os.path.exists('all'): time.sleep(0.05)", parameters="n: int = 0"), {}))
        for n in range(3):
            pool.add(Task(f"later {n}", project / "square.ipynb", {"n": n + 1}, priority=n))
        (project / "all").touch()
        assert [pool.next().task.name for _ in range(4)] == ["now", "later 2", "later 1", "later 0"]


def test_a_task_that_is_stopped(project, processes):
    """Its record says why, and progress and the last line came back before."""
    processes.worker()
    lines = []
    with cluster(processes, 1, on_progress=lambda name, progress: lines.append(progress.line)) as pool:
        pool.add(Task("long", project / "square.ipynb", {"n": 7, "seconds": 100.0}))
        pool.add(Task("next", project / "square.ipynb", {"n": 8}))

        def told() -> bool:
            if not pool._events.empty():
                pool._take(*pool._events.get())
            return "n is 7" in lines

        until(told)
        pool.stop("long", "interrupted", "pruned after 3 steps")
        one = pool.next()
        assert one.run.status == "interrupted" and one.run.error == "pruned after 3 steps"
        assert results([pool.next()]) == {"next": {"square": 64}}


def test_ctrl_c_while_a_task_is_added(project, processes, monkeypatch):
    """It is raised as what it is; the task counts as never added, and what runs ends with its record."""
    processes.worker()
    with pytest.raises(KeyboardInterrupt), cluster(processes, 1) as pool:
        pool.add(Task("long", project / "square.ipynb", {"n": 7, "seconds": 100.0}))
        until(lambda: pool._take_next() or (pool._attempts["long"].processes and runs_in(project / "runs", status="running")))

        def press() -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

        monkeypatch.setattr(pool, "_workers", press)
        try:
            pool.add(Task("next", project / "square.ipynb", {"n": 8}))
        finally:
            left = list(pool._attempts)
    assert left == ["long"]
    assert [(one.status, one.error) for one in runs_in(project / "runs")] == [("interrupted", "the command that asked for it ended")]


@pytest.mark.parametrize("asked", [False, True], ids=["noticed while waiting", "noticed by asking"])
def test_a_scheduler_that_is_killed(project, processes, asked):
    """One clear error, a store in which nothing runs, and the same command goes on from there."""
    worker = processes.worker()
    tasks = trials(project / "square.ipynb", 4, seconds=1.0)
    with pytest.raises(ClusterLost, match=r"the connection to the scheduler was lost, with \d tasks to go. .* goes on from there"), cluster(processes, 1) as pool:
        for task in tasks:
            pool.add(task)
        results([pool.next()])
        processes.scheduler.kill()
        for _ in range(3):
            _ = pool.jobs if asked else pool.next()
    worker.wait(timeout=60)  # it ends by itself
    left = runs_in(project / "runs")
    assert {one.status for one in left} <= {"succeeded", "killed", "lost"}
    done = sum(one.status == "succeeded" for one in left)
    with Jobs(1) as pool:
        for task in tasks:
            pool.add(task)
        ended = [pool.next() for _ in tasks]
    assert results(ended) == {f"trial {n}": {"square": n * n} for n in range(4)} and sum(one.was_there for one in ended) == done >= 1


def test_a_scheduler_that_does_not_answer(project, processes, monkeypatch):
    """It counts as lost after a stated time."""
    monkeypatch.setattr(module, "LOST_S", 3.0)
    processes.worker()
    with pytest.raises(ClusterLost, match="has not answered for 3 s"), cluster(processes, 1) as pool:
        pool.add(Task("long", project / "square.ipynb", {"seconds": 100.0}))
        processes.scheduler.send_signal(signal.SIGSTOP)
        pool.next()


def test_nobody_at_the_address(monkeypatch):
    monkeypatch.setattr(module, "CONNECT_S", 1.0)
    with pytest.raises(ClusterLost, match=r"no scheduler answers at tcp://127.0.0.1:9"):
        Cluster("tcp://127.0.0.1:9")
    with pytest.raises(BadArgument, match="local:4 for four workers here"):
        Cluster("localhost")


def test_versions_that_differ_are_said():
    sides = {"client": {"packages": {"python": "3.11.7", "dask": "2026.8.0"}}, "scheduler": {"packages": {"python": "3.11.7", "dask": "2026.8.0"}}}
    workers = {f"tcp://node{n}:1": {"packages": {"python": "3.11.7", "dask": "2025.9.0"}} for n in range(2)}
    (said,) = version_faults({**sides, "workers": workers})
    assert said.startswith("the cluster has more than one version of dask: 2026.8.0 on here and 1 more, 2025.9.0 on the worker tcp://node0:1 and 1 more.")


def test_the_dashboard_behind_jupyter(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    assert proxied("http://127.0.0.1:8787/status") == "/user/ada/proxy/8787/status"
    monkeypatch.delenv("JUPYTERHUB_SERVICE_PREFIX")
    assert proxied("http://127.0.0.1:8787/status") is None


STEPS = {
    "10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 2', 'open(stars, "w").write("0.75\\n" * rows)'),
    "20_mean": WRITES,
    "30_sleep": ('stars = Input("data/stars.csv")\nseconds: float = 0.0', "import time\nprint('asleep')\ntime.sleep(seconds)"),
}


def test_the_command_line_runs_a_pipeline_on_a_cluster_of_its_own(tmp_path):
    """It says where the dashboard is; a second time nothing runs."""
    root = write_project(tmp_path, STEPS)
    first = command("run", "--cluster", "local:2", cwd=root, CI="")
    assert first.returncode == 0, first.stderr
    assert re.search(r"cluster local:2: 2 workers; dashboard http://127.0.0.1:\d+/status", first.stderr)
    assert [one.status for one in runs_in(root / "runs")] == ["succeeded"] * 3 and (root / "models" / "mean").read_text() == "0.75"
    again = command("run", "nbs/pipelines/stars/20_mean.ipynb", "--cluster", "local:1", cwd=root)
    assert again.returncode == 0 and "fresh, nothing to do" in again.stderr
    assert "cannot be given together" in command("run", "--cluster", "local:2", "--jobs", "2", cwd=root).stderr


KILLED = """
import os, signal
import distributed, psutil
from mlops_nb import cluster
async def add_nanny(scheduler, comm, address):
    await comm.write({"status": "OK", "nanny-plugins": {}})
    print(psutil.Process(os.getpid()).children()[0].pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
distributed.Scheduler.add_nanny, cluster.START_S = add_nanny, 5.0
cluster.Cluster("local:1")
"""


@pytest.mark.timeout(120)
def test_workers_that_start_end_with_a_command_that_is_killed():
    """Those that have not found the scheduler yet do not look for it for ever."""
    with subprocess.Popen([sys.executable, "-c", KILLED], env=bare(), stdout=subprocess.PIPE, text=True) as asked:
        worker = psutil.Process(int(asked.stdout.readline()))
    try:
        assert asked.returncode == -signal.SIGKILL and gone(worker.pid, within_s=60)
    finally:
        for process in (*worker.children(recursive=True), worker) if worker.is_running() else ():
            process.kill()


def test_ctrl_c(tmp_path, processes):
    """What runs is interrupted and says so in its record, what waits is not run, and no process is left."""
    root = write_project(tmp_path / "project", STEPS)
    processes.worker()
    words = [sys.executable, "-m", "mlops_nb", "run", "--cluster", processes.file, "-p", "sleep.seconds=100"]
    asked = subprocess.Popen(list(map(str, words)), cwd=root, env=bare(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until(lambda: any(cell.get("outputs") for one in runs_in(root / "runs", status="running", step="sleep") if one.notebook.exists() for cell in json.loads(one.notebook.read_text())["cells"]))
    time.sleep(2)
    asked.send_signal(signal.SIGINT)
    _, said = asked.communicate(timeout=60)
    assert asked.returncode == 130 and "interrupted by Ctrl-C" in said, said
    assert {one.step: one.status for one in runs_in(root / "runs")} == {"ingest": "succeeded", "mean": "succeeded", "sleep": "interrupted"}
    assert not list((root / "runs" / "callers").iterdir())
