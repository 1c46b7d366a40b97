"""Killed at any moment, without space, without permission, with a damaged object or a record of the future: nothing lost, nothing wrong used, and it is said."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from making import all_bytes, write_project

from mlops_nb.digest import digest_bytes
from mlops_nb.errors import BadStore
from mlops_nb.pipeline import run_pipeline
from mlops_nb.record import runs
from mlops_nb.status import read_status
from mlops_nb.step import run
from mlops_nb.store import Store

STEPS = {
    "10_ingest": ('stars = Output("data/stars.csv")', "open(stars, 'w').write('0.85\\n')"),
    "20_train": ('stars = Input("data/stars.csv")\nmodel = Output("models/m")', "import os\nos.makedirs(model)\nfor n in 'ab': open(f'{model}/{n}', 'w').write(n + open(stars).read())"),
}  # fmt: skip

# Before each change of the file system by the run, either copy the whole project, which is what a kill there would leave, or be killed there.
AT_EACH_CHANGE = """
import os, shutil, signal, sys
from pathlib import Path
from mlops_nb.pipeline import run_pipeline

root, copies, fatal = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
seen, copying = 0, False

def copy(root, place):
    try:
        shutil.copytree(root, place, symlinks=True)
    except shutil.Error as error:  # another thread renamed a file meanwhile: neither state, so take the next one
        if not all("No such file" in why for _, _, why in error.args[0]):
            raise
        os.system(f"rm -rf '{place}'")
        copy(root, place)

def watched(change):
    def changed(*arguments, **options):
        global seen, copying
        if not copying:
            seen += 1
            if fatal and seen >= fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            if not fatal:
                copying = True
                copy(root, copies / f"{seen:03}")
                copying = False
        return change(*arguments, **options)
    return changed

for module, name in ((os, "replace"), (os, "mkdir"), (os, "rmdir"), (shutil, "rmtree"), (Path, "chmod")):
    setattr(module, name, watched(getattr(module, name)))
