"""Values through JSON and back, and results through a real kernel."""

import datetime
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from making import write_notebook

import mlops_nb
from mlops_nb.errors import BadValue, CellFailed
from mlops_nb.plain import dump, load, plain

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(["float", "dict", "table"]), inner, max_size=4),
    max_leaves=20,
)


def same(one, other) -> bool:
    """Say whether two values are equal, NaN being equal to itself."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@given(PLAIN)
def test_what_goes_in_comes_out(value):
    """Also where it looks like the way in which NaN is written, or like a table."""
    assert same(load(dump(value)), value)
    json.loads(dump(value), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64("nan"), math.nan),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(2.5), 2.5),
        (np.array([np.inf, np.nan]), [math.inf, math.nan]),
        (np.datetime64("2026-05-03"), "2026-05-03"),
        (pd.NA, None),
        (pd.NaT, None),
        (pd.Timestamp("2026-05-03 12:00"), "2026-05-03T12:00:00"),
        (pd.Series([1, 2], name="x"), [1, 2]),
        (pd.Series(["a", None]), ["a", math.nan]),
        (pd.Index(["a"]), ["a"]),
        (torch.tensor(0.5), 0.5),
        (torch.tensor([1, 2]), [1, 2]),
        (torch.tensor(0.5, requires_grad=True), 0.5),
        (datetime.date(2026, 5, 3), "2026-05-03"),
        (datetime.datetime(2026, 5, 3, 1, 2, 3, tzinfo=datetime.UTC), "2026-05-03T01:02:03+00:00"),
        (Path("models/network"), "models/network"),
        ((1, (2, 3)), [1, [2, 3]]),
        (pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan]}), {"table": {"columns": ["a", "b"], "rows": [[1, 0.5], [2, math.nan]]}}),
        (pd.DataFrame({"a": [1]}, index=pd.Index(["x"], name="star")), {"table": {"columns": ["star", "a"], "rows": [["x", 1]]}}),
    ],
)
def test_what_scientists_have_in_their_hands(value, expected):
    assert same(plain(value), expected)


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", 1 + 2j, object(), print, {1: 2}, {"a": {("x",): 1}}, np.zeros(200_000)])
def test_what_cannot_be_kept_is_refused(value):
    with pytest.raises(BadValue):
        plain(value)


GLUED = """
import numpy as np, pandas as pd, torch
glue("float32", np.float32(0.5)); glue("int64", np.int64(3)); glue("bool", np.bool_(True)); glue("none", None)
glue("nan", float("nan")); glue("inf", np.inf); glue("minus_inf", torch.tensor(float("-inf")))
glue("tensor", torch.tensor([1.0, float("nan")])); glue("text", "NaN"); glue("big", 2**70); glue("nested", {"a": [np.float32("nan")]})
glue("scores", pd.DataFrame({"model": ["network"], "f1": [0.5]}))
glue("twice", 1); glue("twice", 2)
"""


def test_results_through_a_kernel(tmp_path):
    """numpy, pandas and torch scalars can be glued; NaN and infinity come back as what they are, in the run and from the record."""
    one = mlops_nb.run(write_notebook(tmp_path / "t.ipynb", GLUED, parameters="seed = 1"))
    expected = {
        "float32": 0.5, "int64": 3, "bool": True, "none": None, "nan": math.nan, "inf": math.inf, "minus_inf": -math.inf, "tensor": [1.0, math.nan],
        "text": "NaN", "big": 2**70, "nested": {"a": [math.nan]}, "scores": {"table": {"columns": ["model", "f1"], "rows": [["network", 0.5]]}}, "twice": 2,
    }  # fmt: skip
    assert same(one.results, expected)
    [found] = mlops_nb.runs(tmp_path)
    assert same(found.results, expected) and same(found.record["results"], expected)
    assert list(found.results) == list(expected), "in the order in which they were glued"


def test_a_figure_is_shown_once_under_its_name(tmp_path):
    source = "import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\nglue('curve', figure)"
    one = mlops_nb.run(write_notebook(tmp_path / "t.ipynb", source, parameters="seed = 1"))
    outputs = json.loads(one.notebook.read_text())["cells"][2]["outputs"]
    assert [("image/png" in output["data"], output["metadata"]["scrapbook"]["name"]) for output in outputs] == [(True, "curve")]


def test_a_value_that_cannot_be_glued_fails_in_its_cell(tmp_path):
    with pytest.raises(CellFailed, match="cannot be kept as plain JSON"):
        mlops_nb.run(write_notebook(tmp_path / "t.ipynb", "glue('classes', {1, 2})", parameters=""))


def test_scrapbook_reads_ours_and_we_read_scrapbooks(tmp_path):
    import scrapbook

    source = "import scrapbook\nscrapbook.glue('theirs', 0.25)\nglue('ours', 0.75)"
    one = mlops_nb.run(write_notebook(tmp_path / "t.ipynb", source, parameters=""))
    assert one.results == {"theirs": 0.25, "ours": 0.75}
    scraps = scrapbook.read_notebook(str(one.notebook)).scraps
    assert {name: scrap.data for name, scrap in scraps.items()} == {"theirs": 0.25, "ours": 0.75}


def test_outside_jupyter_results_are_printed(capsys):
    mlops_nb.glue("macro_f1", 0.5)
    assert capsys.readouterr().out == "macro_f1: 0.5\n"
