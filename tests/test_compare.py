"""Two states of a project beside each other: what moved, and what made it move."""

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import pandas
import pytest
from making import command, write_notebook, write_project

from mlops_nb.compare import Comparison, Moved, Side, as_html, as_markdown, compare, draw_curve, lock_changes, notebook_changes, plain_text, read_locks, read_side, shown_change
from mlops_nb.drift import drift_of_column
from mlops_nb.errors import BadRevision
from mlops_nb.pipeline import run_pipeline
from mlops_nb.publish import publish
from mlops_nb.record import this_process, write_record
from mlops_nb.step import run
from mlops_nb.trials import Sweep, Trial, TrialRun

FIT = """
from stars.fit import fit
import numpy
values = [float(line) for line in open(catalogue)]
glue("score", fit(values, rate))
glue("curve", [rate * step for step in range(4)])
glue("count", len(values))
open(model, "w").write(str(rate))
"""


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A project of two steps with its own module, run, published and committed on `main`."""
    root = write_project(tmp_path_factory.mktemp("project") / "stars", {
        "10_ingest": ('catalogue = Output("stars.txt")\nstars: int = 3', 'open(catalogue, "w").write("1.5\\n" * stars)\nglue("stars", stars)'),
        "20_fit": ('catalogue = Input("stars.txt")\nmodel = Output("model.txt")\nrate: float = 0.5\nseed: int = 0', FIT),
    })  # fmt: skip
    (root / "nbs/pipelines/stars/stars").mkdir()
    (root / "nbs/pipelines/stars/stars/fit.py").write_text("def fit(values, rate):\n    return sum(values) * rate\n\n\ndef unused():\n    return 1\n")
    (root / ".gitignore").write_text("runs/\nstars.txt\nmodel.txt\n__pycache__/\n")
    run_pipeline(root=root)
    publish(root=root)
    git(root, "init", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-m", "First")
    return root


@pytest.fixture
def project(published, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(published, tmp_path / "stars", symlinks=True)


def edit(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_prose_changes_nothing(project):
    """A markdown cell and a comment are no change, and no step is told to be stale."""
    notebook = json.loads((project / "nbs/pipelines/stars/20_fit.ipynb").read_text())
    notebook["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# The fit"})
    (project / "nbs/pipelines/stars/20_fit.ipynb").write_text(json.dumps(notebook))
    found = compare("main", root=project)
    assert found.same
    assert "nothing changed" in str(found)


def test_the_function_that_changed_is_named(project):
    """An edit of a module names the function, the numbers, and by how much they moved; a function that nothing calls is no reason."""
    module = project / "nbs/pipelines/stars/stars/fit.py"
    edit(module, "return 1", "return 2")
    assert compare("main", root=project).same
    edit(module, "* rate", "* rate * 2")
    stale = compare("main", root=project)
    assert not stale.same and "fit is stale" in str(stale)
    run_pipeline(root=project)
    found = compare("main", root=project)
    [fit] = [one for one in found.steps if one.step == "fit"]
    assert fit.reasons["code"] == ("nbs/pipelines/stars/stars/fit.py: function fit changed",)
    assert {moved.name: moved.change for moved in fit.results if not moved.same} == {"score": 2.25}
    assert "| fit | score | 2.25 | 4.5 | +2.25, +100.00% |" in as_markdown(found)


def test_data_and_arguments_are_told_apart(project):
    """What an input holds is data; what a template is given is an argument."""
    arguments = {"ingest": {"stars": 4}, "fit": {"rate": 0.25}}
    run_pipeline(None, arguments, root=project)
    found = compare("main", root=project, arguments=arguments)
    ingest, fit = found.steps
    assert ingest.reasons == {"arguments": ("argument stars changed (3 → 4)",)}
    assert fit.reasons["arguments"] == ("argument rate changed (0.5 → 0.25)",)
    assert [text.partition(" (")[0] for text in fit.reasons["data"]] == ["input catalogue changed", "input catalogue: 12 → 16 bytes"]
    assert {moved.name for moved in fit.results if not moved.same} == {"score", "curve", "count"}


def test_another_version_of_a_package_is_told(project):
    """The published record names versions; one that differs today is a reason where the code reaches it, and told besides where not."""
    for name in ("10_ingest", "20_fit"):
        edit(project / f"results/stars/{name}.json", '"numpy": "', '"numpy": "0.')
    before, after = read_side("main", root=project), read_side(None, root=project)
    record = json.loads((project / "results/stars/20_fit.json").read_text())
    from mlops_nb.compare import compare_runs

    old = {step: replace(one, parts=record["key"]["parts"] if step == "fit" else one.parts, environment=record["environment"]) for step, one in before.steps.items()}
    fit = compare_runs("fit", old["fit"], after.steps["fit"])
    [told] = fit.reasons["environment"]
    assert told.startswith("numpy 0.") and not fit.besides
    ingest = compare_runs("ingest", old["ingest"], after.steps["ingest"])
    assert "environment" not in ingest.reasons and [text.partition(" ")[0] for text in ingest.besides] == ["numpy"]


def test_two_runs_are_compared_by_their_ids(project):
    """Runs that are no published results are compared as well, also where nothing is published."""
    first = run_pipeline(root=project, only="fit").runs[0]
    second = run_pipeline(None, {"fit": {"rate": 0.75}}, root=project, only="fit").runs[0]
    found = compare(first.id, second.id, root=project)
    assert [one.step for one in found.steps] == ["fit"]
    assert found.as_dict()["steps"][0]["reasons"]["arguments"] == ["argument rate changed (0.5 → 0.75)"]
    assert compare(first.id, root=project).same


def test_what_a_result_says_cannot_break_a_page(project):
    """Text out of a run is shown as text: it makes no tag, no table cell, no link, and calls nobody."""
    hostile = '</td><script>alert(1)</script> | [x](http://a) @everyone `a`'
    template = write_notebook(project / "a.ipynb", f"glue('said', {hostile!r} + str(number))", parameters="number: int = 1")
    assert command("run", template, cwd=project).returncode == 0
    assert command("run", template, "-p", "number=2", cwd=project).returncode == 0
    from mlops_nb.record import runs

    two, one = runs(project, step="a")
    found = compare(one.id, two.id, root=project)
    assert "<script" not in as_html(found) + as_markdown(found)
    line = next(line for line in as_markdown(found).splitlines() if line.startswith("| a | said"))
    assert line.count("|") == 6 and "@" not in line and "](" not in line


def test_the_command_prints_it_in_three_forms(project):
    """Text for people, Markdown for a pull request, JSON for programs; refusals are one sentence."""
    assert "nothing changed" in command("compare", "main", cwd=project).stdout
    assert "Nothing changed" in command("compare", "main", "--markdown", cwd=project).stdout
    assert json.loads(command("compare", "main", "--json", cwd=project).stdout)["same"] is True
    wrong = command("compare", "mian", cwd=project)
    assert wrong.returncode == 2 and wrong.stderr.startswith("mlops-nb: 'mian' is neither a run, nor a sweep, nor a revision here.")


def test_tables_are_compared_column_by_column(tmp_path):
    """An input that is a table and changed: rows, columns, types and drift, in the text, in JSON and in the page; told once, though two steps read it."""
    ingest = """
