"""A secret is on the disk nowhere: not in the notebook, its metadata, the record, a patch, a log or an error."""

import json
import os
import subprocess
import sys
import time

import pytest
from making import all_bytes, command, write_notebook

from mlops_nb.errors import BadArgument
from mlops_nb.execute import Mask
from mlops_nb.step import run

VALUE = "tok-5f3a/09c1+zzz"
PARAMETERS = 'token = Secret("ARCHIVE_TOKEN")\nnote: str = ""'


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project under git whose template declares a secret, which is set."""
    monkeypatch.setenv("ARCHIVE_TOKEN", VALUE)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / ".gitignore").write_text("/runs/\n")
    return tmp_path


@pytest.mark.parametrize(
    "source",
    [
        "print(token.value)",
        "import sys\nfor part in token.value: print(part, end='', flush=True)",
        "token.value",
        "display({'a': [token.value]})",
        "raise ValueError(token.value)",
        "import sys; print(token.value, file=sys.stderr)",
        "import os; os.system('echo $ARCHIVE_TOKEN')",
        "import os; print(dict(os.environ))",
        "glue('leak', token.value); glue('nested', {'x': [token.value]})",
        "from IPython.display import HTML, display; display(HTML(f'<b>{token.value}</b>'), metadata={'x': token.value})",
        "import time\nprint(token.value, flush=True); time.sleep(3)\nimport os; os.kill(os.getpid(), 9)",
        "import os; os.write(1, token.value.encode())",
        "import html, urllib.parse as u, base64; v = token.value\nprint(html.escape(v), u.quote(v), u.quote(v, safe=''), u.quote_plus(v), base64.b64encode(v.encode()), v)",
        "raise ValueError('x' * 485 + token.value)",
        "import sys; sys.__stdout__.write(token.value); print('***')",
    ],
)
def test_a_secret_that_a_cell_lets_out(project, source):
    write_notebook(project / "t.ipynb", source, parameters=PARAMETERS)
    done = command("run", "t.ipynb", cwd=project)
    assert VALUE.encode() not in all_bytes(project / "runs"), done.stderr
    assert VALUE not in done.stdout + done.stderr
    shown = command("show", "t", "--json", cwd=project)
    assert json.loads(shown.stdout)["arguments"]["token"] == "ARCHIVE_TOKEN" and VALUE not in shown.stdout
    assert b"***" in all_bytes(project / "runs"), "it was printed, and masked"


def test_a_secret_is_in_no_file_when_the_command_is_killed(project, monkeypatch):
    """What a cell has written past Python is kept until it is masked, and then nobody is there to remove it."""
    (project / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(project / "tmp"))
    write_notebook(project / "t.ipynb", "import os, time\nos.write(1, token.value.encode() + b'\\n'); os.system('echo $ARCHIVE_TOKEN')\nopen('said', 'w').close(); time.sleep(60)", parameters=PARAMETERS)
    process = subprocess.Popen([sys.executable, "-m", "mlops_nb", "run", "t.ipynb"], cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ends_s = time.monotonic() + 60
    while not list(project.rglob("said")) and time.monotonic() < ends_s:
        time.sleep(0.1)
    time.sleep(1)
    process.kill()
    process.wait()
    assert list(project.rglob("said")) and VALUE.encode() not in all_bytes(project)


def test_it_is_masked_not_lost(project):
    write_notebook(project / "t.ipynb", "print('token', token.value, 'end')\nprint(token)", parameters=PARAMETERS)
    one = run(project / "t.ipynb")
    assert "token *** end\\n" in one.notebook.read_text() and "Secret('ARCHIVE_TOKEN')" in one.notebook.read_text()


def test_a_secret_given_as_another_argument(project):
    write_notebook(project / "t.ipynb", "print(note)", parameters=PARAMETERS)
    done = command("run", "t.ipynb", "-p", f"note=my {VALUE}", cwd=project)
    assert done.returncode == 0, done.stderr
    assert VALUE.encode() not in all_bytes(project / "runs")


def test_a_secret_in_an_edited_file(project):
    """The patch in the store does not hold it either."""
    (project / "notes.txt").write_text(f"token={VALUE}\n")
    write_notebook(project / "t.ipynb", "1", parameters=PARAMETERS)
    one = run(project / "t.ipynb")
    assert "notes.txt" in one.record["revision"]["changed"] and one.record["revision"]["patch"]
    assert VALUE.encode() not in all_bytes(project / "runs")


def test_forms_of_a_secret():
    """As it is written in HTML, in a URL and in base64; a number is one too."""
    mask = Mask({"PIN": "48151623", "TOKEN": "s3&kr3t pass/word"})
    for text in ("s3&amp;kr3t pass/word", "s3%26kr3t%20pass%2Fword", "s3%26kr3t+pass%2Fword", "czMma3IzdCBwYXNzL3dvcmQ="):
        assert mask.text(f"a{text}b").replace("=", "") == "a***b", text
    assert mask({"pin": 48151623, "other": 4815162, "flag": True}) == {"pin": "***", "other": 4815162, "flag": True}


def test_a_secret_of_another_template(project):
    """A step that declares no secret does not write those of the others: not by printing them, not in the patch."""
    write_notebook(project / "nbs/pipelines/p/10_a.ipynb", "1", parameters=PARAMETERS)
    (project / ".env").write_text(f"ARCHIVE_TOKEN={VALUE}\n")
    path = write_notebook(project / "nbs/pipelines/p/20_b.ipynb", "import os; print(os.environ['ARCHIVE_TOKEN'])", parameters="seed: int = 0")
    run(path)
    assert VALUE.encode() not in all_bytes(project / "runs")


@pytest.mark.parametrize("value", ["one line", 'with "quotes" and \\ backslash', "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----"])
def test_a_secret_in_a_patch(project, monkeypatch, value):
    """However a file writes it: as it is, or as JSON."""
    monkeypatch.setenv("ARCHIVE_TOKEN", value)
    (project / "plain.txt").write_text(value)
    (project / "config.json").write_text(json.dumps({"token": value}))
    write_notebook(project / "t.ipynb", "1", parameters=PARAMETERS)
    run(project / "t.ipynb")
    written = all_bytes(project / "runs")
    for line in value.splitlines():
        assert line.encode() not in written and json.dumps(line)[1:-1].encode() not in written


def test_papermill_with_our_engine_masks_too(project):
    write_notebook(project / "t.ipynb", "print(token.value)", parameters=PARAMETERS)
    subprocess.run(["papermill", "--engine", "mlops-nb", "--no-progress-bar", "t.ipynb", "out.ipynb"], cwd=project, check=True, capture_output=True, env={**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"})
    assert VALUE not in (project / "out.ipynb").read_text() and "***" in (project / "out.ipynb").read_text()


def test_a_secret_of_several_lines(project, monkeypatch):
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBg\nkqhkiG9w0BAQEF\n-----END KEY-----"
    monkeypatch.setenv("ARCHIVE_TOKEN", key)
    write_notebook(project / "t.ipynb", "print(token.value); print(repr(token.value))\nfor line in token.value.splitlines(): print('  ', line)", parameters=PARAMETERS)
    run(project / "t.ipynb")
    written = all_bytes(project / "runs")
    assert b"MIIEvQIBADANBg" not in written and b"kqhkiG9w0BAQEF" not in written


def test_a_secret_that_is_not_set_is_refused_before_a_kernel_starts(project, monkeypatch):
    monkeypatch.delenv("ARCHIVE_TOKEN")
    write_notebook(project / "t.ipynb", "1", parameters=PARAMETERS)
    with pytest.raises(BadArgument, match="ARCHIVE_TOKEN, which is not set"):
        run(project / "t.ipynb")
    assert not (project / "runs").exists() or not any((project / "runs" / "records").glob("*"))


def test_a_secret_too_short_to_be_masked_is_refused(monkeypatch):
    with pytest.raises(BadArgument, match="fewer than 4"):
        Mask({"TOKEN": "abc"})
    assert Mask({"TOKEN": "abcd"}).text("xabcdx") == "x***x"
    assert "ARCHIVE_TOKEN" not in os.environ


@pytest.mark.parametrize("value", ["data", "output_type", "succeeded", "stars.csv"])
def test_a_secret_that_could_not_be_masked(tmp_path, monkeypatch, value):
    """A word of every notebook, or part of a path that is declared, is refused before anything is written."""
    (tmp_path / "settings.ini").touch()
    path = write_notebook(tmp_path / "t.ipynb", "open(stars, 'w').write('x')", parameters='token = Secret("ARCHIVE_TOKEN")\nstars = Output("some/stars.csv")')
    monkeypatch.setenv("ARCHIVE_TOKEN", value)
    with pytest.raises(BadArgument, match="could not be masked") as refusal:
        run(path)
    assert repr(value) not in str(refusal.value) and not (tmp_path / "some").exists() and not list((tmp_path / "runs").glob("records/*"))
