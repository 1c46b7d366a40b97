"""What a check of notebooks finds, what it does not, what it mends, and how the command speaks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from making import PYTHON, cell, command
from realistic import NOTEBOOKS

from mlops_nb.check import check, check_notebook, find_notebooks, fix, without_outputs
from mlops_nb.errors import BadArgument, BadNotebook
from mlops_nb.finding import RULES, find_secrets, masked
from mlops_nb.requirement import declared

ROOT = Path(__file__).parents[1]
TEMPLATE, RESULT, OTHER = "nbs/pipelines/stars/10_fit.ipynb", "results/stars/10_fit.ipynb", "notes/a.ipynb"
AWS, GITHUB = "AKIA" + "QYLPMN5HHHFPZAM2", "ghp_" + "a1B2c3D4" * 5  # in parts, so that no other program takes them for real ones
PRINTED = {"output_type": "stream", "name": "stdout", "text": ["0.93\n"]}


def ran(source: str, count: int | None, *outputs: dict, tags: list[str] | None = None) -> dict:
    """Return a code cell that was run."""
    return {**cell(source, tags), "execution_count": count, "outputs": list(outputs)}


def text(source: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def write(path: Path, *cells: dict, **more) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": PYTHON, "cells": cells, **more}, indent=1), encoding="utf-8")
    return path


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty project that declares some packages, and the working folder in it."""
    (tmp_path / "settings.ini").touch()
    names = ["python=3.11", "pandas", "matplotlib", "scikit-learn", "pytorch", "seaborn", "requests", "safetensors", "pillow"]
    (tmp_path / "environment.yml").write_text("dependencies:\n" + "".join(f"  - {name}\n" for name in names))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(findings) -> set:
    return {(one.code, one.cell, one.line) for one in findings}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebooks_as_people_write_them(project, name):
    """In each realistic notebook exactly what is wrong is found, in its place."""
    source, expected = NOTEBOOKS[name]
    path = write(project / OTHER, *(cell(one.strip("\n")) for one in source.split("# %%\n")))
    assert places(check_notebook(path)) == expected


