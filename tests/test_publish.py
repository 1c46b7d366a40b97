"""Published results are what the tree would give, and whoever looks at them is told when they are not."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from making import all_bytes, command, write_notebook

from mlops_nb.errors import BadPublication, BadRevision
from mlops_nb.pipeline import run_pipeline
from mlops_nb.plain import dump, load
from mlops_nb.publish import publish, stamp_of
from mlops_nb.published import check_published
from mlops_nb.step import run

SECRET = "tok-5f3a/09c1+zzz"
PHASE = '"""Phases."""\nPERIOD = 0.85\n\n\ndef fold(t):\n    """Fold."""\n    return t % PERIOD\n\n\ndef unused(t):\n    return t\n'
PICTURE = "import io, os, base64, zlib, struct\nfrom IPython.display import Image, HTML, display\n"
FOLD = (
    "import pulsar\nfrom phase import fold\nimport os\nos.makedirs(model)\nopen(f'{model}/weights', 'w').write(str(fold(float(open(stars).read())) * rate))\n"
    "print('\\n'.join(f'epoch {n} of {model}' for n in range(9000)))\nglue('folded', float(open(f'{model}/weights').read()))"
)
STEPS = {
    "10_ingest": ('raw = Input("raw.csv")\nhuge = Input("data/huge.csv")\nstars = Output("data/stars.csv")', "open(stars, 'w').write(open(raw).read().strip())"),
    "20_fold": ('stars = Input("data/stars.csv")\nmodel = Output("models/m")\nrate: float = 0.5', FOLD),
    "30_score": ('weights = Input("models/m/weights")\ntoken = Secret("ARCHIVE_TOKEN")', "import os\nprint(token.value, os.path.expanduser('~/x'))\nglue('score', 2 * float(open(weights).read()))"),
}  # fmt: skip
FOLDER = Path("nbs/pipelines/stars")


def git(root: Path, *words: str) -> str:
    identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def commit(root: Path, subject: str) -> None:
    git(root, "add", "--all")
    git(root, "commit", "-qm", subject)


def edit(path: Path, before: str, after: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """An installed package, `pulsar` 1.0; yields a function that installs another version of it."""
    site = tmp_path_factory.mktemp("env") / "site-packages"
    site.mkdir()
    (site / "pulsar.py").write_text("")

    def install(version: str) -> None:
        for old in site.glob("*.dist-info"):
            shutil.rmtree(old)
        folder = site / f"pulsar-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: pulsar\nVersion: {version}\n")
        (folder / "RECORD").write_text(f"pulsar.py,,\n{folder.name}/METADATA,,\n")

    install("1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("ARCHIVE_TOKEN", SECRET)
        patch.syspath_prepend(str(site))
        yield install


@pytest.fixture(autouse=True)
def version(package):
    """Every test begins with the version that the runs had."""
    package("1.0")
    return package


@pytest.fixture(scope="module")
def made(tmp_path_factory, package):
    """A project under git whose pipeline was run and published, with its store and its data."""
    root = tmp_path_factory.mktemp("made") / "project"
    for name, (parameters, code) in STEPS.items():
        write_notebook(root / FOLDER / f"{name}.ipynb", code, parameters=parameters)
    for name, text in {"settings.ini": "", ".gitignore": "/runs/\n/data/\n/models/\n__pycache__/\n", "raw.csv": "3.0\n", f"{FOLDER}/phase.py": PHASE,
                       "constraints.txt": "pulsar==1.0\nother==1\n", "data/huge.csv": "1\n"}.items():  # fmt: skip
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    git(root.parent, "init", "-q", "-b", "main", str(root))
    assert run_pipeline(root=root).succeeded
    published = publish(root=root)
    assert published.written == tuple(STEPS) and published.size_bytes < 100_000
    commit(root, "Fold stars")
    return root


@pytest.fixture
def project(made, tmp_path):
    """A copy of the project, store and data included."""
    shutil.copytree(made, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


@pytest.fixture
def clone(made, tmp_path):
    """A fresh clone: no store, no data."""
    git(tmp_path, "clone", "-q", str(made), "clone")
    assert not (tmp_path / "clone" / "runs").exists() and not (tmp_path / "clone" / "data").exists()
    return tmp_path / "clone"


def found(root: Path, **options) -> dict[str, list[str]]:
    """Return the messages by name of the published notebook."""
    by_name: dict[str, list[str]] = {}
    for one in check_published(root=root, **options).findings:
        assert one.remedy and one.path.parent == root / "results" / "stars"
        by_name.setdefault(one.path.stem, []).append(f"{one.code}: {one.message.removesuffix('.')}")
    return by_name


def test_a_fresh_clone_passes_without_store_and_data(clone):
    """What is in no repository cannot be compared there, and the check says so instead of passing it over."""
    checked = check_published(root=clone)
    assert checked.findings == () and len(checked.results) == 3
    assert checked.notes == ("data/huge.csv, which ingest reads, is not here, so its content was not compared",)
    assert found(clone, data=True) == {"10_ingest": ["NB708: it reads data/huge.csv, which is not here, so its content could not be compared"],
                                       **{name: [f"NB702: it reads {path}, which {step} writes, and what is published of {step} does not hold"]
                                          for name, path, step in (("20_fold", "data/stars.csv", "ingest"), ("30_score", "models/m/weights", "fold"))}}  # fmt: skip
    assert not (clone / "runs").exists() and git(clone, "status", "--porcelain") == "", "a look writes nothing"


def template(root: Path, change, name: str = "20_fold") -> None:
    path = root / FOLDER / f"{name}.ipynb"
    notebook = json.loads(path.read_text())
    change(notebook["cells"])
    path.write_text(json.dumps(notebook))


UPSTREAM = ["NB702: it reads models/m/weights, which fold writes, and what is published of fold does not hold"]
EDITS = {
    "prose": (lambda r: template(r, lambda cells: cells.insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# More"})), None),
    "outputs in the template": (lambda r: template(r, lambda cells: cells[2].update(outputs=[{"output_type": "stream", "name": "stdout", "text": "x"}])), None),
    "a comment and a docstring": (lambda r: edit(r / FOLDER / "phase.py", '"""Fold."""', '"""Fold a star."""  # by its period'), None),
    "a function that nothing reaches": (lambda r: edit(r / FOLDER / "phase.py", "    return t\n", "    return -t\n"), None),
    "a commit of something else": (lambda r: (r / "notes.md").write_text("x") and commit(r, "Notes"), None),
    "the code of a cell": (lambda r: template(r, lambda cells: cells[2].update(source=cells[2]["source"] + "\nprint(1)")), "the code of its cells changed"),
    "a default": (lambda r: edit(r / FOLDER / "20_fold.ipynb", "rate: float = 0.5", "rate: float = 0.25"), "argument rate changed (0.5 → 0.25)"),
    "a function": (lambda r: edit(r / FOLDER / "phase.py", "t % PERIOD", "t % (PERIOD)  + 0"), "nbs/pipelines/stars/phase.py: function fold changed"),
    "a constant": (lambda r: edit(r / FOLDER / "phase.py", "0.85", "0.86"), "nbs/pipelines/stars/phase.py: name PERIOD changed"),
    "another file": (lambda r: edit(r / FOLDER / "20_fold.ipynb", 'Input(\\"data/stars.csv\\")', 'Input(\\"raw.csv\\")'), "input stars changed"),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_is_named_where_it_counts(clone, case):
    """Prose passes. What a run would read is named, with both values where there are two, and the step behind it as well."""
    change, expected = EDITS[case]
    change(clone)
    messages = found(clone)
    if expected is None:
        assert messages == {}
    else:
        assert any(message.startswith(f"NB701: {expected}") for message in messages["20_fold"]) and messages["30_score"] == UPSTREAM
        assert set(messages) == {"20_fold", "30_score"}


def test_an_input_that_git_has(clone):
    """One byte is named by both digests; a file that is gone is no data that is merely elsewhere."""
    (clone / "raw.csv").write_text("3.1\n")
    [message] = found(clone)["10_ingest"]
    assert re.fullmatch(r"NB701: input raw changed \([0-9a-f]{8}… → [0-9a-f]{8}…\)", message)
    (clone / "raw.csv").unlink()
    assert found(clone)["10_ingest"] == ["NB701: input raw is gone: there is no raw.csv"]


def test_an_input_that_git_does_not_have_is_compared_where_it_lies(project):
    assert found(project, data=True) == {}
    (project / "data" / "huge.csv").write_text("2\n")
    assert found(project)["10_ingest"][0].startswith("NB701: input huge changed")


def test_a_package_of_another_version(clone, version):
    version("2.0")
    assert found(clone) == {"20_fold": ["NB701: pulsar 1.0 → 2.0"], "30_score": UPSTREAM}
    version("1.0+cpu")
    checked = check_published(root=clone)
    assert checked.findings == () and "pulsar 1.0" in checked.notes[-1], "another build is said, and does not count"


def test_a_package_that_is_not_installed(clone, version, monkeypatch):
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if not folder.endswith("site-packages") or Path(folder).is_relative_to(sys.prefix)])
    assert found(clone)["20_fold"] == ["NB701: 'pulsar' cannot be imported here"]


def test_steps_that_come_and_go(clone):
    shutil.copy(clone / FOLDER / "30_score.ipynb", clone / FOLDER / "40_again.ipynb")
    (clone / FOLDER / "30_score.ipynb").unlink()
    assert found(clone) == {
        "30_score": ["NB704: the pipeline 'stars' has no step '30_score' any more"],
        "40_again": ["NB703: again has no published result, and other steps of the pipeline have"],
    }
    shutil.rmtree(clone / FOLDER)
    assert [message.partition(":")[0] for messages in found(clone).values() for message in messages] == ["NB704"] * 3


# By hand: each is an edit of the published notebook (.ipynb) or record (.json) of the last step.


def rewritten(change):
    """Return an edit of the record that leaves its stamp right."""

    def rewrite(text: str) -> str:
        record = load(text)
        change(record)
        return dump({**record, "stamp": stamp_of(record)}, indent=1, sort=False)

    return rewrite


BY_HAND = {
    "a number in the notebook": (".ipynb", lambda text: re.sub(r'"data": 0\.\d+', '"data": 0.99', text), "the result score is 0.99 in the notebook and 0.4"),
    "a number in the record": (".json", lambda text: re.sub(r'"score": 0\.\d+', '"score": 0.99', text), "the result score is 0.4"),
    "a number in the record, and the stamp": (".json", rewritten(lambda record: record["results"].update(score=0.99)), "the result score is 0.4"),
    "what a cell printed": (".ipynb", lambda text: text.replace("*** ", "*** very good "), "the notebook was edited"),
    "an argument": (".json", rewritten(lambda record: record["key"]["parts"]["arguments"].update(weights="best")), "is not the one of the parts"),
    "an input": (".json", rewritten(lambda record: record["inputs"]["weights"].update(digest="0" * 64)), "the record was edited"),
    "the time": (".json", lambda text: text.replace('"started": "2', '"started": "3'), "the record was edited"),
    "no run": (".json", rewritten(lambda record: record.update(id="by hand")), "names no run"),
    "a run that failed": (".json", rewritten(lambda record: record.update(status="failed")), "names no run that succeeded"),
    "no key": (".json", rewritten(lambda record: record.update(key=None)), "not whole"),
    "a mark of another run": (".ipynb", lambda text: re.sub(r'"run": "\d', '"run": "9', text), "does not carry the run"),
    "a merge": (".json", lambda text: f"<<<<<<< ours\n{text}=======\n{text}>>>>>>> theirs\n", "conflict markers"),
    "a bare stamp": (".json", lambda text: '{"stamp": "0"}', "another version"),
    "nothing": (".json", lambda text: "", "not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", BY_HAND)
def test_what_was_edited_by_hand_is_refused(clone, case):
    ending, change, expected = BY_HAND[case]
    path = clone / "results" / "stars" / f"30_score{ending}"
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    messages = found(clone)
    assert list(messages) == ["30_score"] and any(expected in message for message in messages["30_score"]), messages
    assert all(message.startswith(("NB705", "NB706", "NB707")) for message in messages["30_score"])


def test_one_file_without_the_other(clone):
    (clone / "results/stars/30_score.json").unlink()
    (clone / "results/stars/20_fold.ipynb").unlink()
    messages = found(clone)
    assert messages["30_score"] == ["NB705: there is no record beside it, 30_score.json, so nobody can say what it was made from"]
    assert messages["20_fold"] == ["NB705: there is no notebook beside it, 20_fold.ipynb"]


def test_formatting_of_the_files_does_not_count(clone):
    """Line ends of Windows, another indentation: what a tool may do to a file in passing."""
    for path in (clone / "results/stars").iterdir():
        path.write_bytes(json.dumps(json.loads(path.read_text()), indent=4, sort_keys=True).replace("\n", "\r\n").encode())
    assert found(clone) == {}


# What a branch is held to.


def change_function(root: Path, to: str) -> None:
    edit(root / FOLDER / "phase.py", "t % PERIOD", f"t % PERIOD * {to}")


def test_a_branch_that_touches_nothing_passes_though_main_is_stale(clone):
    change_function(clone, "0.9")
    commit(clone, "Another period")
    git(clone, "checkout", "-qb", "prose")
    (clone / "notes.md").write_text("x")
    commit(clone, "Notes")
    checked = check_published(root=clone, since="main")
    assert checked.findings == () and [one.code for one in checked.excused] == ["NB701", "NB702"]
    assert len(check_published(root=clone).findings) == 2, "without --since it is said"
    change_function(clone, "0.95")
    assert found(clone, since="main") == {"20_fold": ["NB701: nbs/pipelines/stars/phase.py: function fold changed"]}, "and what it adds is its own"


def test_merges(clone):
    """Main is made stale and mended; a branch that merges it in is held to its own edits before, between and after."""
    git(clone, "checkout", "-qb", "work")
    edit(clone / FOLDER / "phase.py", '"""Phases."""', '"""Phases of stars."""')
    commit(clone, "Prose")
    git(clone, "checkout", "-q", "main")
    change_function(clone, "0.9")
    commit(clone, "Another period, not published")
    git(clone, "checkout", "-q", "work")
    assert found(clone, since="main") == {}
    git(clone, "merge", "-q", "-m", "Merge main", "main")
    assert found(clone, since="main") == {} and found(clone) != {}
    edit(clone / FOLDER / "10_ingest.ipynb", ".strip()", ".strip() + ''")
    commit(clone, "Other code")
    assert list(found(clone, since="main")) == ["10_ingest", "20_fold"]
    git(clone, "checkout", "-q", "main")
    git(clone, "revert", "--no-edit", "HEAD")
    git(clone, "checkout", "-q", "work")
    git(clone, "merge", "-q", "-m", "Merge main", "main")
    assert list(found(clone, since="main")) == ["10_ingest", "20_fold", "30_score"], "main is mended, so nothing is excused"
    git(clone, "revert", "--no-edit", "HEAD~1")
    assert found(clone) == {}


def test_a_package_counts_against_the_branch_that_changes_the_lock(clone, version):
    """Both trees are compared with what is installed, so the lock files say whose upgrade it is."""
    version("2.0")
    git(clone, "checkout", "-qb", "work")
    assert found(clone, since="main") == {}, "somebody else's upgrade"
    edit(clone / "constraints.txt", "other==1", "other==2")
    assert found(clone, since="main") == {}, "another package"
    edit(clone / "constraints.txt", "pulsar==1.0", "Pulsar==2.0")
    assert found(clone, since="main")["20_fold"] == ["NB701: pulsar 1.0 → 2.0"]


def test_a_number_edited_on_main_is_not_the_branch_s(clone):
    edit(clone / "results/stars/30_score.json", '"seconds": ', '"seconds": 1')
    commit(clone, "By hand")
    git(clone, "checkout", "-qb", "work")
    assert found(clone, since="main") == {}
    edit(clone / "results/stars/30_score.json", '"seconds": ', '"seconds": 2')
    assert list(found(clone, since="main")) == ["30_score"]


def test_a_project_that_is_a_folder_of_its_repository_with_a_package_installed_from_src(made, tmp_path, monkeypatch):
    """The other revision is laid out elsewhere; what is imported from there is that revision's, not what is installed."""
    root = tmp_path / "repository" / "project"
    shutil.copytree(made, root, ignore=shutil.ignore_patterns(".git", "runs", "results", "data", "models", "__pycache__"))
    (root / "src").mkdir()
    (root / FOLDER / "phase.py").rename(root / "src" / "phase.py")
    for name in ("10_ingest", "30_score"):
        (root / FOLDER / f"{name}.ipynb").unlink()
    edit(root / FOLDER / "20_fold.ipynb", "data/stars.csv", "raw.csv")
    monkeypatch.syspath_prepend(str(root / "src"))
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{os.environ['PYTHONPATH']}")
    git(tmp_path, "init", "-q", "-b", "main", "repository")
    assert run_pipeline(root=root).succeeded
    publish(root=root)
    edit(root / "src" / "phase.py", "0.85", "0.9")
    commit(root, "Stale")
    git(root, "checkout", "-qb", "work")
    assert found(root) == {"20_fold": ["NB701: src/phase.py: name PERIOD changed"]} and found(root, since="main") == {}
    edit(root / "src" / "phase.py", "t % PERIOD", "t // PERIOD")
    assert found(root, since="main") == {"20_fold": ["NB701: src/phase.py: function fold changed"]}


