"""The command line, as processes: what it prints, how it exits, what it refuses."""

import json
import os
import pty
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from making import command, write_notebook, write_project

from mlops_nb.reproduce import run_to_reproduce

PIPELINE = {
    "10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 3  # of the catalogue', 'open(stars, "w").write("0.85\\n" * rows); glue("rows", rows)'),
    "20_train": ('stars = Input("data/stars.csv")\nrate: float = 0.1\nseed: int = 0', 'import pandas as pd\nglue("loss", float("nan")); glue("scores", pd.DataFrame({"model": ["a"], "f1": [0.51234567]}))'),
}


@pytest.fixture
def project(tmp_path):
    """A project with a pipeline of two steps."""
    return write_project(tmp_path, PIPELINE)


def test_a_whole_session(project):
    done = command("run", "-p", "ingest.rows=5", "-p", "rate=1e-2", cwd=project)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\[\d/2\] \w+: (cell \d|starting the)", line)]  # said of a step that takes more than ten seconds
    assert lines[0] == "[1/2] ingest: started" and lines[1].startswith("[1/2] ingest: succeeded in ") and lines[1].endswith("rows 5")
    [header, *notebooks] = done.stdout.splitlines()
    assert header == "The executed notebooks:" and all((project / line.split()[1]).exists() for line in notebooks) and len(notebooks) == 2

    listed = json.loads(command("runs", "--json", cwd=project).stdout)
    assert [(one["step"], one["status"]) for one in listed] == [("train", "succeeded"), ("ingest", "succeeded")]
    assert listed[0]["results"]["loss"] == {"float": "NaN"} and listed[0]["arguments"]["rate"] == 0.01
    assert "succeeded" in command("runs", "--step", "train", cwd=project).stdout
    assert json.loads(command("runs", "--status", "failed", "--json", cwd=project).stdout) == []

    shown = command("show", "train", cwd=project).stdout
    assert "rate = 0.01\n" in shown and "seed = 0  (default)" in shown and "data/stars.csv" in shown
    assert json.loads(command("show", listed[0]["id"], "--json", cwd=project).stdout)["status"] == "succeeded"
    printed = command("results", cwd=project).stdout
    assert "0.5123" in printed and "loss" in printed and "'ingest'" in printed
    assert "rows" in command("results", "stars", cwd=project).stdout
    assert json.loads(command("results", "train", "--json", cwd=project).stdout)["train"]["scores"]["table"]["columns"] == ["model", "f1"]


def test_results_of_a_step_that_failed_are_those_of_its_latest_success(project):
    """`show` means the run that failed; `results` and `reproduce` need one that succeeded, and say which it is."""
    assert command("run", cwd=project).returncode == 0
    [good] = [one["id"] for one in json.loads(command("runs", "--json", cwd=project).stdout) if one["step"] == "train"]
    write_notebook(project / "nbs/pipelines/stars/20_train.ipynb", "raise ValueError(stars)", parameters='from mlops_nb import Input\nstars = Input("data/stars.csv")')
    assert command("run", "--only", "train", cwd=project).returncode == 1
    done = command("results", "train", "--json", cwd=project)
    assert "loss" in json.loads(done.stdout)["train"] and "this is its latest that succeeded" in done.stderr
    assert json.loads(command("show", "train", "--json", cwd=project).stdout)["status"] == "failed"
    assert run_to_reproduce("train", project).id == good


