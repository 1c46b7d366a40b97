"""Records are whole and the index agrees with them, whoever writes."""

import json
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from making import command, write_notebook, write_project

import mlops_nb
from mlops_nb import run
from mlops_nb.errors import BadStore, UnknownRun
from mlops_nb.record import at_one_moment, find_run, now, read_record, runs, runs_in, this_process, write_record


def test_eight_runs_at_once(tmp_path):
    """Eight processes run one template at the same time: eight whole records, eight notebooks, an index that agrees, one output laid out."""
    root = write_project(tmp_path, {"50_train": ('model = Output("models/network")\nseed: int = 0', 'open(model, "w").write(str(seed))\nglue("seed", seed)')})
    template = "nbs/pipelines/stars/50_train.ipynb"
    started = [
        subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", template, "-p", f"seed={seed}"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in range(8)
    ]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 0, said.decode()

    listed = json.loads(command("runs", "--json", cwd=root).stdout)
    files = sorted((root / "runs" / "records").glob("*.json"))
    records = [read_record(root / "runs", path.stem) for path in files]
    assert len(files) == 8 and sorted(one["id"] for one in listed) == [record["id"] for record in records]
    assert {one["status"] for one in listed} == {"succeeded"}
    assert sorted(record["results"]["seed"] for record in records) == list(range(8))
    for record in records:
        digest = record["outputs"]["model"]["digest"]
        assert (root / "runs" / "objects" / digest[:2] / digest[2:]).read_text() == str(record["arguments"]["seed"])
        assert json.loads((root / "runs" / record["id"] / "50_train.ipynb").read_text())["metadata"]["papermill"]["parameters"] == {"seed": record["arguments"]["seed"]}
    assert (root / "models" / "network").read_text() in {str(seed) for seed in range(8)}


def test_what_a_record_holds(tmp_path):
    root = write_project(tmp_path, {"50_train": ('stars = Input("stars.csv")\nmodel = Output("model")\nrate: float = 0.1', 'open(model, "w").write(open(stars).read())')})
    (root / "stars.csv").write_text("0.85\n")
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    (root / "stars.csv").write_text("0.86\n")
    one = mlops_nb.run(root / "nbs/pipelines/stars/50_train.ipynb", {"rate": 0.5})
    record = one.record
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    assert record["revision"]["commit"] == commit and record["revision"]["changed"][-1] == "stars.csv"
    assert "+0.86" in stored(root, record["revision"]["patch"])
    environment = json.loads(stored(root, record["environment"]["digest"]))
    assert environment["packages"]["papermill"] and record["environment"]["python"] == "{}.{}.{}".format(*sys.version_info)
    assert record["arguments"] == {"stars": "stars.csv", "model": "model", "rate": 0.5} and record["given"] == ["rate"]
    assert record["inputs"]["stars"]["digest"] == record["outputs"]["model"]["digest"] and record["outputs"]["model"]["size_bytes"] == 5
    assert record["hardware"]["cores"] > 0 and record["hardware"]["memory_bytes"] > 0 and isinstance(record["hardware"]["devices"], list)
    assert record["mlops_nb"] == mlops_nb.__version__ and len(record["template_digest"]) == 64
    assert record["started"] < record["ended"] and record["seconds"] > 0 and len(record["cells"]) == 4
    assert stored(root, record["notebook"]) == one.notebook.read_text()


def stored(root, digest: str) -> str:
    """Return an object of the store as text."""
    return (root / "runs" / "objects" / digest[:2] / digest[2:]).read_text()


def example(id: str, status: str = "succeeded", **more) -> dict:
    """Return a small record."""
    return {"id": id, "status": status, "step": "train", "template": "train.ipynb", "started": now(), "seconds": 1.0, **more}


def test_the_index_follows_the_records(tmp_path):
    """A record that is added, changed or deleted by another process is seen at the next look; without an index, too."""
    assert runs_in(tmp_path) == []
    write_record(tmp_path, example("a"))
    assert [one.id for one in runs_in(tmp_path)] == ["a"]
    write_record(tmp_path, example("b", "failed", error={"kind": "ValueError", "message": "no stars", "cell": 1}))
    assert [(one.id, one.error) for one in runs_in(tmp_path, status="failed")] == [("b", "no stars")]
    write_record(tmp_path, example("b", results={"f1": 0.5}))
    assert runs_in(tmp_path)[0].results == {"f1": 0.5}
    (tmp_path / "records" / "a.json").unlink()
    assert [one.id for one in runs_in(tmp_path)] == ["b"]
    (tmp_path / "index.sqlite").unlink()
    assert [one.id for one in runs_in(tmp_path)] == ["b"]
    (tmp_path / "index.sqlite").write_bytes(b"SQLite format 3\0 but broken" * 100)
    assert [one.id for one in runs_in(tmp_path)] == ["b"]


