"""Pipelines: what runs, in which order, from what, and what a failure stops."""

import json

import pytest
from making import PYTHON, write_notebook, write_project

import mlops_nb
from mlops_nb.errors import BadArgument, BadContract, BadPipeline, CellFailed, UnknownParameter
from mlops_nb.pipeline import run_pipeline

STARS = {
    "10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 3', 'open(stars, "w").write("0.85\\n" * rows)'),
    "20_train": (
        'stars = Input("data/stars.csv")\nmodel = Output("models/network")\nseed: int = 0',
        'import os; os.makedirs(model); open(model + "/weights", "w").write(open(stars).read() + str(seed)); glue("seed", seed)',
    ),
    "30_forest": ('stars = Input("data/stars.csv")\nmodel = Output("models/forest")\nseed: int = 0', 'open(model, "w").write(open(stars).read())'),
    "40_compare": (
        'network = Input("models/network/weights")\nforest = Input("models/forest")',
        'glue("sizes", [len(open(p).read()) for p in (network, forest)])',
    ),
}


@pytest.fixture
def project(tmp_path):
    """A project whose pipeline is a diamond."""
    return write_project(tmp_path, STARS)


def ran(ended) -> dict[str, str]:
    """Return status by step."""
    return {one.step: one.status for one in ended.runs}


def test_it_runs_in_the_order_of_the_graph(project):
    ended = run_pipeline(root=project, arguments={"ingest": {"rows": 5}, "train": {"seed": 7}})
    assert ended.succeeded and [one.step for one in ended.runs] == ["ingest", "train", "forest", "compare"]
    assert ended.runs[-1].results == {"sizes": [26, 25]}
    assert (project / "models" / "network" / "weights").read_text() == "0.85\n" * 5 + "7"
    assert all(one.pipeline == "stars" for one in ended.runs)


def test_a_step_reads_what_the_step_before_it_wrote(project):
    """By digest: what somebody else puts in the workspace meanwhile is not read."""
    from mlops_nb.jobs import Watch

    def meddle(run, was_there):
        if run.step == "ingest":
            (project / "data" / "stars.csv").write_text("from elsewhere")

    ended = run_pipeline(root=project, watch=Watch(on_end=meddle))
    assert ended.runs[-1].results == {"sizes": [16, 15]}


def test_a_failing_step_stops_what_depends_on_it_and_nothing_else(project):
    write_project(project, {"20_train": (STARS["20_train"][0], 'raise ValueError("no stars")')})
    ended = run_pipeline(root=project)
    assert ran(ended) == {"ingest": "succeeded", "train": "failed", "forest": "succeeded"}
    assert ended.skipped == {"compare": "it needs train, which failed"} and isinstance(ended.errors["train"], CellFailed)
    assert not (project / "models" / "network").exists(), "what a failed run wrote is not laid out"


def test_from_a_step_and_only_a_step(project):
    with pytest.raises(BadPipeline, match=r"40_compare.ipynb reads network = 'models/network/weights': run 'train' first"):
        run_pipeline(root=project, only="compare")
    run_pipeline(root=project)
    assert list(ran(run_pipeline(root=project, start="train"))) == ["train", "compare"]
    assert list(ran(run_pipeline(root=project, only="40_compare"))) == ["compare"]
    with pytest.raises(BadArgument, match="ingest.rows: 'ingest' is none of the steps that are to run, 'train'"):
        run_pipeline(root=project, arguments={"ingest": {"rows": 5}}, only="train")
    with pytest.raises(BadPipeline, match="cannot be given together"):
        run_pipeline(root=project, only="train", start="train")


def test_wrong_arguments_are_refused_before_the_first_step(project):
    for arguments, error in [
        ({"train": {"sede": 1}}, UnknownParameter),
        ({"train": {"seed": "one"}}, BadArgument),
        ({"tarin": {"seed": 1}}, BadPipeline),
        ({"forest": {"model": "models/network"}}, BadPipeline),
    ]:
        with pytest.raises(error):
            run_pipeline(root=project, arguments=arguments)
    assert not (project / "runs").exists()


def test_an_output_that_was_not_written_is_a_failure(project):
    write_project(project, {"10_ingest": (STARS["10_ingest"][0], "pass")})
    ended = run_pipeline(root=project)
    assert "declares stars = Output('data/stars.csv') and did not write it" in str(ended.errors["ingest"])
    assert ran(ended) == {"ingest": "failed"} and len(ended.skipped) == 3


def test_a_path_given_as_an_argument(project):
    """An input from elsewhere is named in the record, and in the notebook as the call that reads it."""
    (project / "other.csv").write_text("1.5\n")
    one = mlops_nb.run(project / "nbs/pipelines/stars/20_train.ipynb", {"stars": project / "other.csv", "model": "models/second"})
    assert one.record["inputs"]["stars"]["path"] == "other.csv" and (project / "models" / "second" / "weights").read_text() == "1.5\n0"
    injected = json.loads(one.notebook.read_text())["cells"][2]["source"]
    assert "".join(injected).splitlines()[1:] == ['stars = Input("other.csv")', 'model = Output("models/second")']