def test_refusals_are_one_sentence_and_code_2(project):
    template = "nbs/pipelines/stars/20_train.ipynb"
    for words, said in [
        (["run", template, "-p", "sede=1"], "Did you mean 'seed'"),
        (["run", template, "-p", "seed=one"], "a whole number"),
        (["run", template, "-p", "seed"], "name=value"),
        (["run", template], "nothing at"),
        (["run", template, "--only", "train"], "one notebook"),
        (["run", "nowhere.ipynb"], "there is no notebook"),
        (["run", "satrs"], "Did you mean 'stars'"),
        (["run", "--only", "trian"], "Did you mean 'train'"),
        (["run", "-p", "sede=1"], "Did you mean 'seed'"),
        (["run", "-p", "trian.seed=1"], "Did you mean 'train'"),
        (["run", "--timeout", "0"], "above 0"),
        (["show", "train"], "no run yet"),
        (["results"], "has succeeded yet"),
        (["runs", "--status", "fine"], "is none of"),
        (["params", "trian"], "Did you mean 'train'"),
    ]:
        done = command(*words, cwd=project)
        assert done.returncode == 2 and said in done.stderr, (words, done)
        assert done.stderr.startswith("mlops-nb: ") and "Traceback" not in done.stderr and not done.stdout
    assert not (project / "runs").exists(), "nothing was written"
    assert "Traceback" in command("--debug", "run", "nowhere.ipynb", cwd=project).stderr


def test_an_argument_of_several_steps_must_say_which(tmp_path):
    write_project(tmp_path, {"10_a": ("seed: int = 0", "1"), "20_b": ("seed: int = 0", "1")})
    done = command("run", "-p", "seed=1", cwd=tmp_path)
    assert done.returncode == 2 and "say which, such as -p a.seed=1" in done.stderr


def test_a_failing_run_exits_with_1_and_says_why(tmp_path):
    write_notebook(tmp_path / "t.ipynb", "raise ValueError('no stars')")
    done = command("run", "t.ipynb", cwd=tmp_path)
    assert done.returncode == 1 and "t.ipynb: failed in cell 1: ValueError: no stars" in done.stderr
    assert command("show", "t", cwd=tmp_path).stdout.count("no stars") >= 1


def test_params_and_graph(project):
    printed = command("params", "ingest", cwd=project).stdout
    assert "of the catalogue" in printed and "data/stars.csv" in printed
    [_, rows] = json.loads(command("params", "nbs/pipelines/stars/10_ingest.ipynb", "--json", cwd=project).stdout)
    assert rows == {"name": "rows", "role": "value", "type": "int", "default": 3, "comment": "of the catalogue", "required": False}
    done = command("graph", "--svg", "graph.svg", cwd=project)
    assert "20_train  (after ingest)" in done.stdout
    assert len(ElementTree.parse(project / "graph.svg").findall(".//{*}rect")) == 2


def test_on_a_terminal_one_line_moves(tmp_path):
    """The line is rewritten in place, shows the last line of output, and ends as plain text."""
    write_notebook(tmp_path / "t.ipynb", "import time\nfor epoch in range(20): print('epoch', epoch, flush=True); time.sleep(0.2)")
    primary, secondary = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", "t.ipynb"], cwd=tmp_path, stderr=secondary, stdout=subprocess.DEVNULL) as process:
        os.close(secondary)
        written = b""
        try:
            while chunk := os.read(primary, 1000):
                written += chunk
        except OSError:
            pass
        process.wait(60)
    os.close(primary)
    text = written.decode()
    assert process.returncode == 0 and "\r" in text and "cell 1/1" in text and re.search(r"epoch \d", text)
    assert text.rstrip().splitlines()[-1].split("\x1b[K")[-1].startswith("t: succeeded in ")


def test_a_reader_that_goes_away(project):
    """`mlops-nb runs | head -0` prints no traceback."""
    many = "\n".join(f"p{number}: int = 0  # {'x' * 200}" for number in range(2000))
    write_notebook(project / "many.ipynb", "1", parameters=many)
    done = subprocess.run(f"{sys.executable} -m mlops_nb params many.ipynb --json | head -1", shell=True, cwd=project, capture_output=True, text=True)
    assert done.stdout == "[\n" and done.stderr == ""