def test_a_revision_that_cannot_be_reached(clone, made, tmp_path):
    with pytest.raises(BadRevision, match="knows no revision 'origin/next'"):
        check_published(root=clone, since="origin/next")
    git(clone, "commit", "--allow-empty", "-qm", "One")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{clone}", "shallow")
    git(tmp_path / "shallow", "fetch", "-q", "--depth", "1", f"file://{made}", "main:other")
    with pytest.raises(BadRevision, match="shallow"):
        check_published(root=tmp_path / "shallow", since="other")


# Publishing.


def test_nothing_of_the_machine_and_no_secret_is_published(made):
    everything = all_bytes(made / "results")
    assert SECRET.encode() not in everything and b"***" in everything
    for trace in (str(made.parent), str(Path.home()), socket.gethostname() + " ", "namespace", '"papermill": {', "site-packages"):
        assert trace.encode() not in everything.replace(str(made).encode(), b""), trace
    assert "~/x" in (made / "results/stars/30_score.ipynb").read_text()


def test_a_large_output_is_cut_and_says_so(made):
    """The log of the second step has 160 kB; its beginning and its end are read on the forge."""
    notebook = json.loads((made / "results/stars/20_fold.ipynb").read_text())
    [text] = ["".join(output["text"]) for cell in notebook["cells"] for output in cell.get("outputs", []) if output["output_type"] == "stream"]
    assert text.startswith("epoch 0 of models/m\n") and text.rstrip().endswith("epoch 8999 of models/m")
    [left] = load((made / "results/stars/20_fold.json").read_text())["published"]["left_out"]
    assert f"[left out here: stdout, {left['size_bytes']:,} bytes, sha256 {left['digest'][:12]}…" in text and len(text) < 50_000
    assert left["what"] == "stdout" and left["size_bytes"] > 150_000 and (made / "results/stars/20_fold.ipynb").stat().st_size < 50_000


