"""From a file or a number back to what made it: nothing guessed, nothing left out."""

import json
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from making import command, write_project

from mlops_nb.errors import UnknownRun
from mlops_nb.pipeline import run_pipeline
from mlops_nb.publish import publish
from mlops_nb.record import runs, write_record
from mlops_nb.store import Store
from mlops_nb.trace import as_svg, trace

PIPELINE = {
    "10_split": (
        'stars = Input("raw/stars.csv")\nsplit = Output("data/split")',
        "import os\nos.makedirs(split)\nlines = open(stars).read().split()\n"
        'open(f"{split}/train.csv", "w").write("\\n".join(lines[:2])); open(f"{split}/test.csv", "w").write(lines[2])\nglue("rows", len(lines))',
    ),
    "20_train": (
        'train = Input("data/split/train.csv")\nmodel = Output("models/network.json")\nseed: int = 0',
        'import phase\nopen(model, "w").write(open(train).read() + str(seed + phase.period)); glue("macro_f1", 0.9712345); glue("rows", 2)',
    ),
    "30_test": (
        'split = Input("data/split")\nmodel = Input("models/network.json")\nfigure = Output("figures/scores.txt")',
        'open(figure, "w").write("ok"); glue("accuracy", 0.75)',
    ),
}


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
    return subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project under git, with an uncommitted edit, whose pipeline has run once with an argument."""
    root = write_project(tmp_path_factory.mktemp("project"), PIPELINE)
    (root / "raw").mkdir()
    (root / "raw" / "stars.csv").write_text("V1\nV2\nV3\n")
    (root / "nbs" / "pipelines" / "stars" / "phase.py").write_text("period = 0.4\n")
    (root / ".gitignore").write_text("/runs/\n/data/\n/models/\n/figures/\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-qm", "Begin")
    (root / "nbs" / "pipelines" / "stars" / "phase.py").write_text("period = 0.5\n")
    assert run_pipeline(root=root, arguments={"train": {"seed": 3}}).succeeded
    return root


@pytest.fixture
def project(finished, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(finished, tmp_path / "project", symlinks=True)


def id_of(root: Path, step: str) -> str:
    return runs(root, step=step)[0].id


def test_a_file_leads_back_to_what_came_from_outside(finished):
    """Each input comes from the run that wrote its bytes, down to the file that somebody put there."""
    found = trace("figures/scores.txt", finished)
    split, train, test = (id_of(finished, step) for step in ("split", "train", "test"))
    assert found.run == test and set(found.records) == {split, train, test}
    assert {name: content.run for name, content in found.reads[test].items()} == {"split": split, "model": train}
    assert found.reads[train]["train"].run == split, "a file within an output folder"
    outside = found.reads[split]["stars"]
    assert (outside.path, outside.size_bytes, outside.run) == ("raw/stars.csv", 9, None)
    text = str(found)
    assert text.count(f"{split}\n") == 1 and text.count(f"{split}, as above") == 1, "what is shared is shown once"
    assert f"at commit {git(finished, 'rev-parse', 'HEAD')[:12]}, with uncommitted changes in 1 file" in text
    assert "seed = 3" in text and "the defaults" in text and "phase.py" in text and "machine" in text and "from outside" in text
    assert trace("data/split", finished).run == trace("data/split/test.csv", finished).run == split


def test_a_folder_of_several_runs_comes_from_each(finished):
    found = trace(str(finished / "data"), finished)
    assert [(part.path, part.run) for part in found.content.parts] == [("data/split", id_of(finished, "split"))]
    assert "in it, data/split" in str(found)


def test_results_and_numbers(finished):
    """A result by its name, its step's, its run's or its notebook's; a number as it is rounded in a text."""
    train = id_of(finished, "train")
    notebook = finished / "runs" / train / "20_train.ipynb"
    for asked in ("macro_f1", "train.macro_f1", f"{train}:macro_f1", f"{train[-8:]}:macro_f1", "train:macro_f1", f"{notebook}:macro_f1", "0.971", "0.97123"):
        found = trace(asked, finished)
        assert (found.result, found.run) == (("macro_f1", 0.9712345), train), asked
    assert trace(str(notebook), finished).run == trace(train, finished).run == trace("train", finished).run == train
    assert str(trace("macro_f1", finished)).startswith(f"macro_f1 of the run {train} = 0.971235\n└─ {train}\n")
    for asked, said in [
        ("rows", "'split.rows', 'train.rows'"),
        ("macro_f", "Did you mean 'macro_f1'"),
        ("train:macro_f", "Did you mean 'macro_f1'"),
        ("0.123", "nothing is called"),
        ("models/network.json:macro_f1", "no notebook of a run"),
        ("nbs/pipelines/stars/20_train.ipynb:macro_f1", "no notebook of a run"),
        ("deadbeef", "nothing is called"),
    ]:
        with pytest.raises(UnknownRun, match=said):
            trace(asked, finished)