GOOD = cell("seed: int = 0  # of the draw", ["parameters"])
CASES = [  # name, where, cells, expected, words of message and remedy of the first
    ("a template", TEMPLATE, [text("# Fit"), GOOD, cell("print(seed)")], set(), ""),
    ("a template with a parameters cell that only says there are none", TEMPLATE, [cell("# none", ["parameters"])], set(), ""),
    ("no parameters", TEMPLATE, [cell("x = 1", ["paramters"])], {("NB601", None, None)}, "is tagged 'paramters'|Property Inspector"),
    ("parameters in text", TEMPLATE, [{**text("seed"), "metadata": {"tags": ["parameters"]}}, cell("1")], {("NB601", None, None)}, "no code cell"),
    ("no parameters, in a notebook that is no template", OTHER, [cell("x = 1")], set(), ""),
    ("two parameters cells", TEMPLATE, [GOOD, text("and"), cell("rate = 1", ["parameters"])], {("NB602", 2, None)}, "2 cells are tagged `parameters`: 1, 2|Keep the tag on one"),
    ("a contract that cannot be read", TEMPLATE, [cell("stars = Input(folder + '/x')", ["parameters"])], {("NB603", 1, None), ("NB201", 1, 1)}, "one literal text|no cell defines it"),
    ("outputs in a template", TEMPLATE, [GOOD, ran("1", None, PRINTED), ran("2", None, PRINTED)], {("NB604", 2, None)}, "outputs|--fix` removes them"),
    ("a count in a template", TEMPLATE, [ran("x = 1", 7, tags=["parameters"])], {("NB604", 1, None)}, "execution counts"),
    ("outputs in a notebook that is no template", OTHER, [ran("1", 9, PRINTED)], set(), ""),
    ("a template of a pipeline below a pipeline is none", "nbs/pipelines/stars/old/10_fit.ipynb", [ran("1", 9, PRINTED)], set(), ""),
    ("published, run from the top", RESULT, [ran("1", 1), text("and"), cell(""), ran("2", 2, PRINTED), ran("3", None, tags=["skip-execution"])], set(), ""),
    ("published, not all run", RESULT, [ran("1", 1), ran("2", None)], {("NB204", 2, None)}, "was not run|Run the notebook from the top"),
    ("published, run from the middle", RESULT, [ran("1", 3), ran("2", 1)], {("NB203", 1, None), ("NB203", 2, None)}, "In [3]|In [1] was to be expected|new kernel"),
    ("published, with an error", RESULT, [ran("1 / 0", 1, {"output_type": "error", "ename": "ZeroDivisionError", "evalue": "", "traceback": []})], {("NB205", 1, None)}, "ZeroDivisionError|raises-exception"),
    ("published, with an error that is meant", RESULT, [ran("1 / 0", 1, {"output_type": "error", "ename": "ZeroDivisionError"}, tags=["raises-exception"])], set(), ""),
    ("published without a template in the project", RESULT, [ran("np.mean(1)", 1)], {("NB201", 1, 1)}, "import numpy as np"),
    ("a key in an output", RESULT, [ran("1", 1, {"output_type": "execute_result", "data": {"text/html": [f"<b>{AWS}</b>"]}})], {("NB502", 1, None)}, "an AWS access key (AKIA…)|Revoke it"),
    ("a key in an error", OTHER, [ran("1", 1, {"output_type": "error", "ename": "E", "evalue": GITHUB, "traceback": [f"E: {GITHUB}"]})], {("NB502", 1, None)}, "a GitHub token (ghp_…)"),
    ("a key in what a widget shows", OTHER, [ran("1", 1, {"output_type": "display_data", "data": {"application/json": {"a": [GITHUB]}}})], {("NB502", 1, None)}, "a GitHub token"),
    ("letters like a key in a picture", OTHER, [ran("1", 1, {"output_type": "display_data", "data": {"image/png": f"/{AWS}/"}})], set(), ""),
    ("a key in a comment", TEMPLATE, [GOOD, cell(f"x = 1\n# {GITHUB}")], {("NB501", 2, 2)}, "Secret("),
    ("a key behind a shell line", OTHER, [cell(f"!aws configure set aws_access_key_id {AWS}")], {("NB501", 1, 1)}, "AWS"),
    ("a key in text", OTHER, [cell("1"), text(f"# Keys\n\n{AWS}")], {("NB501", None, None)}, "in line 3 of the text below cell 1"),
    ("an example of a key", OTHER, [cell('key = "AKIAIOSFODNN7EXAMPLE"')], set(), ""),
    ("an import that is declared and not there", OTHER, [cell("import seaborn")], {("NB303", 1, 1)}, "'seaborn'|Install seaborn, as declared"),
    ("an error that is meant", OTHER, [cell("undefined + 1", ["raises-exception"]), cell("x = (", ["raises-exception"])], set(), ""),
]  # fmt: skip


@pytest.mark.parametrize(("where", "cells", "expected", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_form_order_and_secrets(project, where, cells, expected, words):
    """Each rule finds its fault where it is, says what is wrong and what to do, and is silent where all is well."""
    found = check_notebook(write(project / where, *cells))
    assert places(found) == expected
    said = " ".join(f"{one.message} {one.remedy}" for one in found)
    assert all(part in said for part in words.split("|")), said


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "is empty"), (b'{"cells": [', "cut off"), (b"[]", "not a notebook"), (b"\xff\xfe", "not UTF-8"), (b'{\n<<<<<<< HEAD\n}', "conflict markers")],
)
def test_a_file_that_is_no_notebook(project, data, words):
    """It is a finding like any other, so that the rest of a folder is still checked."""
    (project / "a.ipynb").write_bytes(data)
    [one] = check_notebook(project / "a.ipynb")
    assert one.code == "NB101" and words in one.message and one.where == ""


def test_every_rule_is_shown_to_work():
    shown = {code for _, expected in NOTEBOOKS.values() for code, _, _ in expected} | {code for case in CASES for code, _, _ in case[3]} | {"NB101"}
    assert shown == {code for code in RULES if code < "NB7"}, "the others are about results and runs"


def test_a_published_notebook_with_a_template_is_checked_for_what_was_run(project):
    """Its code is the template's, where it is checked and where it would be mended."""
    code = "open('/home/ada/x.csv')"
    write(project / TEMPLATE, GOOD, cell(code))
    published = write(project / RESULT, ran("seed: int = 0", 1), ran(code, 4))
    assert places(check_notebook(published)) == {("NB203", 2, None)}
    assert places(check_notebook(project / TEMPLATE)) == {("NB301", 2, 1)}