import numpy, pandas
draw = numpy.random.default_rng(seed)
table = pandas.DataFrame({"magnitude": draw.normal(15 + faint, 1, stars), "period": draw.normal(1, 0.1, stars), "field": draw.choice(["A", "B"], stars)})
(table.rename(columns={"field": "region"}) if faint else table).to_csv(catalogue, index=False)
"""
    read = ('catalogue = Input("stars.csv")', 'glue("rows", len(open(catalogue).readlines()))')
    root = write_project(tmp_path / "stars", {"10_ingest": ('catalogue = Output("stars.csv")\nstars: int = 800\nfaint: float = 0.0\nseed: int = 0', ingest), "20_fit": read, "30_plot": read})
    (root / ".gitignore").write_text("runs/\nstars.csv\n")
    run_pipeline(root=root)
    publish(root=root)
    for words in (("init", "-b", "main"), ("add", "-A"), ("commit", "-m", "First")):
        git(root, *words)
    words = ("-p", "ingest.stars=900", "-p", "faint=1.5", "-p", "seed=1")
    assert command("run", *words, cwd=root).returncode == 0
    done = command("compare", "baseline", *words, "--html", "page.html", "--notebooks", cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("stars.csv: 800 → 900 rows (+100, +12.5%)") == 1
    for text in ("columns that are new: 'region'", "columns that are gone: 'field'", "stars.csv: magnitude: drift 0.", "the baseline, main (", "fit: the executed notebook", "data: 901"):
        assert text in done.stdout, text
    assert "period: drift" not in done.stdout
    page = (root / "page.html").read_text()
    assert "data, column by column" in page and "<meter" in page and "<script" not in page and "Notebooks side by side" in page
    [table] = [table for step in json.loads(command("compare", "baseline", *words, "--json", cwd=root).stdout)["steps"] for table in step["tables"]]
    assert table["rows"] == [800, 900] and [drift["column"] for drift in table["drifts"] if drift["moved"]] == ["magnitude"]
    assert compare(".", root=root, pipeline="stars", arguments={"ingest": {"stars": 900, "faint": 1.5, "seed": 1}}).steps[0].missing == ""


def test_pictures_lie_side_by_side_with_their_likeness(tmp_path):
    """A figure that changed is shown twice, with its structural similarity; one that did not is not; a curve is drawn over the other; which way a result is wanted is said."""
    draw = """