def test_digests(finished):
    train = id_of(finished, "train")
    record = runs(finished, step="train")[0].record
    inside = Store(finished / "runs").inside(runs(finished, step="split")[0].record["outputs"]["split"]["digest"], "test.csv")
    assert trace(record["outputs"]["model"]["digest"][:8], finished).run == trace(record["notebook"][:10], finished).run == train
    assert trace(inside[:10], finished).run == id_of(finished, "split"), "a file that was only ever part of a folder"
    assert trace(str(Store(finished / "runs").path(record["notebook"])), finished).run == train


def test_bytes_that_no_run_wrote(project):
    """A file that was changed since, or is gone, is not said to be what a run wrote."""
    model, train = project / "models" / "network.json", id_of(project, "train")
    model.chmod(0o644)
    model.write_text("better")
    changed = trace("models/network.json", project)
    assert changed.content.run is None and changed.run == train
    assert changed.notes[0].startswith("no run wrote the bytes of models/network.json") and f"was {train}, and its bytes differ" in changed.notes[0]
    model.unlink()
    assert "is not there now" in trace("models/network.json", project).notes[0]
    (project / "data" / "split" / "train.csv").unlink()
    (project / "data" / "split" / "train.csv").write_text("edited")
    assert "within data/split was" in trace("data/split/train.csv", project).notes[0]
    raw = trace("raw/stars.csv", project)
    assert raw.run is None and "it comes from outside; 1 run read it" in raw.notes[0] and "└─" not in str(raw)
    assert trace("settings.ini", project).run is None
    notebook = project / "runs" / train / "20_train.ipynb"
    notebook.write_text(notebook.read_text() + "\n")
    assert "its bytes differ" in trace(str(notebook), project).notes[0]


def test_a_run_that_came_later_is_not_the_origin(project):
    """The same bytes, written by a run after they had been read, were not read from there."""
    split = runs(project, step="split")[0].record
    copy = {**split, "id": "20990101T000000-copy-00000000", "step": "copy", "started": "2099-01-01T00:00:00Z", "ended": "2099-01-01T00:00:01Z"}
    write_record(project / "runs", {**copy, "inputs": {}, "outputs": {"stars": split["inputs"]["stars"]}, "notebook": None})
    assert trace("accuracy", project).reads[split["id"]]["stars"].run is None
    assert trace("raw/stars.csv", project).run == copy["id"]


def test_a_damaged_record_is_named(project):
    split = id_of(project, "split")
    (project / "runs" / "records" / f"{split}.json").write_text("{")
    found = trace("macro_f1", project)
    assert split in found.notes[0] and found.reads[found.run]["train"].run is None


def test_a_fresh_clone_answers_from_the_published_records(project, tmp_path):
    """There is no store and no output, and a number of a published notebook is traced all the same."""
    publish(root=project, arguments={"train": {"seed": 3}})
    clone = write_project(tmp_path / "clone", PIPELINE)
    shutil.copytree(project / "results", clone / "results")
    train, split = id_of(project, "train"), id_of(project, "split")
    for asked in ("macro_f1", "results/stars/20_train.ipynb", "results/stars/20_train.json", "results/stars/20_train.ipynb:macro_f1", "models/network.json"):
        found = trace(asked, clone)
        assert found.run == train and found.reads[train]["train"].run == split and found.packages[train] is not None, asked
    assert "results/stars/20_train.json" in str(trace("macro_f1", clone)) and "phase.py" in str(trace("macro_f1", clone))
    assert not (clone / "runs").exists(), "asking writes nothing"


def test_the_picture_shows_every_run_and_what_came_from_outside(finished):
    """Each text fits into its box, and no two boxes lie upon each other."""
    picture = ElementTree.fromstring(as_svg(trace("figures/scores.txt", finished)))
    boxes = [(group.find("{*}rect").attrib, [text.text for text in group.findall("{*}text")]) for group in picture.findall("{*}g")]
    assert sorted(texts[0] for _, texts in boxes) == ["figures/scores.txt", "raw/stars.csv", "split", "test", "train"]
    assert any("seed = 3" in texts for _, texts in boxes)
    corners = [(float(box["x"]), float(box["y"]), float(box["width"]), float(box["height"])) for box, _ in boxes]
    for (_, texts), (_, _, width, height) in zip(boxes, corners, strict=True):
        assert max(len(text) for text in texts) * 6.3 < width and len(texts) * 17 < height
    for one, (x, y, width, height) in enumerate(corners):
        assert not any(abs(x - x2) < width and abs(y - y2) < height for x2, y2, _, _ in corners[one + 1 :])
    assert len(picture.findall("{*}path")) == 5


def test_the_command(finished, tmp_path):
    done = command("trace", "macro_f1", "--svg", tmp_path / "made.svg", cwd=finished)
    assert done.returncode == 0 and done.stdout.startswith("macro_f1 of the run ") and ElementTree.parse(tmp_path / "made.svg")
    told = json.loads(command("trace", finished / "models" / "network.json", "--json", cwd=finished).stdout)
    assert told["runs"][told["run"]]["inputs"]["train"]["path"] == "data/split/train.csv" and told["runs"][told["run"]]["arguments"]["seed"] == 3
    refused = command("trace", "nowhere.csv", cwd=finished)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "nothing is called 'nowhere.csv'" in refused.stderr
