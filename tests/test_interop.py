"""It works with papermill, nbconvert and kernels of other languages, and runs whatever papermill can run."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from making import PYTHON, write_notebook, write_project

import mlops_nb
from mlops_nb.errors import BadArgument, CellFailed, UnknownParameter

BIN = Path(sys.executable).parent


def papermill(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run papermill's own command."""
    return subprocess.run([BIN / "papermill", "--no-progress-bar", *words], cwd=cwd, capture_output=True, text=True, timeout=100)


def test_plain_papermill_runs_a_template(tmp_path):
    """Its own engine, its own injection; files lie under the project's root."""
    root = write_project(tmp_path, {"10_ingest": ('stars = Output("data/stars.csv")\nrows: int = 3', 'open(stars, "w").write("x" * rows); glue("rows", rows)')})
    done = papermill("nbs/pipelines/stars/10_ingest.ipynb", "out.ipynb", "-p", "rows", "5", cwd=root)
    assert done.returncode == 0, done.stderr
    assert (root / "data" / "stars.csv").read_text() == "xxxxx"


def test_papermill_with_our_engine(tmp_path):
    write_notebook(tmp_path / "in.ipynb", "print(seed)", parameters="seed = 1")
    done = papermill("--engine", "mlops-nb", "in.ipynb", "out.ipynb", "-p", "seed", "7", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "out.ipynb", 4).cells
    assert cells[-1].outputs[0].text == "7\n" and cells[-1].metadata.papermill.status == "completed"

    write_notebook(tmp_path / "in.ipynb", "import os; os.kill(os.getpid(), 9)", "print('never')")
    done = papermill("--engine", "mlops-nb", "in.ipynb", "out.ipynb", cwd=tmp_path)
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    code = [cell for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells if cell.cell_type == "code"]
    assert [cell.metadata.papermill.status for cell in code] == ["failed", "pending"]

    write_notebook(tmp_path / "in.ipynb", "print(seed)", parameters="seed = 1")
    done = papermill("--engine", "mlops-nb", "in.ipynb", "out.ipynb", "-p", "sede", "7", cwd=tmp_path)
    assert done.returncode != 0 and "Did you mean 'seed'" in done.stderr, "the contract is checked"

    write_notebook(tmp_path / "in.ipynb", "while True: pass")
    done = papermill("--engine", "mlops-nb", "--execution-timeout", "1", "in.ipynb", "out.ipynb", cwd=tmp_path)
    assert done.returncode != 0 and "took longer than 1 s" in done.stderr


def test_importing_the_engine_first_does_not_break_papermill():
    """papermill loads its engines while it is being imported; either order works."""
    for program in ("import mlops_nb.execute, papermill", "import papermill, mlops_nb.execute", "from mlops_nb.execute import Engine; import papermill.engines"):
        subprocess.run([sys.executable, "-c", program + "; papermill.engines.papermill_engines.get_engine('mlops-nb')"], check=True)


@pytest.fixture
def bash(tmp_path, monkeypatch):
    """A kernel of another language."""
    folder = tmp_path / "jupyter" / "kernels" / "bash"
    folder.mkdir(parents=True)
    spec = {"argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"], "display_name": "Bash", "language": "bash"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    return {"kernelspec": {"name": "bash", "language": "bash", "display_name": "Bash"}}


def bash_notebook(path: Path, metadata: dict, parameters: str, *sources: str) -> Path:
    """Write a notebook whose tagged cell is in Bash."""
    write_notebook(path, parameters, *sources, metadata=metadata)
    notebook = json.loads(path.read_text())
    notebook["cells"][0]["metadata"]["tags"] = ["parameters"]
    path.write_text(json.dumps(notebook))
    return path


def test_a_kernel_of_another_language(tmp_path, bash):
    path = bash_notebook(tmp_path / "p" / "t.ipynb", bash, 'name="Ada"\ncount=3', 'echo "$name $count"')
    one = mlops_nb.run(path, {"name": "Grace", "count": 5})
    assert "Grace 5" in one.notebook.read_text()
    with pytest.raises(UnknownParameter, match="Did you mean 'name'"):
        mlops_nb.run(path, {"nmae": "x"})
    with pytest.raises(BadArgument):
        mlops_nb.run(path, {"count": "many"})


def test_a_kernel_of_another_language_that_dies(tmp_path, bash):
    """Bash leaves by itself; the notebook says where."""
    path = write_notebook(tmp_path / "p" / "t.ipynb", "echo before", "kill -9 $PPID", "echo never", metadata=bash)
    with pytest.raises((CellFailed, mlops_nb.errors.RunKilled)):
        mlops_nb.run(path)
    [one] = mlops_nb.runs(tmp_path / "p")
    assert one.status in ("killed", "failed") and "never" not in str(nbformat.read(one.notebook, 4).cells[-1].outputs)


@pytest.mark.parametrize("metadata", [{}, {"language_info": {"name": "python"}}, PYTHON, {**PYTHON, "custom": {"a": 1}}])
def test_notebooks_that_say_little_about_their_kernel(tmp_path, metadata):
    path = write_notebook(tmp_path / "t.ipynb", "1 + 1", metadata=metadata)
    assert mlops_nb.run(path).status == "succeeded"


def test_what_other_tools_leave_in_a_notebook(tmp_path):
    """Old outputs, an earlier injection, empty cells, raw and markdown cells, odd metadata, a path with braces and blanks."""
    notebook = nbformat.v4.new_notebook(metadata=PYTHON)
    notebook.cells = [
        nbformat.v4.new_markdown_cell("# Title {x}"),
        nbformat.v4.new_code_cell("seed = 1", metadata={"tags": ["parameters", "keep"], "papermill": {"status": "failed"}}),
        nbformat.v4.new_code_cell("seed = 99", metadata={"tags": ["injected-parameters"]}),
        nbformat.v4.new_code_cell("", outputs=[]),
        nbformat.v4.new_raw_cell("raw"),
        nbformat.v4.new_code_cell("print(seed)", outputs=[nbformat.v4.new_output("stream", text="old")], execution_count=44),
    ]
    path = tmp_path / "a folder {with} braces" / "my notebook {1}.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    before = path.read_bytes()
    one = mlops_nb.run(path, {"seed": 7})
    executed = nbformat.read(one.notebook, 4)
    assert executed.cells[-1].outputs[0].text == "7\n" and path.read_bytes() == before
    assert [cell.metadata.get("tags") for cell in executed.cells if cell.cell_type == "code"][1] == ["injected-parameters"]
    assert str(tmp_path) not in json.dumps(executed.metadata)