def test_a_result_that_lists_words_is_published_as_it_is(tmp_path):
    """The words of a list, and the columns of a table, are not the lines of one text."""
    cells = 'import pandas\nglue("names", ["log_period", "colour"])\nglue("table", pandas.DataFrame({"type": ["RRLyr"], "text": ["a"]}))\nglue("tree", {"text": ["a", "b"]})'
    write_notebook(tmp_path / "nbs/pipelines/stars/10_fit.ipynb", cells, parameters="seed: int = 0")
    (tmp_path / "settings.ini").touch()
    [fitted] = run_pipeline(root=tmp_path).runs
    publish(root=tmp_path)
    assert load((tmp_path / "results/stars/10_fit.json").read_bytes())["results"] == fitted.results
    assert fitted.results["names"] == ["log_period", "colour"] and fitted.results["table"]["table"]["columns"] == ["type", "text"] and fitted.results["tree"] == {"text": ["a", "b"]}


def test_publishing_again_changes_nothing(project):
    """Not on the same day, and not from a run of another machine that had the same key and wrote the same."""
    assert publish(root=project).unchanged == tuple(STEPS)
    again = run(project / FOLDER / "20_fold.ipynb", force=True)
    assert publish(root=project).unchanged == tuple(STEPS) and git(project, "status", "--porcelain") == ""
    assert publish(root=project, anew=True).written == tuple(STEPS)
    assert load((project / "results/stars/20_fold.json").read_text())["id"] == again.id and found(project) == {}