def test_a_process_that_was_stopped_in_the_index_stops_nobody(tmp_path, monkeypatch):
    """While it keeps the index, which may be for ever, the first question waits a moment and the next ones do not; all see what is there."""
    write_record(tmp_path, example("a"))
    assert [one.id for one in runs_in(tmp_path)] == ["a"]
    holder = sqlite3.connect(tmp_path / "index.sqlite")
    holder.execute("BEGIN EXCLUSIVE")
    waits_s, connect = [], sqlite3.connect

    def counted(place, timeout=0.0, **more):
        waits_s.append(timeout if str(place).endswith("index.sqlite") else 0)
        return connect(place, timeout=timeout, **more)

    monkeypatch.setattr(mlops_nb.record.sqlite3, "connect", counted)
    for number in range(10):
        write_record(tmp_path, example(f"b{number}"))
        assert len(runs_in(tmp_path)) == number + 2
        with at_one_moment(tmp_path):
            assert len(runs_in(tmp_path, status="succeeded")) == number + 2
    assert sum(waits_s) == mlops_nb.record.WAIT_S, "the first question waits, and no other"
    holder.close()
    (tmp_path / "records" / "a.json").unlink()
    assert len(runs_in(tmp_path)) == 10


def test_a_record_that_is_deleted_while_the_folder_is_listed(tmp_path, monkeypatch):
    """It is not there, and the others are."""
    for id in ("a", "b"):
        write_record(tmp_path, example(id))
    scan = os.scandir

    def deleted(folder) -> list:
        found = list(scan(folder))
        (tmp_path / "records" / "a.json").unlink()
        return found

    monkeypatch.setattr(mlops_nb.record.os, "scandir", deleted)
    assert [one.id for one in runs_in(tmp_path)] == ["b"]


def test_sorting_and_filtering(tmp_path):
    for number, (step, seconds) in enumerate([("train", 3.0), ("split", 1.0), ("train", 2.0)]):
        write_record(tmp_path / "runs", {**example(f"r{number}"), "step": step, "seconds": seconds, "pipeline": "stars" if number else None})
    (tmp_path / "settings.ini").touch()
    assert [one.id for one in runs(tmp_path)] == ["r2", "r1", "r0"]
    assert [one.id for one in runs(tmp_path, sort="seconds")] == ["r0", "r2", "r1"]
    assert [one.id for one in runs(tmp_path, step="train", limit=1)] == ["r2"]
    assert [one.id for one in runs(tmp_path, step="50_train.ipynb", limit=1)] == ["r2"]
    assert len(runs(tmp_path, pipeline="stars")) == 2
    with pytest.raises(UnknownRun, match="Did you mean 'seconds'"):
        runs(tmp_path, sort="second")
    assert find_run("train", tmp_path).id == "r2" and find_run("r0", tmp_path).id == "r0"
    with pytest.raises(UnknownRun, match="means 3 runs"):
        find_run("r", tmp_path)


def test_damaged_and_foreign_records_are_named(tmp_path):
    write_record(tmp_path, example("good"))
    for name, text in {"cut": '{"format": 1, "id": "cu', "later": '{"format": 99, "status": "succeeded"}', "odd": '{"format": 1, "status": "fine"}', "bare": '{"format":1,"status":"running"}', "text": '{"format":"1","status":"running"}', "other": '{"format":1,"status":"failed","id":"x"}'}.items():
        (tmp_path / "records" / f"{name}.json").write_text(text)
        with pytest.raises(BadStore):
            read_record(tmp_path, name)
    assert sorted(one.status for one in runs_in(tmp_path)) == ["damaged"] * 6 + ["succeeded"]


def test_runs_show_themselves_in_jupyter(tmp_path):
    write_record(tmp_path, example("a", results={"f1": 0.5, "note": "<script>"}, arguments={"seed": 1}))
    write_record(tmp_path, example("<b>", "failed", error={"kind": "E", "message": "<img>", "cell": None}))
    found = runs_in(tmp_path)
    assert "<img>" not in found._repr_html_() and "&lt;img&gt;" in found._repr_html_() and "f1 0.5" in found[1]._repr_html_()
    frame = found.frame()
    assert list(frame["results.f1"].dropna()) == [0.5] and frame["started"].dt.tz is not None
    assert len(runs_in(tmp_path / "none").frame()) == 0


def test_a_notebook_run_by_hand_leaves_no_record(tmp_path):
    assert not runs(write_notebook(tmp_path / "a.ipynb", "1"))


def test_a_run_of_another_machine_is_lost_when_it_gives_no_sign(tmp_path):
    """A run goes on for those on other machines as long as it gives signs, and is lost ten minutes after the last; one that never gave any is left as it is."""
    elsewhere = {**this_process(), "host": "far away", "pid": 1}
    for name in ("fresh", "silent", "old"):
        write_record(tmp_path, example(name, "running", process=elsewhere))
        (tmp_path / name).mkdir()
    (tmp_path / "fresh" / ".alive").touch()
    (tmp_path / "silent" / ".alive").touch()
    os.utime(tmp_path / "silent" / ".alive", (time.time() - 700,) * 2)
    found = {one.id: one for one in runs_in(tmp_path)}
    assert {name: one.status for name, one in found.items()} == {"fresh": "running", "silent": "lost", "old": "running"}
    assert found["silent"].error == "its machine, far, has given no sign of it for 10 minutes"


def test_a_run_gives_signs_while_its_cells_run(tmp_path):
    """The sign is there from the first cell on, and gone with the run."""
    path = write_notebook(tmp_path / "train.ipynb", "import os\nprint(os.path.exists(os.path.join('runs', os.environ['MLOPS_NB_RUN'], '.alive')))")
    found = run(path)
    assert "True" in found.notebook.read_text() and not (found.notebook.parent / ".alive").exists()