import matplotlib.pyplot as plt
for name, scale in (("moved", rate), ("same", 1)):
    figure, axes = plt.subplots(figsize=(3, 2))
    axes.plot([0, 1, 2], [0, scale, 4 * scale])
    axes.set_ylim(0, 8)
    glue(name, figure)
    plt.close(figure)
glue("curve", [rate, rate / 2, rate / 3])
glue("loss", rate)
"""
    root = write_project(tmp_path / "stars", {"10_fit": ("rate: float = 0.5", draw)})
    (root / "settings.ini").write_text("[metrics]\nloss = lower, seeds 2\n")
    one, two = (run_pipeline(root=root, arguments={"fit": {"rate": rate}}).runs[0].id for rate in (1.0, 2.0))
    found = compare(one, two, root=root)
    [figure] = found.steps[0].figures
    assert figure.difference.name == "moved" and 0.3 < figure.likeness.mean < 1
    page = as_html(found)
    assert page.count("fit: moved, ") == 2 and "fit: same" not in page and "fit: curve, before and after" in page and f"likeness {figure.likeness.mean:.3f}" in page
    assert "+1, +100.00% (not as wanted: lower)" in str(found)
    assert found.as_dict()["steps"][0]["figures"] == [{"name": "moved", "likeness": figure.likeness.mean}]


def test_a_result_that_turns_nan_is_not_as_wanted():
    """NaN is neither lower nor higher than anything, and no percentage of it is printed; a result that was NaN and is a number is as wanted."""
    turned = Moved("loss", 0.5, math.nan, (True, True), False, "loss 0.5 → nan", "lower")
    assert turned.change is None
    assert shown_change(turned) == "it is no finite number (not as wanted: lower)"
    assert shown_change(replace(turned, before=math.nan, after=0.5)) == "it was no finite number (as wanted: lower)"
    assert shown_change(replace(turned, after=-math.inf)) == "it is no finite number (not as wanted: lower)"


def test_a_whole_number_beyond_every_float_is_compared_without_a_traceback(tmp_path):
    """In the text, in Markdown, in JSON and in the page."""
    template = write_notebook(tmp_path / "a.ipynb", "glue('big', 10**400 + number)\nglue('list', [10**400, 1, number])\nglue('grows', 10**(400 * number))", parameters="number: int = 0")
    (tmp_path / "settings.ini").write_text("[metrics]\ngrows = lower, seeds 2\n")
    one, two = (run(template, {"number": number}).id for number in (0, 1))
    found = compare(one, two, root=tmp_path)
    assert "grows  1 → 1000" in str(found) and "it is no finite number (not as wanted: lower)" in str(found)
    assert as_markdown(found) and as_html(found) and found.as_dict()["steps"][0]["results"][0]["change"] is None


def test_a_step_that_is_new_or_gone_is_no_silence(project):
    """Also where a tree has one step only: what one side lacks is named, and nobody says that nothing changed."""
    (project / "nbs/pipelines/stars/20_fit.ipynb").unlink()
    gone = compare("main", root=project)
    assert not gone.same and "the working tree has no step fit" in str(gone)
    for file in (project / "results/stars").glob("20_fit*"):
        file.unlink()
    git(project, "add", "-A")
    git(project, "commit", "-m", "One step")
    assert compare("HEAD", root=project).same
    git(project, "checkout", "main~1", "--", "nbs")
    new = compare("HEAD", root=project)
    assert not new.same and f"{new.before.name} has no step fit" in str(new)


def test_settings_of_two_sweeps_that_round_alike_are_two(tmp_path):
    """They are told apart by their exact values, and shown with as many digits as that takes."""
    def sweep(*rates):
        trials = tuple(Trial(number, {"rate": rate, "kind": "a"}, (TrialRun({}, "succeeded", results={"score": rate}),)) for number, rate in enumerate(rates))
        return Sweep("s", "a.ipynb", {}, {}, None, "grid", "score", "maximize", 0, len(rates), "", "", tmp_path, trials=trials)

    one, two = sweep(0.10001, 0.10002, 1), sweep(0.10001, 0.10003, 1.0)
    found = Comparison(Side("a", {}, sweep=one), Side("b", {}, sweep=two), ()).trials
    shown = {setting: (old and old.mean, new and new.mean) for setting, old, new in found}
    assert shown == {"kind=a, rate=1": (1, 1), 'kind="a", rate=0.10003': (None, 0.10003), 'kind="a", rate=0.10001': (0.10001, 0.10001), 'kind="a", rate=0.10002': (0.10002, None)}


    with_nan = Comparison(Side("a", {}, sweep=one), Side("b", {}, sweep=sweep(0.13, math.nan, 0.79, 0.76)), ()).trials
    assert [new.mean for _, _, new in with_nan if new][:3] == [0.79, 0.76, 0.13], "what is no number stands last"


def test_times_in_another_unit_have_not_moved(tmp_path):
    """A column of times that is kept to the microsecond and no longer to the nanosecond has the same times; times beside numbers are compared as categories."""
    times = pandas.Series(pandas.date_range("2020-01-01", periods=500, freq="h"), name="t")
    for one, other in (("ns", "us"), ("s", "ns"), ("ms", "ms")):
        found = drift_of_column(times.dt.as_unit(one), times.dt.as_unit(other))
        assert found.distance == 0 and not found.moved
    assert drift_of_column(times, times + pandas.Timedelta(days=9)).moved
    assert drift_of_column(times, pandas.Series(range(500), name="t")).summary[0].startswith("most often 2020-01-01")


def test_outputs_of_other_kinds_are_described_too(tmp_path):
    """A value that a cell returned and HTML that it showed, on both sides, in the text of the notebooks."""
    template = write_notebook(tmp_path / "a.ipynb", "from IPython.display import HTML, display\ndisplay(HTML(f'<b>{number}</b>'))\nnumber + 40", parameters="number: int = 1")
    (tmp_path / "settings.ini").touch()
    one, two = (run(template, {"number": number}).id for number in (1, 2))
    [text] = notebook_changes(compare(one, two, root=tmp_path))
    assert "<b>2</b>" in text and "42" in text


def test_a_run_without_results_is_refused(project):
    """One that is running, and one that was lost, in a sentence; nothing is raised that nobody understands."""
    done = run_pipeline(root=project, only="fit").runs[0]
    for status, said in (("running", "is running; it has no results yet"), ("lost", "is lost: it ended before anything was kept of it; it has no results")):
        record = {name: value for name, value in done.record.items() if name not in ("notebook", "results", "environment", "key")}
        write_record(done.store, {**record, "id": f"{done.id[:-8]}{status:0<8}", "status": status, "process": this_process()})
        with pytest.raises(BadRevision, match=said):
            compare("main", f"{done.id[:-8]}{status:0<8}", root=project)


def test_curves_are_drawn_the_same_each_time():
    """Two pages of one comparison are the same bytes."""
    assert draw_curve("loss", [3.0, 2.0, 1.0], [3.0, 1.0, 0.5]) == draw_curve("loss", [3.0, 2.0, 1.0], [3.0, 1.0, 0.5])


@pytest.mark.parametrize("values", [[1.0, 2.0, 1.5e308], [1.0, -1e308, 1e308], [1.0, math.inf, math.nan]])
def test_a_curve_that_diverges_is_drawn_as_far_as_it_can_be(values):
    """No value and no name of a result is a reason for a page not to be written."""
    assert "<svg" in draw_curve("train: cost_$_vs_gain_$", [3.0, 2.0, 1.0], values)


def test_pins_are_read_from_what_people_write(tmp_path):
    """Of a list in one line, a channel and a comment; an option of pip is no package. Of several files that differ, the one with an exact version is told."""
    (tmp_path / "pyproject.toml").write_text('requires-python = ">=3.11"\ndependencies = ["numpy>=1.0", \'rich==13.0\']\n[build]\nx = "y"\n')
    (tmp_path / "environment.yml").write_text("dependencies:\n  - python=3.11\n  - conda-forge::scipy=1.11  # fast\n")
    (tmp_path / "requirements.txt").write_text("--index-url=https://example.org\npandas==2.0 \\\n    --hash=sha256:abc\n")
    (tmp_path / "uv.lock").write_text('name = "numpy"\nversion = "2.4.6"\n')
    before = read_locks(tmp_path, ["*.toml", "*.yml", "*.txt", "*.lock"])
    assert before == {
        "environment.yml": {"python": "3.11", "scipy": "1.11"}, "pyproject.toml": {"numpy": ">=1.0", "rich": "13.0"}, "requirements.txt": {"pandas": "2.0"}, "uv.lock": {"numpy": "2.4.6"},
    }  # fmt: skip
    after = {**before, "pyproject.toml": {"numpy": ">=99", "rich": "13.0"}, "uv.lock": {"numpy": "99.1.0"}}
    assert lock_changes(before, after) == {"numpy": ("uv.lock", "2.4.6", "99.1.0")}


@pytest.mark.parametrize("text", ["https://evil.example/y", "www.evil.example", "see #12 and a/b#3", "a@evil.example", "@everyone", "$x^2$ costs $5", "a \u202e b"])
def test_no_address_no_issue_and_no_formula_begins_in_plain_text(text):
    """GitHub makes links of addresses also in text that was escaped, so an empty comment parts them; and what is shown is the same text."""
    made = plain_text(text)
    assert not re.search(r"://|www\.|(?<!&)[#@$]|\u202e", made)
    assert not re.search(r"://|www\.|[#@]\w", re.sub(r"<!-- -->", "\n", unescape(made)))
    assert unescape(made.replace("<!-- -->", "")) == text.replace("\u202e", "�")


def test_a_revision_without_published_results_is_refused(project):
    """There is nothing to compare with, and the sentence says so."""
    git(project, "rm", "-r", "--cached", "results")
    git(project, "commit", "-m", "Nothing published")
    with pytest.raises(BadRevision, match="nothing is published of 'stars' in HEAD"):
        compare(root=project)