def test_what_a_run_leaves_was_run_from_the_first_cell_to_the_last(project):
    """--executed holds for any notebook; the copy that a run executes passes."""
    write(project / "draw.ipynb", GOOD, text("# Draw"), cell("print(seed)"))
    assert command("run", "draw.ipynb", "-p", "seed=2", cwd=project).returncode == 0
    [executed] = (project / "runs").glob("*/draw.ipynb")
    assert check_notebook(executed, executed=True) == []
    assert places(check_notebook(project / "draw.ipynb", executed=True)) == {("NB204", 1, None), ("NB204", 2, None)}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = open('/home/ada/x.csv')  # noqa", set()),
        ("x = open('/home/ada/x.csv')  # noqa: NB301", set()),
        ("x = open('/home/ada/x.csv')  # noqa: E501, NB3", set()),
        ("x = open('/home/ada/x.csv')  # NOQA:NB301", set()),
        ("x = open('/home/ada/x.csv')  # noqa: E501", {("NB301", 1, 1)}),
        ("x = open(\n    '/home/ada/x.csv',\n)  # noqa: NB301", set()),
        ("# noqa\nx = open('/home/ada/x.csv')", {("NB301", 1, 2)}),
        ("np.mean(1)  # noqa: NB201\nnp.mean(2)", {("NB201", 1, 2)}),
        ("x = 'noqa'\nnp.mean(2)", {("NB201", 1, 2)}),
        ("for x in (  # noqa\n    (", {("NB102", 1, 2)}),
    ],
)
def test_a_comment_waives_a_line(project, source, expected):
    assert places(check_notebook(write(project / OTHER, cell(source)))) == expected


def test_settings_and_options_choose_the_rules(project):
    """Codes and beginnings of codes; what settings.ini ignores, nothing selects; an unknown code is refused."""
    write(project / OTHER, cell("import random\nopen('/home/ada/x.csv')\nrandom.random()\nnp"))
    codes = lambda *args: {one.code for one in check([OTHER], *args)[project / OTHER]}  # noqa: E731
    assert codes() == {"NB201", "NB301", "NB401"} and codes(["NB4", "NB201"]) == {"NB201", "NB401"} and codes([], ["NB"]) == set()
    (project / "settings.ini").write_text("[check]\nignore = NB301, NB4\n")
    assert codes() == {"NB201"} and codes(["NB301"]) == set() and {one.code for one in check_notebook(OTHER)} == {"NB201"}
    with pytest.raises(BadArgument, match="there is no rule 'NB3O1'"):
        check([OTHER], ["NB3O1"])
    (project / "settings.ini").write_text("[check]\nignore = NB30l\n")
    with pytest.raises(BadArgument, match="Did you mean 'NB30"):
        check([OTHER])


def test_which_notebooks_are_checked(project):
    """Templates and published notebooks; or what is named, and all below a folder that is named, but for hidden folders, environments and the store."""
    with pytest.raises(BadNotebook, match="mlops-nb check ."):
        find_notebooks()
    for name in (TEMPLATE, RESULT, OTHER, "a.ipynb", ".ipynb_checkpoints/a-checkpoint.ipynb", "env/lib/b.ipynb", "runs/x/c.ipynb", "nbs/.hidden/d.ipynb"):
        write(project / name, cell("1"))
    (project / "env/pyvenv.cfg").touch()
    assert find_notebooks() == [project / TEMPLATE, project / RESULT]
    assert find_notebooks(["."]) == [project / name for name in ("a.ipynb", TEMPLATE, OTHER, RESULT)]
    assert find_notebooks(["a.ipynb", "./a.ipynb", "notes"]) == [project / "a.ipynb", project / OTHER]
    with pytest.raises(BadNotebook, match="Did you mean 'notes'"):
        find_notebooks(["nots"])


FORMS = {
    "as Jupyter writes it": lambda text: text,
    "with four spaces": lambda text: json.dumps(json.loads(text), indent=4, ensure_ascii=False) + "\n",
    "with tabs": lambda text: json.dumps(json.loads(text), indent="\t"),
    "in one line": lambda text: json.dumps(json.loads(text), separators=(",", ":")),
    "from Windows": lambda text: text.replace("\n", "\r\n"),
    "with odd spaces": lambda text: text.replace(":", "  : ").replace(",\n", "\n ,\n"),
    "with a mark at its front": lambda text: "\ufeff" + text,
}


