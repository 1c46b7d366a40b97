"""What nobody needs is removed; what is kept is whole, whatever happens and whoever runs meanwhile."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import pytest
from making import command, write_project

import mlops_nb.unused
from mlops_nb.errors import BadStore
from mlops_nb.pipeline import run_pipeline
from mlops_nb.record import new_id, read_record, runs, this_process, write_record
from mlops_nb.step import run
from mlops_nb.store import Store, in_use, one_at_a_time
from mlops_nb.unused import find_unused, remove_unused

LONG_AGO = datetime.fromisoformat("2024-01-01T00:00:00Z").timestamp()


def keep(root: Path, step: str, hour: int, *, status: str = "succeeded", reads: dict | None = None, **more) -> tuple[str, dict]:
    """Write a run of long ago, as `run` writes one; return its id and its output, which is a folder of two files."""
    store = Store(root / "runs")
    started = f"2024-01-01T{hour:02d}:00:00.000000Z"
    id = new_id(step, started)
    made = root / "made"
    made.mkdir()
    (made / "own.csv").write_text(id)
    (made / "same.csv").write_text("the same in all runs of all steps")
    digest, size_bytes = store.take(made)
    output = {"path": f"data/{step}", "digest": digest, "size_bytes": size_bytes}
    record = {
        "id": id, "status": status, "template": f"nbs/pipelines/stars/{step}.ipynb", "step": step, "started": started, "ended": started, "arguments": {}, "results": {},
        "inputs": reads or {}, "outputs": {"made": output}, "notebook": store.put(f"notebook of {id}"), "key": {"digest": store.put(f"key of {id}"), "parts": store.put(f"parts of {id}")},
    }  # fmt: skip
    write_record(root / "runs", {**record, **more})
    (root / "runs" / id).mkdir()
    (root / "runs" / id / f"{step}.ipynb").write_text("{}")
    age(root, id)
    return id, output


def age(root: Path, *ids: str) -> None:
    """Make all objects, and the records of these runs, as old as they say."""
    for path in [*(root / "runs" / "objects").glob("*/[0-9a-f]*"), *(root / "runs" / "records" / f"{id}.json" for id in ids)]:
        os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def project(tmp_path):
    """A project without templates."""
    return write_project(tmp_path / "project", {})


def files(root: Path) -> set[str]:
    """Return what lies in the store, the memories and the locks left out."""
    return {path.relative_to(root / "runs").as_posix() for path in (root / "runs").rglob("*") if path.is_file() and path.suffix != ".sqlite" and path.parent.name != "locks"}


def is_whole(root: Path) -> bool:
    """Say whether every object that a record names is there, and is what its name says."""
    store = Store(root / "runs")
    for path in (root / "runs" / "records").glob("*.json"):
        record = read_record(root / "runs", path.stem)
        others = [record["notebook"], record["key"]["parts"], (record.get("environment") or {}).get("digest"), (record.get("revision") or {}).get("patch")]
        for digest in filter(None, [*others, *(file["digest"] for file in record["outputs"].values())]):
            store.check_all(digest)
    return True


# Real runs.

SLOW = """
import os, time
path = os.path.join(os.path.dirname(os.environ["MLOPS_NB_PATHS"]), "..", "..")
with open(stars) as file:
    first = file.readline()
    open(os.path.join(path, "reading"), "w").close()
    while not os.path.exists(os.path.join(path, "go")):
        time.sleep(0.05)
