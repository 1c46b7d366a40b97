"""What a contract reads, what it converts, what it refuses."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from making import PYTHON, cell, write_notebook

from mlops_nb.errors import BadArgument, BadContract, BadNotebook, UnknownParameter
from mlops_nb.template import check_arguments, parse_arguments, parse_notebook, read_template


def template(tmp_path, parameters: str, metadata: dict = PYTHON):
    """Return a template with this `parameters` cell."""
    return read_template(write_notebook(tmp_path / "50_train.ipynb", parameters=parameters, metadata=metadata))


@pytest.mark.parametrize(
    ("declared", "text", "value"),
    [
        ("x: int = 1", "3", 3),
        ("x: int = 1", "-3", -3),
        ("x: float = 1.0", "1e-3", 0.001),
        ("x: float = 1.0", "3", 3.0),
        ("x: str = ''", "3", "3"),
        ("x: str = ''", "a=b, c", "a=b, c"),
        ("x: str = ''", "", ""),
        ("x: bool = False", "true", True),
        ("x: bool = True", "no", False),
        ("x: list[int] = []", "[1, 2]", [1, 2]),
        ("x: dict[str, float] = {}", '{"a": 1}', {"a": 1.0}),
        ("x: Literal['adam', 'sgd'] = 'adam'", "sgd", "sgd"),
        ("x: Literal[1, 2] = 1", "2", 2),
        ("x: Optional[int] = None", "none", None),
        ("x: Optional[int] = None", "5", 5),
        ("x: int | str = 1", "5", 5),
        ("x: int | str = 1", "five", "five"),
        ("x: 'int | None' = None", "5", 5),
        ("x: typing.Optional[float] = None", "2", 2.0),
        ("x: Annotated[float, annotated_types.Gt(0)] = 1", "2", 2.0),
        ("x: Annotated[float, 'days'] = 1", "2", 2.0),
        ("x = 1", "3", 3),
        ("x = 0.5", "3", 3.0),
        ("x = 'a'", "3", "3"),
        ("x = [1]", "[3]", [3]),
        ("x = None", '"text"', "text"),
        ("x = -1", "3", 3),
    ],
)
def test_text_becomes_what_is_declared(tmp_path, declared, text, value):
    found = template(tmp_path, declared)
    parsed = parse_arguments(found, {"x": text})
    assert parsed == {"x": value} and type(parsed["x"]) is type(value)
    assert check_arguments(found, parsed) == {"x": value}


@pytest.mark.parametrize(
    ("declared", "text", "said"),
    [
        ("x: int = 1", "1.5", "a whole number"),
        ("x: int = 1", "", "a whole number"),
        ("x: float = 1.0", "fast", "a number"),
        ("x: bool = False", "maybe", "true or false"),
        ("x: list[int] = []", "1,2", "JSON"),
        ("x: list[int] = []", "[1, 2.5]", "a whole number|fractional"),
        ("x: Literal['adam', 'sgd'] = 'adam'", "adamw", "'adam' or 'sgd'"),
        ("x: Annotated[float, Gt(0)] = 1", "0", "greater than 0"),
        ("x: Annotated[int, Ge(1), Le(8)] = 1", "9", "less than or equal to 8"),
        ("x: Annotated[float, Interval(gt=0, lt=1)] = 0.5", "1", "less than 1"),
        ("x = 1", "0.5", "a whole number"),
        ("x = None", "text", "JSON"),
    ],
)
def test_text_that_does_not_fit_is_refused(tmp_path, declared, text, said):
    found = template(tmp_path, declared)
    with pytest.raises(BadArgument, match=said):
        check_arguments(found, parse_arguments(found, {"x": text}))


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("x: int = 1", "3"),
        ("x: int = 1", True),
        ("x: int = 1", 3.0),
        ("x: float = 1", "3"),
        ("x: str = ''", 3),
        ("x: bool = True", 1),
        ("x: list[int] = []", 3),
        ("x: Literal[1, 2] = 1", 3),
        ("x: Annotated[list[int], MinLen(1)] = [1]", []),
    ],
)
def test_a_value_of_another_type_is_refused(tmp_path, declared, value):
    with pytest.raises(BadArgument, match="does not fit 50_train.ipynb"):
        check_arguments(template(tmp_path, declared), {"x": value})


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UnknownParameter, match=r"no parameter 'lr_rate'.*Did you mean 'learning_rate'"):
        parse_arguments(template(tmp_path, "learning_rate = 0.1\nlr = 3\nlearning = 3"), {"lr_rate": "1"})


def test_a_type_that_cannot_be_read_is_no_obstacle_until_it_is_needed(tmp_path):
    """papermill can run such a notebook, so it can be run here; only an argument that nothing could check is refused."""
    found = template(tmp_path, "when: datetime.date = datetime.date(2026, 5, 3)\nseed: int = 0")
    assert check_arguments(found, {"seed": 1}) == {"seed": 1}
    with pytest.raises(BadContract, match="'when' as datetime.date, which cannot be checked"):
        check_arguments(found, {"when": "2026-05-03"})


def test_numpy_values_are_taken_for_what_they_are(tmp_path):
    import numpy as np

    found = template(tmp_path, "rate: float = 0.1\nwidths: list[int] = []\nn: int = 1")
    assert check_arguments(found, {"rate": np.float32(0.5), "widths": np.array([1, 2]), "n": np.int64(3)}) == {"rate": 0.5, "widths": [1, 2], "n": 3}


def test_not_a_number_can_be_an_argument(tmp_path):
    checked = check_arguments(template(tmp_path, "x: float = 0.0"), {"x": float("nan")})
    assert checked["x"] != checked["x"]
    assert check_arguments(template(tmp_path, "x: float = 0.0"), {"x": float("inf")}) == {"x": float("inf")}


def test_comments_and_odd_lines(tmp_path):
    """Comments above and beside count, magics and imports are passed over, both names of a chain are parameters."""
    found = template(tmp_path, "import os\n%matplotlib inline\n# of the Adam step,\n# above zero\nrate = 0.1\n\n# not this one\n\na = b = 2  # both\nif True:\n    hidden = 3")
    assert [(p.name, p.comment) for p in found.parameters] == [("rate", "of the Adam step, above zero"), ("a", "both"), ("b", "both")]


def test_notebook_format_3(tmp_path):
    """An old notebook is read, and runs."""
    import mlops_nb

    path = tmp_path / "old.ipynb"
    cells = [
        {"cell_type": "code", "language": "python", "metadata": {"tags": ["parameters"]}, "input": ["seed = 1"], "outputs": [], "collapsed": False},
        {"cell_type": "code", "language": "python", "metadata": {}, "input": ["print(seed)"], "outputs": [], "collapsed": False},
    ]
    path.write_text(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells, "metadata": {}}]}))
    assert [p.name for p in read_template(path).parameters] == ["seed"]
    one = mlops_nb.run(path, {"seed": 7})
    assert one.status == "succeeded" and '"7\\n"' in one.notebook.read_text()


@given(st.integers(0, 2000))
def test_a_notebook_cut_anywhere_is_refused_by_one_error(length):
    """However much of the file is left, it is a `BadNotebook` that names the file, never another error."""
    text = json.dumps({"nbformat": 4, "nbformat_minor": 4, "metadata": PYTHON, "cells": [cell("print('é')" * 40)]}).encode()
    if length < len(text):
        with pytest.raises(BadNotebook, match=r"train\.ipynb"):
            parse_notebook(text[:length], "train.ipynb")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_any_json_is_a_notebook_or_refused(value):
    try:
        parse_notebook(json.dumps(value).encode(), "x.ipynb")
    except BadNotebook as refusal:
        assert "x.ipynb" in str(refusal)


def test_a_missing_file_is_refused_with_the_nearest(tmp_path):
    write_notebook(tmp_path / "50_train.ipynb")
    with pytest.raises(BadNotebook, match=r"Did you mean '50_train.ipynb'"):
        read_template(tmp_path / "50_tarin.ipynb")
    with pytest.raises(BadNotebook, match="cannot be read"):
        read_template(tmp_path)


def test_a_secret_in_the_place_of_its_name_is_not_repeated(tmp_path):
    found = template(tmp_path, 'token = Secret("ARCHIVE_TOKEN")')
    with pytest.raises(BadArgument) as refusal:
        check_arguments(found, parse_arguments(found, {"token": "hunter2-hunter2"}))
    assert "hunter2" not in str(refusal.value) and "ARCHIVE_TOKEN" in str(refusal.value)


def test_reading_a_contract_imports_nothing_heavy(tmp_path):
    """`nbformat` alone costs a second where JupyterLab is installed."""
    import subprocess
    import sys

    path = write_notebook(tmp_path / "t.ipynb", parameters="seed: int = 0")
    program = f"import sys; from mlops_nb import read_template; read_template({str(path)!r}).parameters; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"nbformat", "papermill", "pydantic", "numpy", "pandas", "IPython", "jupyter_client", "typing_extensions"}