def test_an_input_from_outside_the_project(project, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "big.csv"
    elsewhere.write_text("2.5\n")
    one = mlops_nb.run(project / "nbs/pipelines/stars/30_forest.ipynb", {"stars": str(elsewhere)})
    assert one.record["inputs"]["stars"]["path"] == str(elsewhere) and (project / "models" / "forest").read_text() == "2.5\n"


def test_an_input_that_changes_meanwhile(project):
    """The record would be a lie, so the run fails."""
    (project / "data").mkdir()
    (project / "data" / "stars.csv").write_text("0.85\n")
    code = 'import time; open(stars, "a").write("0.86\\n"); open(model, "w").write("x")'
    write_project(project, {"30_forest": (STARS["30_forest"][0], code)})
    with pytest.raises(CellFailed, match="changed while the run read it"):
        mlops_nb.run(project / "nbs/pipelines/stars/30_forest.ipynb")


def test_stray_files_stay_in_the_run(project):
    """A template that declares its files works in its own folder: what it drops there does not litter the sources."""
    write_project(project, {"10_ingest": (STARS["10_ingest"][0], STARS["10_ingest"][1] + '\nopen("stray.log", "w").write("x")')})
    one = mlops_nb.run(project / "nbs/pipelines/stars/10_ingest.ipynb")
    assert (one.notebook.parent / "stray.log").exists()
    assert not list((project / "nbs").rglob("stray.log"))


def test_templates_run_by_hand(project):
    """Under a plain kernel, in its own folder, a template reads and writes under the project's root."""
    import nbclient
    import nbformat

    for name in ("10_ingest", "20_train"):
        path = project / "nbs" / "pipelines" / "stars" / f"{name}.ipynb"
        nbclient.NotebookClient(nbformat.read(path, 4), resources={"metadata": {"path": str(path.parent)}}).execute()
    assert (project / "models" / "network" / "weights").read_text() == "0.85\n" * 3 + "0"
    assert not (project / "runs").exists()


def test_an_undeclared_file_is_refused_inside_the_run(project):
    write_project(project, {"10_ingest": (STARS["10_ingest"][0], 'Input("data/other.csv")')})
    with pytest.raises(CellFailed, match=r"not declared in the `parameters` cell"):
        mlops_nb.run(project / "nbs/pipelines/stars/10_ingest.ipynb")


def test_arguments_by_the_name_of_the_file(project):
    """They count, and are checked, as those by the name of the step; both at once are refused."""
    ended = run_pipeline(root=project, arguments={"10_ingest": {"rows": 5}}, only="10_ingest")
    assert ended.runs[0].arguments["rows"] == 5
    with pytest.raises(UnknownParameter):
        run_pipeline(root=project, arguments={"10_ingest.ipynb": {"rwos": 5}})
    with pytest.raises(BadArgument, match="given twice"):
        run_pipeline(root=project, arguments={"10_ingest": {"rows": 5}, "ingest": {"rows": 5}})


@pytest.mark.parametrize("path", ["./data/stars.csv", "data//stars.csv", "ABSOLUTE"])
def test_a_path_in_another_form_is_the_same_edge(project, path):
    """However the path is written, the step waits for the one that writes it."""
    write_project(project, {"10_ingest": (STARS["10_ingest"][0], "1 / 0")})
    (project / "data").mkdir()
    (project / "data" / "stars.csv").write_text("old")
    given = str(project / "data/stars.csv") if path == "ABSOLUTE" else path
    ended = run_pipeline(root=project, arguments={"train": {"stars": given}})
    assert "train" in ended.skipped and "train" not in ran(ended)


@pytest.mark.parametrize("path", ["nbs", "nbs/pipelines/stars/x", "runs", ".git", "settings.ini"])
def test_an_output_in_the_place_of_the_project_itself_is_refused(project, path):
    write_notebook(project / "bad.ipynb", "import os; os.makedirs(out)", parameters=f'out = Output("{path}")')
    with pytest.raises(BadContract, match="folder of its own"):
        mlops_nb.run(project / "bad.ipynb")
    assert (project / "nbs" / "pipelines" / "stars" / "10_ingest.ipynb").exists()


def test_files_of_others_in_an_output_folder_stay(project):
    """A folder is replaced by what the run wrote; what somebody else put there is kept, what an earlier run wrote is not."""
    code = 'import os; os.makedirs(out); open(out + f"/{seed}.txt", "w").write(str(seed))'
    path = write_notebook(project / "t.ipynb", code, parameters='out = Output("figures")\nseed: int = 0')
    mlops_nb.run(path)
    (project / "figures" / "mine.txt").write_text("mine")
    mlops_nb.run(path, {"seed": 1})
    assert sorted(path.name for path in (project / "figures").iterdir()) == ["1.txt", "mine.txt"]


def test_a_file_made_by_hand_that_an_output_replaces_is_not_lost(project):
    """Its content is in the store, and the record says where."""
    (project / "notes.txt").write_text("by hand")
    one = mlops_nb.run(write_notebook(project / "t.ipynb", "open(out, 'w').write('by a run')", parameters='out = Output("notes.txt")'))
    assert (project / "notes.txt").read_text() == "by a run"
    digest = one.record["replaced"]["notes.txt"]
    assert (project / "runs" / "objects" / digest[:2] / digest[2:]).read_text() == "by hand"


@pytest.mark.parametrize("code", ["os.symlink(theirs, out)", "os.makedirs(out); os.symlink(theirs, out + '/x')"])
def test_an_output_that_is_a_link_leaves_what_it_leads_to_alone(project, tmp_path_factory, code):
    theirs = tmp_path_factory.mktemp("theirs")
    (theirs / "data.txt").write_text("theirs")
    path = write_notebook(project / "t.ipynb", f"import os; theirs = {str(theirs)!r}; {code}", parameters='out = Output("data/link")')
    with pytest.raises(CellFailed, match="link"):
        mlops_nb.run(path)
    assert (theirs / "data.txt").read_text() == "theirs"


def test_a_kernel_that_is_missing_stops_one_step(project):
    """The others run, and the error is told."""
    path = project / "nbs/pipelines/stars/20_train.ipynb"
    path.write_text(path.read_text().replace('"name": "python3"', '"name": "julia"'))
    ended = run_pipeline(root=project)
    assert ran(ended) == {"ingest": "succeeded", "forest": "succeeded"}
    assert "no kernel 'julia'" in str(ended.errors["train"]) and ended.skipped == {"compare": "it needs train, which was refused"}


def test_a_disk_that_fails_at_the_end_leaves_a_record(project, monkeypatch):
    """What was executed is never forgotten."""
    from mlops_nb.errors import BadStore
    from mlops_nb.execute import Copy

    monkeypatch.setattr(Copy, "finish", lambda *arguments: (_ for _ in ()).throw(BadStore("no space left on device")))
    with pytest.raises(CellFailed, match="no space left"):
        mlops_nb.run(project / "nbs/pipelines/stars/10_ingest.ipynb")
    [one] = mlops_nb.runs(project)
    assert one.status == "failed" and "no space" in one.error and one.notebook.exists()


def test_two_inputs_of_one_name(project, tmp_path_factory):
    """Files from elsewhere that are called alike, whose contents the store has, are two files."""
    paths = {}
    for name in ("a", "b"):
        paths[name] = tmp_path_factory.mktemp(name) / "stars.csv"
        paths[name].write_text(name)
        write_notebook(project / f"make_{name}.ipynb", f"open(out, 'w').write('{name}')", parameters=f'out = Output("made/{name}")')
        mlops_nb.run(project / f"make_{name}.ipynb")
    path = write_notebook(project / "t.ipynb", "glue('read', [open(p).read() for p in (a, b)])", parameters='a = Input("data/a")\nb = Input("data/b")')
    assert mlops_nb.run(path, paths).results == {"read": ["a", "b"]}


def test_a_file_and_the_folder_that_it_lies_in(project):
    """Both as inputs: the folder is whole."""
    project = write_project(project / "other", {
        "10_ingest": ('out = Output("data")', "import os; os.makedirs(out); [open(f'{out}/{n}.csv', 'w').write(n) for n in 'ab']"),
        "20_train": ('one = Input("data/a.csv")\nall = Input("data")', "import os; glue('names', sorted(os.listdir(all)))"),
    })  # fmt: skip
    ended = run_pipeline(root=project)
    assert [one.results.get("names") for one in ended.runs if one.step == "train"] == [["a.csv", "b.csv"]]


@pytest.mark.timeout(120)
def test_told_to_end_a_pipeline_ends(project):
    """SIGTERM to the runner ends the run as killed, and no other step is started. (Several at once: tests/test_jobs.py.)"""
    import signal
    import subprocess
    import sys
    import time

    write_project(project, {"20_train": (STARS["20_train"][0], f"import pathlib, time; pathlib.Path(stars).stat(); pathlib.Path({str(project / 'here')!r}).touch(); time.sleep(60)")})
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", "--jobs", "1"], cwd=project, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (project / "here").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and [one.status for one in mlops_nb.runs(project)] == ["killed", "succeeded"]
    assert "forest: not run, the pipeline was told to end" in said


def test_local_modules_in_two_steps_at_different_folders(tmp_path):
    """Each kernel has its own folder on the path, not the one of the process that runs it."""
    for name, value in (("one", 1), ("two", 2)):
        write_notebook(tmp_path / name / "t.ipynb", "import beside\nfrom mlops_nb import glue\nglue('value', beside.VALUE)", metadata=PYTHON)
        (tmp_path / name / "beside.py").write_text(f"VALUE = {value}\n")
        assert mlops_nb.run(tmp_path / name / "t.ipynb").results == {"value": value}
