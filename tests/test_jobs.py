"""Runs side by side: that they are, and what an end of any kind leaves."""

import os
import pickle
import re
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import psutil
import pytest
from making import command, gone, until, write_notebook, write_project

import mlops_nb
from mlops_nb import jobs as module
from mlops_nb.errors import BadSettings, CellFailed, RunKilled
from mlops_nb.jobs import SIGNALS, Jobs, Task, Watch, Worker, _State, _worked, find_here
from mlops_nb.pipeline import run_pipeline
from mlops_nb.resources import Needs, Share, count_cores

NAP = "import time\nfor epoch in range(4):\n    print('epoch', epoch, flush=True)\n    time.sleep(0.5)\nopen(model, 'w').write(open(stars).read())"
DIAMOND = {
    "10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 3', 'open(stars, "w").write("0.85\\n" * rows)'),
    "20_train": ('stars = Input("data/stars.csv")\nmodel = Output("models/network")', NAP + "\nimport os\nglue('threads', os.environ.get('OMP_NUM_THREADS'))"),
    "30_forest": ('stars = Input("data/stars.csv")\nmodel = Output("models/forest")', NAP),
    "40_compare": ('one = Input("models/network")\nother = Input("models/forest")', 'glue("sizes", [len(open(p).read()) for p in (one, other)])'),
}
ENDLESS = "import time, os, subprocess\nchild = subprocess.Popen(['sleep', '300'])\nprint('here', os.getpid(), child.pid, flush=True)\ntime.sleep(300)"


@pytest.fixture
def project(tmp_path):
    """A project whose pipeline is a diamond; its two branches sleep 2 s each."""
    return write_project(tmp_path, DIAMOND)


def started(root, **variables) -> subprocess.Popen:
    """Start `mlops-nb run` with two jobs, in a session of its own, as a shell starts it."""
    words = [sys.executable, "-m", "mlops_nb", "run", "--jobs", "2"]
    return subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env={**os.environ, **variables})


def both_run(root: Path, steps=("train", "forest"), timeout_s: float = 60) -> list[list[int]]:
    """Wait until the cells of both steps run; return the pids of the kernel and of its child, by step."""
    ends = time.monotonic() + timeout_s
    while time.monotonic() < ends:
        found = {}
        for one in mlops_nb.runs(root):
            if one.step in steps and one.notebook.exists():
                said = re.search(r"here (\d+) (\d+)", one.notebook.read_text())
                if said:
                    found[one.step] = [int(said[1]), int(said[2])]
        if len(found) == len(steps):
            return [found[step] for step in steps]
        time.sleep(0.1)
    raise AssertionError(f"they do not run: {mlops_nb.runs(root)}")


def overlap_s(one, other) -> float:
    """Return for how many seconds two runs were both there, by their records."""
    from datetime import datetime

    times = [[datetime.fromisoformat(run.record[name]).timestamp() for name in ("started", "ended")] for run in (one, other)]
    return min(end for _, end in times) - max(start for start, _ in times)


