"""The page and the comment on a change, and what they say first."""

import json
import re
import subprocess
from html.parser import HTMLParser

import pytest
from making import command, write_project

from mlops_nb.comment import read_statement

FIT = """
import random
from fitting import rate_of
luck = random.Random(seed)
curve = [1 / (1 + rate_of(rate) * n) + luck.gauss(0, 0.004) for n in range(12)]
glue("loss_curve", curve)
glue("score", 0.95 - curve[-1] / 10)
glue("said", SAID)
"""


def git(folder, *words):
    subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True, capture_output=True)


def write(root, said="'plain'"):
    write_project(root, {"10_train": ("rate: float = 0.5\nseed: int = 0", FIT.replace("SAID", said))})


@pytest.fixture
def project(tmp_path):
    """A project whose main is published, cloned from a forge with a token in the URL."""
    root = tmp_path / "stars"
    write(root)
    (root / "nbs/pipelines/stars/fitting.py").write_text("def rate_of(rate):\n    return rate\n")
    (root / "settings.ini").write_text("[metrics]\nscore = higher, tolerance 0.001, seeds 2\n[gate]\nmax_seeds = 2\n")
    (root / ".gitignore").write_text("runs/\nreport/\n__pycache__/\n")
    assert command("run", cwd=root).returncode == 0
    assert command("publish", cwd=root).returncode == 0
    git(root, "init", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-m", "First")
    git(root, "remote", "add", "origin", "https://x-access-token:hunter2hunter2@github.com/someone/stars.git")
    return root


class Page(HTMLParser):
    """Collects tags, and what would be loaded."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "poster", "data", "background") or (tag == "link" and name == "href")]


def test_a_changed_function_is_named_with_both_curves_and_the_verdict_first(project):
    """One page without script or network, one comment; the function, its diff, both curves, the difference with its interval, exit code 1; no token."""
    (project / "nbs/pipelines/stars/fitting.py").write_text("def rate_of(rate):\n    return rate * 0.4\n")
    assert command("run", cwd=project).returncode == 0
    done = command("report", cwd=project)
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith("does not pass: score: worse: −0.015")
    assert ", 95 % [" in done.stdout
    html, markdown = ((project / "report" / name).read_text() for name in ("report.html", "report.md"))
    page = Page(html)
    assert "script" not in page.tags and all(one.startswith("data:image/") for one in page.loads)
    assert html.index("does not pass") < html.index("What counts") < html.index("What changed")
    for text in ("fitting.py: function rate_of", "+    return rate * 0.4", "train: loss_curve, before and after", "Student 1908"):
        assert text in html
    assert markdown.startswith("<!-- mlops-nb report -->\n\n### ❌ does not pass")
    assert "fitting.py: function rate_of changed" in markdown
    assert "https://mybinder.org/v2/gh/someone/stars/" in markdown
    statement = read_statement((project / "report/report.json").read_bytes())
    assert (statement.headline, statement.metrics[0].verdict, statement.commit) == ("does not pass", "worse", None)  # the change is in no commit
    assert "hunter2" not in html + markdown + str(statement)
    commit = subprocess.run(["git", "rev-parse", "main"], cwd=project, capture_output=True, text=True, check=True).stdout.strip()
    assert f"mlops-nb gate stars --against {commit} --max-seeds 2" in markdown  # the same verdict when main has gone on
    alone = command("report", "--no-gate", cwd=project)
    assert alone.stdout.startswith("not judged: the gate was not asked, so nobody can say"), alone.stdout
    assert ", 95 % [" in markdown


def test_a_change_of_prose_is_said_to_change_nothing(project):
    """Nothing to run, nothing changed, exit code 0."""
    file = project / "nbs/pipelines/stars/10_train.ipynb"
    notebook = json.loads(file.read_text())
    notebook["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "The end."})
    file.write_text(json.dumps(notebook))
    done = command("report", cwd=project)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nothing changed: nothing to run, nothing changed")


def test_a_hostile_result_stays_text(project):
    """Tags, table cells, links and names of people in a result change neither the page nor the comment."""
    write(project, said='"</td><script>alert(1)</script><img src=http://evil.example/x> | [a](http://evil.example) @everyone"')
    assert command("run", cwd=project).returncode == 0
    command("report", "--no-gate", cwd=project)
    html, markdown = ((project / "report" / name).read_text() for name in ("report.html", "report.md"))
    page = Page(html)
    assert "script" not in page.tags and all(one.startswith("data:image/") for one in page.loads)
    assert "<script" not in markdown and "<img" not in markdown
    assert "alert(1)" in markdown
    for outside in re.sub(r"<(code|pre)>.*?</\1>", "\n", markdown, flags=re.DOTALL).splitlines():
        assert "alert" not in outside and "evil" not in outside


def test_one_run_has_a_report_of_its_own(project):
    """What it gave, its arguments, how to have it again; beside the baseline, and without a baseline too. It is nothing to post."""
    run = json.loads(command("runs", "--json", cwd=project).stdout)[0]["id"]
    done = command("report", run, "--folder", "one", cwd=project)
    assert done.returncode == 0 and done.stdout.startswith("train: succeeded")
    html, markdown = ((project / "one" / name).read_text() for name in ("report.html", "report.md"))
    assert "Beside the baseline" in html and f"mlops-nb reproduce {run}" in html and "script" not in Page(html).tags
    assert "| score |" in markdown and not (project / "one/report.json").exists()
    git(project, "rm", "-r", "--cached", "results")
    git(project, "commit", "-m", "Nothing published")
    alone = command("report", run, "--folder", "one", cwd=project)
    assert alone.returncode == 0 and "Beside the baseline" not in (project / "one/report.html").read_text()
    wrong = command("report", "nothing-like-it", cwd=project)
    assert wrong.returncode == 2 and "no run and no step is called" in wrong.stderr


def test_a_sweep_has_a_report_of_its_own(project):
    """The best setting first, the trials, the picture, the command that has it again; two sweeps are compared setting by setting."""
    assert command("report", "--sweep", cwd=project).returncode == 2
    words = ("sweep", "nbs/pipelines/stars/10_train.ipynb", "-p", "seed=0:2", "--maximize", "score")
    assert command(*words, "-p", "rate=0.2,0.5,0.9", cwd=project).returncode == 0
    done = command("report", "--sweep", cwd=project)
    assert done.returncode == 0 and "Best: trial 2 (rate=0.9), score " in done.stdout, done.stderr
    html = (project / "report/report.html").read_text()
    assert "each parameter against score" in html and "--maximize score" in html and "mlops-nb reproduce" in html
    (project / "nbs/pipelines/stars/fitting.py").write_text("def rate_of(rate):\n    return rate * 2\n")
    assert command(*words, "-p", "rate=0.2,0.9", cwd=project).returncode == 0
    ids = [file.stem for file in sorted((project / "runs/sweeps").glob("*.json"), key=lambda file: file.stat().st_mtime)]
    assert len(ids) == 2
    found = json.loads(command("compare", *ids, "--json", cwd=project).stdout)
    assert [(one["setting"], one["before"]["n"], one["after"] and one["after"]["n"]) for one in found["trials"]] == [("rate=0.9", 2, 2), ("rate=0.2", 2, 2), ("rate=0.5", 2, None)]
    assert found["steps"][0]["reasons"]["code"] == ["nbs/pipelines/stars/fitting.py: function rate_of changed"]
    assert "not tried" in command("compare", *ids, cwd=project).stdout


def test_a_changed_pin_is_seen_in_the_lock_before_it_is_installed(project):
    """The pin is named as text. Where the code reaches the package, nothing here tried it: that is said, and it is not called unchanged."""
    template = project / "nbs/pipelines/stars/10_train.ipynb"
    template.write_text(template.read_text().replace("import random", "import random, packaging.version"))
    (project / "constraints.txt").write_text("packaging==1.0\nrich==1.0\n")
    assert command("run", cwd=project).returncode == 0 and command("publish", cwd=project).returncode == 0
    git(project, "add", "-A")
    git(project, "commit", "-m", "A lock")
    (project / "constraints.txt").write_text("packaging==1.0\nrich==2.0\n")
    done = command("report", cwd=project)
    assert done.returncode == 0 and done.stdout.startswith("nothing changed"), done.stdout
    assert "constraints.txt</code>: <code>rich 1.0 → 2.0" in (project / "report/report.md").read_text()
    (project / "constraints.txt").write_text("packaging==2.0\nrich==1.0\n")
    done = command("report", cwd=project)
    assert done.stdout.startswith("not judged: with the packages that are installed, nothing to run") and "constraints.txt asks for packaging 2.0, and the runs here were made with" in done.stdout


def test_without_published_results_the_gate_itself_is_the_baseline(project):
    """What the gate ran of both sides is compared where the base has published nothing."""
    git(project, "rm", "-r", "--cached", "results")
    git(project, "commit", "-m", "Nothing published")
    (project / "nbs/pipelines/stars/fitting.py").write_text("def rate_of(rate):\n    return rate * 0.4\n")
    done = command("report", cwd=project)
    assert done.returncode == 1, done.stderr
    assert "function rate_of changed" in (project / "report/report.md").read_text()
    assert command("report", "--no-gate", cwd=project).returncode == 2


def test_a_pin_is_seen_also_where_nothing_was_published(project):
    """The lock of the base is read from its commit."""
    git(project, "rm", "-r", "--cached", "results")
    (project / "constraints.txt").write_text("rich==1.0\n")
    git(project, "add", "constraints.txt")
    git(project, "commit", "-m", "Nothing published")
    (project / "constraints.txt").write_text("rich==2.0\n")
    done = command("report", cwd=project)
    assert done.returncode == 0, done.stderr
    assert "constraints.txt</code>: <code>rich 1.0 → 2.0" in (project / "report/report.md").read_text()