again = open(stars).read()  # opened anew: its name must still be there
open(model, "w").write(again)
glue("rows", len(again.split()))
"""
PIPELINE = {
    "10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 2', 'open(stars, "w").write("0.85\\n" * rows)'),
    "20_train": ('stars = Input("data/stars.csv")\nmodel = Output("models/network.json")\nseed: int = 0', 'open(model, "w").write(str(seed)); glue("seed", seed)'),
}


def test_kept_runs_are_still_hits_and_removed_ones_run_again(tmp_path):
    """Nothing is removed without --yes; the second of two old trainings stays, and the first is run again when it is asked for."""
    root = write_project(tmp_path / "project", PIPELINE)
    first = run_pipeline(root=root, arguments={"train": {"seed": 1}}).runs
    second = run_pipeline(root=root, arguments={"train": {"seed": 2}}, only="train").runs
    age(root, *(one.id for one in (*first, *second)))

    told = json.loads(command("gc", "--json", cwd=root).stdout)
    assert told["runs"] == [first[1].id] and not told["removed"] and len(told["objects"]) == len(set(told["objects"])) > 0
    assert {one["run"] for one in told["kept"]} == {first[0].id, second[0].id}
    said = command("gc", cwd=root).stdout
    assert said.startswith("would remove 1 run, ") and "Nothing was removed. `mlops-nb gc --yes` removes it." in said
    assert runs(root, step="train")[-1].id == first[1].id and command("gc", "--yes", "--dry-run", cwd=root).returncode == 2

    done = command("gc", "--yes", cwd=root)
    assert done.stdout.startswith("removed 1 run, ") and done.returncode == 0, done.stderr
    assert len(runs(root)) == 2 and is_whole(root) and command("gc", cwd=root).stdout.startswith("nothing to remove")
    shutil.rmtree(root / "models")
    again = run_pipeline(root=root, arguments={"train": {"seed": 2}}).runs
    assert [one.id for one in again] == [first[0].id, second[0].id] and (root / "models" / "network.json").read_text() == "2"
    assert run_pipeline(root=root, arguments={"train": {"seed": 1}}).runs[1].id not in {first[1].id, second[0].id}

    said, hits, spoke = [], [], threading.Event()
    template = root / "nbs" / "pipelines" / "stars" / "20_train.ipynb"
    with one_at_a_time(root / "runs" / "locks" / "in-use"):  # as while something is removed
        thread = threading.Thread(target=lambda: run(template, {"seed": 2}, on_progress=lambda progress: (said.append(progress.line), spoke.set()), on_hit=hits.append))
        thread.start()
        assert spoke.wait(60)
        thread.join(0.5)
        assert said == ["waiting until what is unused has been removed"] and not hits
    thread.join(60)
    assert hits[0].id == second[0].id


def test_a_run_that_is_reading_loses_nothing(tmp_path):
    """While a run reads an input that no other reason keeps, all else is removed around it; it ends as if nothing had been."""
    root = write_project(tmp_path / "project", {**PIPELINE, "20_train": (PIPELINE["20_train"][0], SLOW)})
    template = root / "nbs" / "pipelines" / "stars" / "10_ingest.ipynb"
    wanted = run(template, {"rows": 3})
    digest = wanted.record["outputs"]["stars"]["digest"]
    failed, _ = keep(root, "other", 1, status="failed")
    run(template, {"rows": 5})
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    going = subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", "-p", "rows=3"], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        while not (root / "reading").exists():
            assert going.poll() is None, going.stdout.read()
            time.sleep(0.05)
        (root / "data" / "stars.csv").unlink()  # the store alone has it
        age(root, wanted.id)
        done = command("gc", "--yes", "--keep-days", "0", "--json", cwd=root)
        told = json.loads(done.stdout)
        assert failed in told["runs"] and digest not in told["objects"], told
        reasons = {one["run"]: one["reason"] for one in told["kept"]}
        assert "it is running" in reasons.values() and reasons[wanted.id].startswith("it wrote data/stars.csv, which ")
    finally:
        (root / "go").touch()
        output = going.communicate(timeout=60)[0]
    assert going.returncode == 0, output
    assert runs(root, step="train")[0].results == {"rows": 3} and (root / "models" / "network.json").read_text() == "0.85\n" * 3 and is_whole(root)


def test_a_file_that_is_renamed_while_it_is_looked_at(project, monkeypatch):
    """A run that goes on gives a file its name between the look at the folder and the look at the file: it is not there, and no fault."""
    id = keep(project, "train", 1)[0]
    half = project / "runs" / id / ".part-1"
    half.touch()
    entries = mlops_nb.unused._entries

    def listed(folder: Path) -> list:
        found = entries(folder)
        half.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(mlops_nb.unused, "_entries", lambda folder: listed(folder) if Path(folder) == half.parent else entries(folder))
    assert find_unused(project).leftovers == () and not half.exists()


def test_a_run_that_begins_or_ends_is_waited_for(project):
    """What is removed is decided when nobody else is in the store: a record that was written meanwhile keeps what it names."""
    keep(project, "train", 1)
    keep(project, "train", 2)
    store = Store(project / "runs")
    loose, wanted = store.put("an object of no run"), store.put("an object of a run that begins")
    age(project)
    waited, removed = threading.Event(), []
    with in_use(project / "runs"):
        assert {loose, wanted} <= set(find_unused(project).objects)
        thread = threading.Thread(target=lambda: removed.append(remove_unused(project, on_wait=waited.set)))
        thread.start()
        assert waited.wait(20) and store.has(loose)
        id = new_id("test", "2024-01-02T00:00:00Z")
        write_record(project / "runs", {"id": id, "status": "running", "template": "x.ipynb", "step": "x", "started": "2024", "inputs": {}, "key": {"digest": wanted}, "process": this_process()})
    thread.join(20)
    assert store.has(wanted) and wanted not in removed[0].objects
    assert not store.has(loose) and loose in removed[0].objects
    assert runs(project, status="running")[0].id == id


# Killed in the middle.

KILLED = """
import os, signal, sys
from pathlib import Path
from mlops_nb.unused import remove_unused
left = int(sys.argv[2])
def fault(event, arguments):
    global left
    if event in ("os.remove", "os.rmdir") and "/runs/" in os.fsdecode(arguments[0] if os.path.isabs(arguments[0]) else os.getcwd() + "/runs/" + os.fsdecode(arguments[0])):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(fault)