@pytest.mark.timeout(120)
def test_branches_run_side_by_side_and_come_in_the_order_of_the_graph(project):
    """Two steps that sleep 4 s each overlap for much of that; each computes with its share of the cores, and the record says so."""
    write_project(project, {name: (DIAMOND[name][0], DIAMOND[name][1].replace("0.5", "1.0")) for name in ("20_train", "30_forest")})
    said = command("run", "--jobs", "2", cwd=project)
    assert said.returncode == 0, said.stderr
    runs = {one.step: one for one in mlops_nb.runs(project)}
    assert overlap_s(runs["train"], runs["forest"]) > 1.5 and overlap_s(runs["ingest"], runs["train"]) < 0 and overlap_s(runs["forest"], runs["compare"]) < 0
    listed = [line.rpartition("/")[2] for line in said.stdout.splitlines()[1:]]
    assert listed == ["10_ingest.ipynb", "20_train.ipynb", "30_forest.ipynb", "40_compare.ipynb"]
    assert "[2/4] train: started" in said.stderr and "[3/4] forest: succeeded in" in said.stderr
    share = max(1, count_cores() // 2)
    assert runs["train"].results["threads"] == (str(share) if share < count_cores() else os.environ.get("OMP_NUM_THREADS"))
    assert runs["train"].record["share"].get("threads") == (share if share < count_cores() else None)
    again = command("run", "--jobs", "2", cwd=project)
    assert again.stderr.count("fresh, nothing to do") == 4 and len(mlops_nb.runs(project)) == 4


@pytest.mark.timeout(120)
def test_one_job_and_two_give_the_same(tmp_path):
    """Results, keys and outputs are the same; with one job the threads are left as they are."""
    quick = {name: (parameters, code.replace("0.5", "0")) for name, (parameters, code) in DIAMOND.items()}
    found = []
    for jobs in (1, 2):
        root = write_project(tmp_path / str(jobs) / "p", quick)
        ended = run_pipeline(root=root, jobs=jobs)
        assert ended.succeeded and [one.step for one in ended.runs] == ["ingest", "train", "forest", "compare"]
        found.append([(one.step, one.key, {name: file["digest"] for name, file in one.record["outputs"].items()}) for one in ended.runs])
        own = [one.record["process"]["pid"] == os.getpid() for one in ended.runs]
        assert own == [jobs == 1] * 4, "one job needs no other process"
    assert found[0] == found[1] and ended.runs[-1].results == {"sizes": [15, 15]}


@pytest.mark.timeout(120)
def test_a_failure_stops_what_needs_it_and_nothing_else(project):
    """The other branch goes on to its end, though it ends later."""
    write_project(project, {"20_train": (DIAMOND["20_train"][0], 'raise ValueError("no stars")')})
    ended = run_pipeline(root=project, jobs=2)
    assert [(one.step, one.status) for one in ended.runs] == [("ingest", "succeeded"), ("train", "failed"), ("forest", "succeeded")]
    assert ended.skipped == {"compare": "it needs train, which failed"} and isinstance(ended.errors["train"], CellFailed)
    assert "ValueError: no stars" in str(ended.errors["train"]) and ended.errors["train"].run.status == "failed"


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("number", "status", "code"), [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "killed", 1)])
def test_told_to_end_all_runs_end_with_a_record_each(project, number, status, code):
    """Ctrl-C and SIGTERM end every run; no kernel, no worker and no child of a cell is left."""
    write_project(project, {name: (DIAMOND[name][0], ENDLESS) for name in ("20_train", "30_forest")})
    process = started(project)
    pids = [pid for pair in both_run(project) for pid in pair]
    family = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, said
    assert {one.step: one.status for one in mlops_nb.runs(project)} == {"ingest": "succeeded", "train": status, "forest": status}
    assert "compare: not run, the pipeline was told to end" in said
    assert gone(*family, pids[0], pids[2])