def test_what_is_not_fresh_is_not_published(project):
    """Nothing is written, and it says which step, why, and what to do."""
    change_function(project, "0.9")
    before = all_bytes(project / "results")
    with pytest.raises(BadPublication, match=r"fold is stale \(nbs/pipelines/stars/phase.py: function fold changed\); score is stale .*mlops-nb run stars"):
        publish(root=project)
    assert all_bytes(project / "results") == before
    shutil.rmtree(project / "runs")
    with pytest.raises(BadPublication, match="ingest is missing"):
        publish(root=project)


def test_a_step_that_is_gone_goes_and_what_others_put_there_stays(project):
    (project / FOLDER / "30_score.ipynb").unlink()
    (project / "results/stars/README.md").write_text("read me")
    write_notebook(project / "results/stars/notes.ipynb", "1")
    published = publish(root=project)
    assert published.removed == ("30_score",) and published.unchanged == ("10_ingest", "20_fold")
    names = {path.name for path in (project / "results/stars").iterdir()}
    assert names == {"10_ingest.ipynb", "10_ingest.json", "20_fold.ipynb", "20_fold.json", "README.md", "notes.ipynb"}
    assert found(project) == {"notes": ["NB705: there is no record beside it, notes.json, so nobody can say what it was made from"]}


def test_what_was_edited_by_hand_is_published_again(project):
    path = project / "results/stars/30_score.ipynb"
    edit(path, "*** ", "*** very good ")
    assert publish(root=project).written == ("30_score",) and git(project, "status", "--porcelain") == ""