remove_unused(sys.argv[1])
"""


def test_killed_before_each_removal(tmp_path):
    """A fault point before every file and folder that goes: no record is left that names what is gone, and the next time completes it."""
    root = write_project(tmp_path / "project", {})
    catalogue = keep(root, "ingest", 1)[1]
    keep(root, "train", 2)
    keep(root, "train", 3, status="failed")
    keep(root, "train", 4, reads={"stars": catalogue})
    keep(root, "ingest", 5)
    expected = shutil.copytree(root, tmp_path / "expected", symlinks=True)
    removed = remove_unused(expected)
    assert len(removed.runs) == 2 and is_whole(expected) and len(files(expected)) < len(files(root))
    kills = 0
    while True:
        copy = shutil.copytree(root, tmp_path / f"killed-{kills}", symlinks=True)
        done = subprocess.run([sys.executable, "-c", KILLED, str(copy), str(kills)], capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert done.returncode == -9, done.stderr
        assert files(expected) <= files(copy) <= files(root), "nothing that is kept is gone"
        assert is_whole(copy)
        assert {one.id for one in runs(expected)} <= {one.id for one in runs(copy)}
        remove_unused(copy)
        assert files(copy) - {f"{run.id}/train.ipynb" for run in removed.runs} == files(expected)
        shutil.rmtree(copy)
        kills += 1
    assert kills >= len(removed.runs) * 2 + len(removed.objects)


# What is kept, and why.


def test_what_is_published_on_any_branch_or_in_the_ledger_stays(project):
    def git(*arguments):
        identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)

    old = {name: keep(project, "train", hour) for hour, name in enumerate(("id", "key", "output", "ledger", "nothing"))}
    keep(project, "train", 23)
    key = read_record(project / "runs", old["key"][0])["key"]["digest"]
    (project / "results" / "stars").mkdir(parents=True)
    (project / ".gitignore").write_text("/runs/\n")
    git("init", "-q", "-b", "main")
    for branch, text in (("one", {"id": old["id"][0]}), ("two", {"key": {"digest": key}}), ("main", {"outputs": old["output"][1]})):
        git("switch", "-q", "--orphan", branch)
        (project / "results" / "stars").mkdir(parents=True, exist_ok=True)
        (project / "results" / "stars" / "20_train.json").write_text(json.dumps(text))
        git("add", "-f", "results")
        git("commit", "-qm", branch)
    (project / "models.toml").write_text(f'[network.3]\nrun = "{old["ledger"][0]}"\n')
    found = find_unused(project)
    assert [run.id for run in found.runs] == [old["nothing"][0]]
    reasons = {one.run.id: one.reason for one in found.kept}
    assert reasons[old["id"][0]] == "it is named in results/stars/20_train.json on one"
    assert reasons[old["key"][0]] == "what it made is named in results/stars/20_train.json on two"
    assert reasons[old["output"][0]] == "what it made is named in results/stars/20_train.json" and "models.toml" in reasons[old["ledger"][0]]


def test_days(project):
    """What was made, or found fresh, lately stays; how long is a setting, and can be said."""
    old, _ = keep(project, "train", 1)
    keep(project, "train", 2)
    assert [run.id for run in find_unused(project).runs] == [old]
    os.utime(project / "runs" / "records" / f"{old}.json", (time.time() - 3 * 86400,) * 2)
    assert not find_unused(project).runs and find_unused(project, keep_days=2).runs
    (project / "settings.ini").write_text("[store]\nkeep_days = 2.5\n")
    assert find_unused(project).runs and not find_unused(project, keep_days=4).runs
    refused = command("gc", "--keep-days", "-1", cwd=project)
    assert refused.returncode == 2


def test_what_cannot_be_read_is_kept_with_all_that_it_names(project):
    """A record of a later version, and a damaged one, may be of use to somebody."""
    later, output = keep(project, "train", 1, format=99)
    damaged, _ = keep(project, "train", 2)
    record = project / "runs" / "records" / f"{damaged}.json"
    record.write_text(record.read_text()[:-5])
    write_later = project / "runs" / "records" / f"{later}.json"
    write_later.write_text(write_later.read_text().replace('"format": 1', '"format": 99'))
    age(project, later, damaged)
    keep(project, "train", 3)
    found = remove_unused(project)
    assert not found.runs and not found.objects
    assert [one.reason for one in found.kept].count("its record cannot be read") == 2
    Store(project / "runs").check_all(output["digest"])


def test_leftovers_and_strangers(project):
    """Half-written files of processes that were killed go after a day; what is not the store's stays, and links lead nowhere."""
    keep(project, "train", 1)
    keep(project, "train", 2)
    store, outside = project / "runs", project / "outside"
    outside.mkdir()
    (outside / "precious.csv").write_text("1")
    (store / "objects" / "00").mkdir(exist_ok=True)
    young = store / "objects" / "00" / ".part-young"
    orphan = store / "20240101T000000-train-0123abcd"
    orphan.mkdir()
    (orphan / "link").symlink_to(outside)
    old = [store / "records" / ".part-x", store / "objects" / "00" / ".part-x", store / "locks" / ("0" * 64)]
    for path in (young, *old):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    (store / "notes").mkdir()
    (store / "20240102T000000-train-0123abcd").symlink_to(outside)
    for path in (*old, orphan):
        os.utime(path, (LONG_AGO, LONG_AGO))
    found = remove_unused(project)
    assert set(found.leftovers) == {*old, orphan} and not any(path.exists() for path in (*old, orphan)) and young.exists()
    assert found.unknown == ("20240102T000000-train-0123abcd", "notes") and (outside / "precious.csv").exists()


def test_a_store_that_cannot_be_written_is_left_as_it_is(project):
    keep(project, "train", 1)
    keep(project, "train", 2)
    before = files(project)
    if os.geteuid():
        (project / "runs" / "records").chmod(0o555)
        with pytest.raises(BadStore, match="cannot be written, so nothing was removed"):
            remove_unused(project)
        (project / "runs" / "records").chmod(0o755)
    else:  # who may do anything is refused by a file system that is mounted to be read only
        program = f"mount --bind {project} {project} && mount -o remount,ro,bind {project} && {sys.executable} -m mlops_nb gc --yes"
        done = subprocess.run(["unshare", "--mount", "sh", "-c", program], cwd=project.parent, capture_output=True, text=True)
        if "unshare" in done.stderr or "mount:" in done.stderr:
            pytest.skip("this system mounts nothing here")
        done = subprocess.run(["unshare", "--mount", "sh", "-c", program.replace(sys.executable, f"cd {project} && {sys.executable}")], capture_output=True, text=True)
        assert done.returncode == 2 and "cannot be written, so nothing was removed" in done.stderr, done.stderr
    assert files(project) == before