@pytest.mark.parametrize("form", FORMS)
def test_mending_changes_nothing_else(project, form):
    """Outputs and counts of a template go; every other character of the file stays, also the escapes that a program would write differently."""
    tricky = ran('x = "] } \\" [ {"  # outputs execution_count', 3, {**PRINTED, "text": ['"outputs": [1]', "é]"]})
    cells = [{**GOOD, "execution_count": 2}, text('"outputs": [ 1 ]'), tricky, ran("# noqa: NB604 and kept", 5, PRINTED), cell("1")]
    path = write(project / TEMPLATE, *cells)

    def formed() -> bytes:
        return FORMS[form](path.read_text(encoding="utf-8").replace(" and kept", " \\u00e9")).encode()

    before = formed()
    write(path, *({**one, "outputs": [], "execution_count": None} if index in (0, 2) else one for index, one in enumerate(cells)))
    after = formed()
    path.write_bytes(before)
    path.chmod(0o640)
    assert fix(check_notebook(path)) == [path]
    assert path.read_bytes() == after != before and path.stat().st_mode & 0o777 == 0o640
    assert "NB604" not in {one.code for one in check_notebook(path)} and fix(check_notebook(path)) == []


def test_mending_is_the_least_change():
    """What is left, and what is put in its place, are the only difference."""
    before = '{ "cells" :[\t{"outputs":\n[ {"text" : "]"} ] ,"cell_type":"code", "execution_count" : 12,"source" : "x"}\n,{"cell_type": "markdown", "source": "y"} ] , "nbformat":4}'
    assert without_outputs(before) == before.replace('[ {"text" : "]"} ]', "[]").replace("12", "null")
    old = '{"nbformat": 3, "worksheets": [{"cells": [{"cell_type": "code", "input": "x", "outputs": [1], "prompt_number": 3}]}]}'
    assert without_outputs(old) == old.replace("[1]", "[]").replace("3}]", "null}]")


def test_mending_follows_a_link_and_leaves_other_notebooks(project):
    target = write(project / "elsewhere" / "x.ipynb", {**GOOD, "execution_count": 1})
    other = write(project / OTHER, ran("1", 7, PRINTED))
    (project / TEMPLATE).parent.mkdir(parents=True)
    (project / TEMPLATE).symlink_to(target)
    fix([one for findings in check([TEMPLATE, OTHER]).values() for one in findings])
    assert (project / TEMPLATE).is_symlink() and '"execution_count": null' in target.read_text() and '"execution_count": 7' in other.read_text()


@pytest.mark.parametrize(
    "odd",
    [
        {"metadata": None}, {"metadata": {"tags": "parameters"}}, {"outputs": None}, {"outputs": [None, "x", {"data": None}, {"text": None}, {"data": {"text/plain": 3}}]}, {"execution_count": "7"},
        {"source": ["a = 1\n", "b"]}, {"source": "x = '\\ud800'"}, {"source": "x = '\x00'"}, {"source": "x = " + "+".join("1" * 5000)}, {"source": "x = " + "(" * 500}, {"source": "a\rb\x0cc\u2028d\re = f"},
        {"source": "x = 08"}, {"source": "\ufeffx = 1"}, {"source": "%"}, {"source": "!"}, {"source": "%%"}, {"source": "?"}, {"source": "%load_ext"}, {"source": "x = %"}, {"source": "from . import x\nfrom .. import *"}, {"source": "import sys; sys.path.append()"},
    ],
)  # fmt: skip
def test_odd_notebooks_break_nothing(project, odd):
    for where in (TEMPLATE, RESULT, OTHER):
        path = write(project / where, {**ran("x = 1", 1), **odd}, cell("from x import y"))
        check_notebook(path, executed=True)
        fix(check_notebook(path))


def test_no_secret_is_ever_printed(project):
    """Wherever it stands, a finding shows at most its first four characters."""
    sources = [f'open("/home/ada/{GITHUB}/x")', f'x = "{AWS}', f"{AWS} = {AWS} + 1", f'password = "{AWS}x9"', f"url = 'https://u:{GITHUB}@host/x'", f"%cd /home/{AWS}/"]
    write(project / TEMPLATE, *map(cell, sources), text(AWS), ran("1", 1, {**PRINTED, "text": f"{AWS} {GITHUB}"}))
    write(project / RESULT, ran("1", 1, {"output_type": "error", "ename": AWS, "evalue": GITHUB, "traceback": []}))
    for words in ([], ["--json"], ["--fix"]):
        done = command("check", *words, cwd=project)
        assert done.returncode == 1 and "NB501" in done.stdout and "NB502" in done.stdout
        for secret in (AWS, GITHUB):
            assert secret[:12] not in done.stdout + done.stderr
    assert list(find_secrets(masked(" ".join(sources)))) == []