def test_without_a_terminal_a_line_every_ten_seconds(monkeypatch):
    """A long step says where it is, and what it printed last; never more often."""
    import mlops_nb.terminal
    from mlops_nb.execute import Progress

    written, clock = [], [0.0]
    monkeypatch.setattr(mlops_nb.terminal.time, "monotonic", lambda: clock[0] + 1)
    display = mlops_nb.terminal.Display(live=False, write=written.append)
    display.step("train", 2, 3)
    for second in range(0, 50):  # after 20 s the cell is quiet: the clock goes on, and nothing new is said of it
        clock[0] = second
        display.progress(Progress(1, 4, float(second), f"epoch {min(second, 20)}"))
    assert written == ["[2/3] train: started\n", "[2/3] train: cell 1/4, 10.0 s  epoch 10\n", "[2/3] train: cell 1/4, 20.0 s  epoch 20\n"]


def test_a_fault_of_ours_is_one_line(project, monkeypatch):
    """An error that nobody foresaw has no traceback either, and an exit code of its own."""
    program = "import mlops_nb.cli as c, mlops_nb.record as r, sys\nr.runs = lambda **k: 1 / 0\nsys.argv = ['mlops-nb', 'runs']\nc.main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert done.returncode == 70 and done.stderr == "mlops-nb: a fault of mlops-nb itself: ZeroDivisionError: division by zero. --debug shows where.\n"


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["params", "train"], ["runs"], ["show", "nothing"], ["run", "--help"]])
def test_it_answers_without_heavy_imports(project, words):
    program = f"import sys; sys.argv = ['mlops-nb', *{words!r}]\nfrom mlops_nb.cli import main\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    loaded = set(done.stderr.split())
    assert "mlops_nb.cli" in loaded
    assert not loaded & {"nbformat", "papermill", "nbclient", "jupyter_client", "pandas", "numpy", "IPython", "zmq"}


def test_a_control_character_from_a_run_does_nothing_to_the_terminal(tmp_path):
    """It is seen instead: in a text, a number's name, a cell of a table, an argument, the differences. Line ends and tabs stay."""
    code = "import pandas as pd\nglue('t', note + 'a\\tb\\nc\\x9b2J\\r'); glue('n\\x1b[8m', 1.5); glue('table', pd.DataFrame({'x\\x07': ['\\x1b[2J']}))"
    root = write_project(tmp_path, {"10_say": ("note: str = ''", code)})
    ids = []
    for note in ("one\x1b]0;PWNED\x07", "two\x1b]0;PWNED\x07"):
        done = command("run", "nbs/pipelines/stars/10_say.ipynb", "-p", f"note={note}", cwd=root)
        assert done.returncode == 0 and not set(done.stderr) & set("\x1b\x07\x9b"), done.stderr
        ids.append(json.loads(command("runs", "--json", cwd=root).stdout)[0]["id"])
    for words in (["results", ids[0]], ["show", ids[0]], ["compare", *ids], ["compare", *ids, "--markdown"], ["runs"], ["status", "-p", f"note={note}"], ["why", "say"]):
        done = command(*words, cwd=root)
        assert done.returncode == 0 and not set(done.stdout + done.stderr) & set("\x1b\x07\x9b\r"), (words, done)
        if words[0] in ("results", "show"):
            assert "one\\x1b]0;PWNED\\x07a\tb\nc\\x9b2J\\x0d" in done.stdout
    write_notebook(root / "fails.ipynb", "raise ValueError(note)", parameters="note: str\nn: int = 0")
    for words in (["run", "fails.ipynb", "-p"], ["sweep", "fails.ipynb", "-p", "n=1,2", "-p"]):
        done = command(*words, "note=a\x1b]0;PWNED\x07", cwd=root)
        assert done.returncode == 1 and "\\x1b]0;PWNED\\x07" in done.stdout + done.stderr and not set(done.stdout + done.stderr) & set("\x1b\x07"), done
    found = command("results", ids[0], "--json", cwd=root).stdout
    assert "\x9b" not in found and json.loads(found)["say"]["t"] == "one\x1b]0;PWNED\x07a\tb\nc\x9b2J\r"