run_pipeline(root=root)
"""


def perform(root: Path, copies: Path, fatal: int = 0) -> int:
    """Run the pipeline in a process of its own; return how it exited."""
    done = subprocess.run([sys.executable, "-c", AT_EACH_CHANGE, root, copies, str(fatal)], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 or fatal, done.stderr
    return done.returncode


def check_store(root: Path) -> None:
    """Every object is what its name says, and what a run that succeeded made is there."""
    for path in (root / "runs/objects").rglob("*"):
        if path.is_file() and not path.name.startswith(".part-"):
            assert digest_bytes(path.read_bytes()) == path.parent.name + path.name, path
    store = Store(root / "runs")
    for one in runs(root, status="succeeded"):
        for digest in [one.record["notebook"], one.record["key"]["parts"], *(file["digest"] for file in one.record["outputs"].values())]:
            store.check_all(digest)


def test_killed_before_any_change_of_a_file(tmp_path):
    """What each kill would leave: whole objects, records that tell the truth, outputs that are whole or not there; and what is called fresh is."""
    root = write_project(tmp_path / "project", STEPS)
    perform(root, tmp_path / "copies")
    whole = {path: (root / path).read_bytes() for path in ("data/stars.csv", "models/m/a", "models/m/b")}
    copies = sorted((tmp_path / "copies").iterdir())
    assert len(copies) > 20
    stood = []
    for copy in copies:
        check_store(copy)
        assert "running" not in {one.status for one in runs(copy)}
        for path, data in whole.items():
            assert not (copy / path).exists() or (copy / path).read_bytes() == data, (copy, path)
        stood.append([one.status for one in read_status(root=copy)])
    assert ["missing", "missing"] in stood and ["fresh", "missing"] in stood
    for now, later in itertools.pairwise(stood):
        assert now.count("fresh") <= later.count("fresh"), "what was kept once stays kept"
    for copy in (copies[len(copies) // 3], copies[2 * len(copies) // 3], copies[-1]):
        assert run_pipeline(root=copy).succeeded
        assert {path: (copy / path).read_bytes() for path in whole} == whole
        assert {one.status for one in read_status(root=copy)} == {"fresh"}


@pytest.mark.parametrize("fatal", [8, 14, 20])
def test_killed_indeed(tmp_path, fatal):
    """After `kill -9` the next run completes, and says `lost` of the one that was killed."""
    root = write_project(tmp_path / "project", dict(list(STEPS.items())[:1]))
    assert perform(root, tmp_path, fatal) == -signal.SIGKILL
    check_store(root)
    before = {one.id: one.status for one in runs(root)}
    assert set(before.values()) <= {"lost", "succeeded"}
    assert run_pipeline(root=root).succeeded and (root / "data/stars.csv").read_text() == "0.85\n"


def elsewhere(root: Path, prepare: str, *words: str) -> subprocess.CompletedProcess:
    """Run `mlops-nb` where file systems can be mounted that nobody else sees; skip, loudly, where the system does not allow that."""
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk and a read-only store, since this system lets nobody mount a file system of his own")
    script = f'set -e\n{prepare}\nstatus=0\n"$@" || status=$?\ncp -r runs seen 2>/dev/null || true\nexit $status'
    bare = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return subprocess.run(
        [*apart, "bash", "-c", script, "bash", sys.executable, "-m", "mlops_nb", *words], cwd=root, env=bare, capture_output=True, text=True, timeout=200
    )


def test_a_full_disk(tmp_path):
    """The output does not fit into the store: one sentence with the reason, no half object, nothing laid out."""
    code = "open(stars, 'w').write('x' * 3_000_000)"
    root = write_project(tmp_path / "project", {"10_ingest": (STEPS["10_ingest"][0], code)})
    (root / "runs").mkdir()
    done = elsewhere(root, "mount -t tmpfs -o size=2m none runs", "run")
    assert done.returncode in (1, 2) and "No space left on device" in done.stdout + done.stderr, done
    assert "a fault of mlops-nb" not in done.stderr and not (root / "data/stars.csv").exists()
    for path in (root / "seen/objects").rglob("*"):
        assert path.is_dir() or path.name.startswith(".part-") or digest_bytes(path.read_bytes()) == path.parent.name + path.name


def test_a_full_disk_while_cells_run(tmp_path):
    """What cells print no longer fits beside the notebook: one sentence with the reason, and a record that tells of it."""
    root = write_project(tmp_path / "project", {"10_ingest": ("seed: int = 0", "for row in range(40): print('x' * 100_000)\nimport time; time.sleep(3)")})
    (root / "runs").mkdir()
    done = elsewhere(root, "mount -t tmpfs -o size=2m none runs", "run")
    said = [line for line in done.stderr.splitlines() if "No space left on device" in line]
    assert done.returncode == 1 and len(said) == 1 and "Traceback" not in done.stderr and "a fault of mlops-nb" not in done.stderr, done
    [record] = [json.loads(path.read_text()) for path in (root / "seen/records").glob("*.json")]
    assert record["status"] == "failed" and "No space left on device" in record["error"]["message"]


def test_a_full_disk_when_the_output_is_laid_out(tmp_path):
    """The store has room and the workspace has none: said, and what was there before is as it was."""
    code = "open(stars, 'w').write('x' * 3_000_000)"
    root = write_project(tmp_path / "project", {"10_ingest": (STEPS["10_ingest"][0], code)})
    (root / "data").mkdir()
    done = elsewhere(root, "mount -t tmpfs -o size=1m none data; echo old > data/stars.csv", "run")
    assert done.returncode == 1 and "No space left on device" in done.stderr and "a fault of mlops-nb" not in done.stderr, done


def test_a_store_that_became_read_only(tmp_path):
    """What is there can be looked at and laid out; a run is refused with the reason before its kernel starts."""
    root = write_project(tmp_path / "project", {"10_ingest": STEPS["10_ingest"]})
    assert run_pipeline(root=root).succeeded
    read_only = "mount --bind runs runs; mount -o remount,bind,ro runs"
    before = all_bytes(root / "runs/objects")
    done = elsewhere(root, read_only, "status", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)[0]["status"] == "fresh", done
    (root / "data/stars.csv").unlink()
    done = elsewhere(root, read_only, "run")
    assert done.returncode == 0 and (root / "data/stars.csv").read_text() == "0.85\n", done
    done = elsewhere(root, read_only, "run", "--force")
    assert done.returncode in (1, 2) and "Read-only file system" in done.stderr and "a fault of mlops-nb" not in done.stderr, done
    assert all_bytes(root / "runs/objects") == before


def test_a_truncated_object(tmp_path):
    """It is not used, not even where its size is right; its step runs again and mends it."""
    root = write_project(tmp_path / "project", STEPS)
    assert run_pipeline(root=root).succeeded
    [made] = runs(root, step="ingest")
    path = Store(root / "runs").path(made.record["outputs"]["stars"]["digest"])
    path.chmod(0o644)
    for damaged in (b"0.8", b"0.86\n"):
        path.write_bytes(damaged)
        assert next(one.status for one in read_status(root=root) if one.step == "ingest") == "stale"
        assert run_pipeline(root=root).succeeded and path.read_bytes() == b"0.85\n"
        path.chmod(0o644)


def test_a_record_from_a_newer_version(tmp_path):
    """It is named, with what to do, and stays as it is; the other runs can be used."""
    root = write_project(tmp_path / "project", {"10_ingest": STEPS["10_ingest"]})
    made = run(root / "nbs/pipelines/stars/10_ingest.ipynb")
    future = root / "runs/records/20990101-000000-ingest-abcd.json"
    text = json.dumps({**made.record, "version": 99, "id": future.stem})
    future.write_text(text)
    try:
        found = runs(root)
    except BadStore as refusal:
        assert "version" in str(refusal) and future.name in str(refusal)
    else:
        assert [one.id for one in found] == [made.id] or future.stem in {one.id for one in found}
    assert future.read_text() == text