@pytest.mark.timeout(120)
def test_a_second_ctrl_c_does_not_wait(project):
    """A cell that does not listen is killed, and its run is recorded as interrupted."""
    deaf = f"import os, signal, time\nsignal.signal(signal.SIGINT, lambda *_: open({str(project)!r} + f'/heard{{os.getpid()}}', 'w').close())\nprint('here', os.getpid(), os.getpid(), flush=True)\nwhile True: time.sleep(300)"
    write_project(project, {name: (DIAMOND[name][0], deaf) for name in ("20_train", "30_forest")})
    process = started(project)
    pids = [pid for pair in both_run(project) for pid in pair]
    process.send_signal(signal.SIGINT)
    until(lambda: len(list(project.glob("heard*"))) == 2)
    process.send_signal(signal.SIGINT)
    assert gone(*pids, within_s=4), "at once, and not after the five seconds that a cell has to listen"
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert {one.status for one in mlops_nb.runs(project) if one.step != "ingest"} == {"interrupted"}


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_loses_its_run_alone(project):
    """Its run is lost, which is said; its kernel is ended, the other runs go on, and a new worker takes its place."""
    write_project(project, {"20_train": (DIAMOND["20_train"][0], ENDLESS)})
    write_project(project, {"50_third": ('stars = Input("data/stars.csv")\nmodel = Output("models/third")', NAP)})
    process = started(project)
    (pids,) = both_run(project, steps=["train"])
    worker = next(one for one in mlops_nb.runs(project) if one.step == "train").record["process"]["pid"]
    assert worker != process.pid
    time.sleep(0.5)
    os.kill(worker, signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 1 and "the process that ran it was killed by SIGKILL" in said
    runs = {one.step: one.status for one in mlops_nb.runs(project)}
    assert runs == {"ingest": "succeeded", "train": "lost", "forest": "succeeded", "third": "succeeded"}
    assert "compare: not run, it needs train, which lost" in said
    assert gone(*pids)


@pytest.mark.timeout(60)
def test_a_run_that_begins_before_its_task_counts_as_sent_is_found_when_it_is_lost(tmp_path, monkeypatch):
    """However long the process that asks is kept from noting that it has sent the task."""
    path = write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(60)", parameters="number: int = 0")

    class Slow(Worker):
        def __init__(self, others):
            super().__init__(others)
            send = self.connection.send
            self.connection.send = lambda said: (send(said), until(lambda: mlops_nb.runs(path)))

    monkeypatch.setattr(module, "Worker", Slow)

    def kill(name, progress):
        os.kill(mlops_nb.runs(path)[0].record["process"]["pid"], signal.SIGKILL)

    with Jobs(2, Watch(on_progress=kill)) as jobs:
        jobs.add(Task("one", path, {"number": 1}))
        done = jobs.next()
    assert done.run == mlops_nb.runs(path)[0] and done.run.status == "lost" and f"What is left of it: {done.run.id}" in str(done.error)


@pytest.mark.timeout(120)
def test_where_the_asking_process_is_killed_the_runs_end(project):
    """Workers see that nobody is there, end their runs and leave nothing behind."""
    write_project(project, {name: (DIAMOND[name][0], ENDLESS) for name in ("20_train", "30_forest")})
    process = started(project)
    pids = [pid for pair in both_run(project) for pid in pair]
    family = [one.pid for one in psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    process.communicate()
    assert gone(*family, *pids, within_s=20)
    assert {one.status for one in mlops_nb.runs(project) if one.step != "ingest"} == {"killed"}


@pytest.mark.timeout(60)
def test_news_that_nobody_hears_fails_no_run(tmp_path):
    """Progress and warnings for a process that is gone are dropped; the run ends as killed, and says why."""
    path = write_notebook(tmp_path / "t.ipynb", "import time\nwhile True:\n    print('epoch', flush=True)\n    time.sleep(0.01)", parameters="number: int = 0")
    (tmp_path / "settings.ini").write_text(f"[store]\nremote = {path}/nowhere\n")  # of which a warning tells
    worker, asking = Pipe()
    asking.close()
    done = _worked(worker, _State(), Task("one", path, {}), Share())
    assert done.run.status == "killed" and done.run.error == "the process that asked for it is gone"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_over_its_memory_is_killed_and_the_others_go_on(project, jobs):
    """Its record says how much it used of how much."""
    greedy = "import time\ndata = bytearray(b'x' * 400_000_000)\ntime.sleep(60)"
    write_project(project, {"20_train": (DIAMOND["20_train"][0], greedy)})
    (project / "settings.ini").write_text("[resources]\n20_train = memory=300MB\n")
    ended = run_pipeline(root=project, jobs=jobs)
    runs = {one.step: one for one in ended.runs}
    assert {name: one.status for name, one in runs.items()} == {"ingest": "succeeded", "train": "killed", "forest": "succeeded"}
    assert re.fullmatch(r"memory limit: \d\d\d MB used of 300 MB", runs["train"].error) and isinstance(ended.errors["train"], RunKilled)
    assert runs["train"].seconds < 30 and runs["train"].record["share"]["memory_bytes"] == 300 * 10**6


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["memory", "threads"])
def test_what_does_not_fit_waits(tmp_path, what):
    """Two runs that each declare most of the memory, or every core, run one after the other."""
    most = {"memory": Needs(memory_bytes=psutil.virtual_memory().total * 6 // 10), "threads": Needs(threads=count_cores())}[what]
    if what == "threads" and count_cores() == 1:
        pytest.skip("one core: a run with one thread always fits")
    path = write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(0.2)", parameters="number: int = 0")
    with Jobs(2) as jobs:
        for number in range(2):
            jobs.add(Task(f"task {number}", path, {"number": number}, needs=most))
        runs = [jobs.next().run for _ in range(2)]
    assert {one.status for one in runs} == {"succeeded"} and overlap_s(*runs) < 0


@pytest.mark.timeout(60)
def test_what_the_machine_has_not_is_refused_unless_it_is_fresh(project, monkeypatch):
    """A GPU that is not there is refused before anything runs; a step that is fresh does not need one."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (project / "settings.ini").write_text("[resources]\n20_train = gpu=1\n")
    with pytest.raises(BadSettings, match=r"20_train.ipynb gpu=1, and this machine has none"):
        run_pipeline(root=project, jobs=2)
    assert not mlops_nb.runs(project)
    (project / "settings.ini").write_text("")
    assert run_pipeline(root=project, jobs=2).succeeded
    (project / "settings.ini").write_text("[resources]\n20_train = gpu=1\n")
    assert run_pipeline(root=project, jobs=2).succeeded


@pytest.mark.timeout(60)
def test_each_run_has_its_own_gpu(project, monkeypatch):
    """Two runs at once that need one each do not see the same."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    sees = "import os, time\ntime.sleep(1)\nopen(model, 'w').write('x')\nglue('gpu', os.environ['CUDA_VISIBLE_DEVICES'])"
    write_project(project, {name: (DIAMOND[name][0], sees) for name in ("20_train", "30_forest")})
    (project / "settings.ini").write_text("[resources]\n20_train = gpu=1\n30_forest = gpu=1\n")
    ended = run_pipeline(root=project, jobs=2)
    assert sorted(one.results["gpu"] for one in ended.runs if "gpu" in one.results) == ["3", "5"]


@pytest.mark.timeout(60)
def test_a_stop_reaches_a_run_and_one_that_waits(tmp_path):
    """Both are told of with the reason; what waited has no run."""
    path = write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(60)", parameters="number: int = 0")
    with Jobs(2, Watch(on_progress=lambda name, progress: progress.cell and jobs.stop(name, "killed", "seen enough"))) as jobs:
        for number in range(3):
            jobs.add(Task(f"trial {number}", path, {"number": number}, priority=number))
        jobs.stop("trial 0", "killed", "not needed")
        done = {one.task.name: one for one in (jobs.next() for _ in range(3))}
    assert done["trial 0"].run is None and "not run: not needed" in str(done["trial 0"].error)
    assert all(done[f"trial {number}"].run.record["error"] == {**done[f"trial {number}"].run.record["error"], "message": "seen enough"} for number in (1, 2))


@pytest.mark.timeout(60)
def test_a_stop_ends_with_its_task(tmp_path):
    """Carried out, too late, or before there is such a task: it does nothing to the next task of that name."""
    path = write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(wait_s)", parameters="wait_s: float = 0")
    found = []
    with Jobs(1, Watch(on_progress=lambda name, progress: len(found) < 2 and progress.cell and pool.stop(name, "killed", "seen enough"))) as pool:
        for wait_s in (60.0, 0.0, 1.0):
            pool.stop("one", "killed", "it is not there")
            pool.add(Task("one", path, {"wait_s": wait_s}))
            found.append(pool.next().run.error)
    assert found[0] == "seen enough" and found[1] in (None, "seen enough") and found[2] is None, "the second may end by itself first"


def test_an_error_comes_through_a_pipe_with_its_run(project):
    """Message and run are as they were."""
    write_project(project, {"10_ingest": (DIAMOND["10_ingest"][0], "1 / 0")})
    with pytest.raises(CellFailed) as caught:
        mlops_nb.run(project / "nbs/pipelines/stars/10_ingest.ipynb")
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, CellFailed) and str(again) == str(caught.value) and again.run == caught.value.run


@pytest.mark.timeout(60)
def test_a_worker_that_dies_while_idle_is_replaced(tmp_path):
    """The next task does not notice."""
    path = write_notebook(tmp_path / "t.ipynb", "pass", parameters="number: int = 0")
    with Jobs(2) as jobs:
        jobs.add(Task("one", path, {"number": 1}))
        first = jobs.next().run
        os.kill(first.record["process"]["pid"], signal.SIGKILL)
        assert gone(first.record["process"]["pid"])
        jobs.add(Task("two", path, {"number": 2}))
        assert jobs.next().run.status == "succeeded"
        assert find_here(Task("two", path, {"number": 2}), print).was_there


@pytest.mark.timeout(60)
def test_closing_early_leaves_nothing(tmp_path):
    """An exception of the caller ends what runs, with its record."""
    path = write_notebook(tmp_path / "t.ipynb", "import time; time.sleep(60)", parameters="number: int = 0")

    def fail(name, progress):
        if progress.cell:
            raise LookupError("of the caller")

    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(LookupError, match="of the caller"), Jobs(2, Watch(on_progress=fail)) as jobs:
        jobs.add(Task("one", path, {"number": 1}))
        jobs.next()
    (one,) = mlops_nb.runs(tmp_path)
    assert one.status == "interrupted" and set(psutil.Process().children(recursive=True)) <= before


@pytest.mark.timeout(60)
def test_a_watch_that_raises_again_and_again_does_not_keep_what_runs_from_its_end(tmp_path):
    """Both runs end with their records, no worker is left, and signals do again what they did before."""
    path = write_notebook(tmp_path / "t.ipynb", "import time\nwhile True:\n    print('epoch', flush=True)\n    time.sleep(0.01)", parameters="number: int = 0")

    def fail(name, progress):
        if len(mlops_nb.runs(path)) == 2 and progress.cell:
            raise LookupError("of the caller")

    before, handlers = set(psutil.Process().children(recursive=True)), [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(LookupError, match="of the caller"), Jobs(2, Watch(on_progress=fail)) as pool:
        for number in range(2):
            pool.add(Task(f"task {number}", path, {"number": number}))
        pool.next()
    assert [one.status for one in mlops_nb.runs(path)] == ["interrupted"] * 2 and set(psutil.Process().children(recursive=True)) <= before
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


@pytest.mark.timeout(90)
def test_a_kernel_is_held_though_its_worker_ends(project):
    """`--hold` keeps it until somebody attaches."""
    write_project(project, {"20_train": (DIAMOND["20_train"][0], "import os; print('here', os.getpid(), os.getpid(), flush=True)\n1 / 0")})
    said = command("run", "--jobs", "2", "--hold", cwd=project)
    (pids,) = both_run(project, steps=["train"])
    assert said.returncode == 1 and "jupyter console --existing" in said.stderr and psutil.pid_exists(pids[0])
    os.kill(pids[0], signal.SIGKILL)


def test_no_jobs_is_refused(project):
    """Before anything runs, with what the option means."""
    said = command("run", "--jobs", "0", cwd=project)
    assert said.returncode == 2 and "--jobs 0: it is how many runs may be side by side" in said.stderr and not mlops_nb.runs(project)