def test_the_command(project):
    """One line for each finding, a summary apart from it; 0 where nothing is found, 1 where something is, 2 where it is refused."""
    write(project / TEMPLATE, {**GOOD, "execution_count": 1}, cell("print(sede)"))
    write(project / RESULT, ran("1", 1))
    done = command("check", cwd=project)
    assert done.returncode == 1 and done.stderr == "2 findings in 1 of 2 notebooks\n"
    assert done.stdout.splitlines() == [
        f"{TEMPLATE}: cell 1: NB604 a template holds outputs or execution counts. `mlops-nb check --fix` removes them, and nothing else.",
        f"{TEMPLATE}: cell 2, line 1: NB201 'sede' is used, and no cell defines it. Define it in a cell above, or import it. Did you mean 'seed'?",
    ]
    [_, listed] = json.loads(command("check", "--json", "../" + project.name, cwd=project).stdout)
    assert listed == {
        "code": "NB201", "path": TEMPLATE, "cell": 2, "line": 1, "message": "'sede' is used, and no cell defines it.", "remedy": "Define it in a cell above, or import it. Did you mean 'seed'?",
    }  # fmt: skip
    assert "no rule 'NB9'" in command("check", "--select", "NB9", cwd=project).stderr and command("check", "--select", "NB9", cwd=project).returncode == 2
    missing = command("check", "nowhere.ipynb", cwd=project)
    assert missing.returncode == 2 and missing.stderr.startswith("mlops-nb: there is nothing at nowhere.ipynb") and "Traceback" not in missing.stderr
    mended = command("check", "--fix", "--ignore", "NB2,NB3", cwd=project)
    assert (mended.returncode, mended.stdout) == (0, "") and mended.stderr == f"{TEMPLATE}: outputs and execution counts removed\n2 notebooks, and nothing found\n"
    assert command("check", "--rules", cwd=project).stdout.startswith("NB101  the file is not a notebook that can be read  (template, published, other)\n")


def test_it_answers_without_heavy_imports(project):
    write(project / TEMPLATE, GOOD, cell("import pandas, IPython, sklearn"))
    program = "import sys; sys.argv = ['mlops-nb', 'check']\nfrom mlops_nb.cli import main\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert "pyflakes.checker" in done.stderr
    assert not set(done.stderr.split()) & {"nbformat", "papermill", "jupyter_client", "pandas", "IPython", "sklearn", "numpy", "rich.table"}


def test_before_each_commit(project):
    """pre-commit takes the manifest, hands over the notebooks that change, and stops the commit; `--fix` mends it."""
    write(project / TEMPLATE, {**GOOD, "execution_count": 1})
    write(project / OTHER, cell("np.mean(1)"))
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    python = f"{sys.executable} -m mlops_nb"
    local = [{**hook, "entry": hook["entry"].replace("mlops-nb", python, 1), "language": "system"} for hook in hooks]
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": local}]}))
    bare = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {"PRE_COMMIT_HOME": str(project / ".cache"), "GIT_AUTHOR_NAME": "a"}

    def run(*words):
        return subprocess.run(words, cwd=project, env=bare, capture_output=True, text=True)

    precommit = [sys.executable, "-m", "pre_commit"]
    assert run(*precommit, "validate-manifest", str(ROOT / ".pre-commit-hooks.yaml")).returncode == 0
    assert run(*precommit, "validate-config", str(ROOT / ".pre-commit-config.yaml")).returncode == 0
    run("git", "init", "--quiet")
    run("git", "add", "--all")
    done = run(*precommit, "run", "mlops-nb-check")
    assert done.returncode == 1 and f"{TEMPLATE}: cell 1: NB604" in done.stdout and f"{OTHER}: cell 1, line 1: NB201" in done.stdout
    done = run(*precommit, "run", "mlops-nb-clear")
    assert done.returncode == 1 and "files were modified by this hook" in done.stdout
    (project / OTHER).unlink()
    run("git", "add", "--all")
    assert run(*precommit, "run", "--all-files").returncode == 0