def test_arguments_that_were_given(project):
    """A result of other arguments than the defaults is published with them, and is compared with them."""
    arguments = {"fold": {"rate": 0.25}}
    assert run_pipeline(arguments=arguments, root=project).succeeded
    published = publish(arguments=arguments, root=project)
    assert published.written == ("20_fold", "30_score") and found(project) == {}
    edit(project / FOLDER / "20_fold.ipynb", "rate: float = 0.5", "rate: float = 0.75")
    assert found(project) == {}, "a default that was not used"
    edit(project / FOLDER / "20_fold.ipynb", "rate: float = 0.75", "speed: float = 0.75")
    assert "declares no parameter 'rate'" in found(project)["20_fold"][0]


def test_an_input_from_outside_is_not_published(project, tmp_path):
    (tmp_path / "elsewhere.csv").write_text("3.0\n")
    arguments = {"ingest": {"raw": str(tmp_path / "elsewhere.csv")}}
    assert run_pipeline(arguments=arguments, root=project).succeeded
    with pytest.raises(BadPublication, match="lies outside the project"):
        publish(arguments=arguments, root=project)


def test_uncommitted_changes_are_told(project):
    """Results are committed together with the code that made them: the key vouches for it, and publishing says what is not committed yet."""
    template(project, lambda cells: cells[2].update(source=cells[2]["source"] + "\nprint(1)"), "30_score")
    edit(project / "results/stars/30_score.ipynb", "*** ", "*** very good ")
    assert run_pipeline(root=project).succeeded
    published = publish(root=project)
    assert published.written == ("30_score",) and published.uncommitted == ("nbs/pipelines/stars/30_score.ipynb",)
    commit(project, "Score again")
    assert publish(root=project, anew=True).uncommitted == (), "it has been committed since"
    git(project, "checkout", "-q", "--", ".")
    git(project, "checkout", "-q", "--orphan", "squashed")
    commit(project, "All of it")
    assert found(project) == {}, "commits do not count"


def test_on_the_command_line(project):
    """What was done, for people and for programs; a refusal is one sentence and exit code 2."""
    (project / "results/stars/30_score.json").unlink()
    done = command("publish", cwd=project)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("results/stars: 3 results, ")
    assert done.stdout.splitlines()[1:] == ["  written    30_score", "  unchanged  10_ingest", "  unchanged  20_fold"], "what it was made from has been committed since"
    (project / "results/stars/30_score.json").unlink()
    (project / ".gitignore").write_text((project / ".gitignore").read_text() + "# edited\n")
    assert command("publish", cwd=project).stdout.splitlines()[4:] == ["They were made from uncommitted changes. Commit these together with the results:", "  .gitignore"]
    done = json.loads(command("publish", "stars", "--json", cwd=project).stdout)
    assert done["folder"] == "results/stars" and done["unchanged"] == list(STEPS)
    refused = command("publish", "-p", "rate=0.1", cwd=project)
    assert (refused.returncode, refused.stdout) == (2, "") and "fold is stale (argument rate changed (0.5 → 0.1))" in refused.stderr