def test_what_a_project_declares(tmp_path):
    """Each file that tools know is read for its names; a file that only sets up tools declares nothing."""
    files = {
        "pyproject.toml": '[project]\nname = "Stars"\ndependencies = ["numpy>=2"]\n[project.optional-dependencies]\nlab = ["Jupyter_Lab; python_version > \'3\'"]\n[dependency-groups]\ntest = ["pytest[x]", {include-group = "lab"}]\n'
        '[tool.poetry.dependencies]\npython = "^3.11"\nscipy = "*"\n[tool.poetry.group.dev.dependencies]\nruff = "*"\n',
        "environment.yaml": "name: stars\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11  # the oldest\n  - numba=0.60\n  - pip\n  - pip:\n    - 'polars'\n    - -r requirements.txt\nvariables:\n  - no-package\n",
        "requirements.txt": "--index-url https://example.org\n# old\npandas==3.0  # newest\ngit+https://example.org/x.git\nxarray @ https://example.org/x.whl\n",
        "requirements/dev.txt": "mypy\n",
        "setup.cfg": "[metadata]\nname = x\n[flake8]\nmax-line-length = 100\n",
        "setup.py": "from setuptools import setup\nsetup(install_requires=['astropy>=6'])\n",
        "Pipfile": '[packages]\nrequests = "*"\n[dev-packages]\ntox = "*"\n',
        "pixi.toml": "[dependencies]\nduckdb = '*'\n[pypi-dependencies]\nlightkurve = '*'\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = declared(tmp_path)
    assert found["pyproject.toml"] == {"stars", "numpy", "jupyter-lab", "pytest[x]", "scipy", "ruff"}
    assert found["environment.yaml"] == {"numba", "polars"} and {"pandas", "xarray"} <= found["requirements.txt"] and found["requirements/dev.txt"] == {"mypy"}
    assert "setup.cfg" not in found and "astropy" in found["setup.py"] and found["Pipfile"] == {"requests", "tox"} and found["pixi.toml"] == {"duckdb", "lightkurve"}
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 100\n")
    (tmp_path / "environment.yaml").write_text("not: [a list")
    assert not {"pyproject.toml", "environment.yaml"} & set(declared(tmp_path))


def test_imports_of_a_project_that_declares_nothing(tmp_path):
    """Only what is not installed is found; in another kernel's environment, nothing."""
    (tmp_path / "settings.ini").touch()
    (tmp_path / "helper.py").touch()
    source = "import helper, papermill, nowhere_to_be_found\nfrom . import other\nif True:\n    import maybe"
    [one] = check_notebook(write(tmp_path / "a.ipynb", cell(source)))
    assert (one.code, one.line) == ("NB303", 1) and "declare it in a requirements.txt" in one.remedy
    assert check_notebook(write(tmp_path / "a.ipynb", cell(source), metadata={"kernelspec": {"name": "other", "language": "python"}})) == []


def test_imports_that_a_declared_package_brings(tmp_path):
    """numpy comes with pandas; folders that are added to sys.path are looked into, and one that is computed is left alone."""
    (tmp_path / "requirements.txt").write_text("pandas\ndask[dataframe]\n")
    (tmp_path / "src").mkdir()
    (tmp_path / "lib").mkdir()
    (tmp_path / "src" / "one.py").touch()
    (tmp_path / "lib" / "two.py").touch()
    source = "import sys\nsys.path.append('lib')\nimport numpy, one, two, pyarrow\nimport papermill, three"
    (tmp_path / "settings.ini").touch()
    assert places(check_notebook(write(tmp_path / "a.ipynb", cell(source)))) == {("NB302", 1, 4)}
    hidden = check_notebook(write(tmp_path / "a.ipynb", cell(source + "\nsys.path.insert(0, folder())  # noqa")))
    assert [one.message.split()[0] for one in hidden] == ["'papermill'"]


def test_our_own_notebooks_pass(monkeypatch):
    """Templates, what is published, the library, the study and the tutorials."""
    monkeypatch.chdir(ROOT)
    found = {**check(), **check(["nbs"])}
    assert len(found) > 40 and {path.name: [one.message for one in findings] for path, findings in found.items() if findings} == {}
