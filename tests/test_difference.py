"""What two executions of one notebook have in common, and what they have not: seen, however small, and nothing seen that is not there."""

import base64
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mlops_nb.cells import compare_files, compare_notebooks, compare_pictures
from mlops_nb.difference import USUAL, Tolerance, compare_values, read_tolerances, share, worst
from mlops_nb.errors import BadSettings
from mlops_nb.picture import likeness
from mlops_nb.result import SCRAP
from mlops_nb.text import Context, compare_html, compare_texts, normalise


def notebook(*cells, **metadata) -> dict:
    """Return a notebook; a cell is its source and its outputs."""
    return {
        "cells": [{"cell_type": "code", "source": source, "metadata": {"tags": tags} if tags else {}, "outputs": outputs} for source, outputs, *tags in cells],
        "metadata": metadata,
    }


def printed(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text.splitlines(keepends=True)}


def shown(kind: str, value, name: str | None = None) -> dict:
    metadata = {"scrapbook": {"name": name, "data": False, "display": True}} if name else {}
    return {"output_type": "display_data", "metadata": metadata, "data": {kind: value, "text/plain": "…"}}


def glued(name: str, value) -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": {SCRAP: {"name": name, "data": value, "encoder": "json", "version": 1}}}


def picture(seed: int, count: int = 40, size: tuple[int, int] = (320, 240)) -> bytes:
    """Return a scatter plot as PNG."""
    pixels = np.full((size[1], size[0], 3), 255, "uint8")
    pixels[[10, -10], 10:-10] = pixels[10:-10, [10, -10]] = 0
    for x, y in np.random.default_rng(seed).integers(20, (size[0] - 20, size[1] - 20), (count, 2)):
        pixels[y : y + 4, x : x + 4] = (31, 119, 180)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def plot(*which) -> dict:
    return shown("image/png", encoded(picture(*which)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (plot(0), plot(1)),
        (plot(0, 5), plot(1, 5)),
        (printed("macro F1 0.851\n"), printed("macro F1 0.853\n")),
        (printed("12 stars\n"), printed("13 stars\n")),
        (printed("1e-05"), printed("1e-06")),
        (printed("period 0.85 s"), printed("period 0.86 s")),
        (printed("observed 1998-03-01 04:05:06"), printed("observed 1998-03-02 04:05:06")),
        (printed("mask 0x00ff00ff"), printed("mask 0x00ff00fe")),
        (printed("a\nb\n"), printed("a\n")),
        (printed("warning", "stderr"), printed("other", "stderr")),
        (shown("text/html", "<table><tr><th>f1</th></tr><tr><td>0.851</td></tr></table>"), shown("text/html", "<table><tr><th>f1</th></tr><tr><td>0.853</td></tr></table>")),
        (shown("text/html", "<div id='a1'></div><script>plot('a1', [0.851])</script>"), shown("text/html", "<div id='b2'></div><script>plot('b2', [0.853])</script>")),
        (shown("application/vnd.plotly.v1+json", {"data": [{"y": [0.851]}]}), shown("application/vnd.plotly.v1+json", {"data": [{"y": [0.853]}]})),
        (shown("image/svg+xml", "<svg><path d='M 1.5 2'/></svg>"), shown("image/svg+xml", "<svg><path d='M 1.5 3'/></svg>")),
        (shown("text/latex", "$0.851$"), shown("text/latex", "$0.853$")),
        (shown("application/pdf", encoded(b"one")), shown("application/pdf", encoded(b"two"))),
        (glued("macro_f1", 0.851), glued("macro_f1", 0.853)),
        (glued("n", 3), glued("n", 3.0)),
        (glued("n", 1), glued("n", True)),
        (glued("n", None), glued("n", 0)),
        (glued("low", {"float": "NaN"}), glued("low", 0.0)),
        (glued("loss", [0.1, 0.2]), glued("loss", [0.1])),
        (shown("image/png", encoded(picture(0))), printed("no picture")),
        ({"output_type": "error", "ename": "ValueError", "evalue": "a", "traceback": []}, {"output_type": "error", "ename": "ValueError", "evalue": "b", "traceback": []}),
    ],
)
def test_what_differs_is_caught(before, after):
    """A random plot, a number off in its third digit, another type, another row, each in the form in which a notebook shows it."""
    found = compare_notebooks(notebook(("cell()", [before])), notebook(("cell()", [after])))
    assert found.verdict == "differs" and found.share < 1
    assert any(reason for cell in found.cells for output in cell.outputs for reason in output.difference.reasons)
    assert compare_notebooks(notebook(("cell()", [before])), notebook(("cell()", [before]))).verdict == "identical"


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("<Star at 0x7f3a12bc90>", "<Star at 0x55d0a1b2c3>", "address"),
        ("took 3.21 s", "took 12 s", "timing"),
        ("trained in 3 min 4 s", "trained in 59 s", "timing"),
        ("elapsed: 0:03:12", "elapsed: 0:03:59", "timing"),
        ("Wall time: 3.2 s", "Wall time: 900 ms", "timing"),
        ("CPU times: user 1 s, sys: 3 ms, total: 1 s", "CPU times: user 2 s, sys: 3 ms, total: 2 s", "timing"),
        ("1.2 ms ± 3 µs per loop (mean ± std. dev. of 7 runs, 100 loops each)", "1.4 ms ± 9 µs per loop (mean ± std. dev. of 7 runs, 1,000 loops each)", "timing"),
        ("10/10 ━━━━━━ 0s 12ms/step - loss: 0.51", "10/10 ━━━━━━ 0s 15ms/step - loss: 0.51", "timing"),
        ("  0%|  | 0/9\r100%|██| 9/9 [00:03<00:00, 3.1it/s]\n", "100%|██| 9/9 [00:01<00:00, 9.1it/s]\n", "progress"),
        ("\x1b[31mred\x1b[0m", "red", None),
        ("read /home/ada/project/stars.csv", "read /srv/checkout/stars.csv", "folder"),
        ("File /tmp/ipykernel_12/34.py:3", "File /tmp/ipykernel_9/99.py:3", "folder"),
        ("run 20261120T210816-train-5f3a09c1", "run 20261121T210816-train-00000000", "id"),
        ("a   b\n-------\n", "a b\n---------\n", None),
    ],
)
def test_what_belongs_to_the_moment_is_passed_over_and_named(before, after, kind):
    found = compare_texts("text", before, after)
    assert (found.verdict, found.reasons) == ("identical", ())
    assert found.ignored == (() if kind is None else (kind,))


def test_a_timestamp_is_passed_over_only_where_it_is_of_the_run():
    """The log of two runs differs in the time of day, the dates in their data must not."""
    times = [{"papermill": {"start_time": f"2026-11-2{day}T21:08:16+00:00", "end_time": f"2026-11-2{day}T21:08:40+00:00"}} for day in (0, 2)]
    logs = [notebook(("log()", [printed(f"2026-11-2{day} 22:08:20,123 INFO from 2026-01-01\n")]), **metadata) for day, metadata in zip((0, 2), times, strict=True)]
    found = compare_notebooks(*logs)
    assert found.verdict == "identical" and found.cells[0].outputs[0].difference.ignored == ("timestamp",)
    other = notebook(("log()", [printed("2026-11-22 22:08:20,123 INFO from 2026-01-02\n")]), **times[1])
    assert compare_notebooks(logs[0], other).verdict == "differs"


def test_streams_that_arrive_in_another_order_are_the_same():
    before = notebook(("f()", [printed("a\n"), printed("warned\n", "stderr"), printed("b\n")]))
    after = notebook(("f()", [printed("warned\n", "stderr"), printed("a\nb\n")]))
    assert compare_notebooks(before, after).verdict == "identical"


def test_tolerances_are_of_results_columns_and_the_numbers_that_show_them():
    """One entry covers the result, its column in a table shown or glued, and the rounded number in a text; nothing else."""
    def made(f1: float, stars: int) -> dict:
        table = {"table": {"columns": ["name", "macro_f1"], "rows": [["net", f1]]}}
        shown_table = f"<table><tr><th>name</th><th>macro_f1</th></tr><tr><td>net</td><td>{f1:.3f}</td></tr></table>"
        outputs = [glued("macro_f1", f1), glued("scores", table), shown("text/html", shown_table, "scores"), printed(f"{100 * f1:.1f} % of {stars} stars")]
        return notebook(("score()", outputs))

    tolerances = read_tolerances({"macro_f1": "0.005"})
    assert compare_notebooks(made(0.8512, 12), made(0.8531, 12), tolerances).verdict == "within tolerance"
    assert compare_notebooks(made(0.8512, 12), made(0.8531, 12)).verdict == "differs"
    assert compare_notebooks(made(0.8512, 12), made(0.8531, 13), tolerances).verdict == "differs"
    assert compare_notebooks(made(0.8512, 12), made(0.8612, 12), tolerances).verdict == "differs"


@pytest.mark.parametrize(
    ("text", "before", "after", "allowed"),
    [
        ("0.005", 0.851, 0.855, True), ("0.005", 0.851, 0.857, False), ("1 %", 200.0, 201.9, True), ("1%", 200.0, 202.1, False), ("1e-6 or 1 %", 0.0, 5e-7, True),
        ("exact", 0.1 + 0.2, 0.3, False), ("any", 0.0, 1e9, True), ("2", 10, 12, True), ("2", 10, 13, False), ("1 %", math.nan, math.nan, True), ("1 %", 1.0, math.nan, False),
        ("1 %", math.inf, math.inf, True), ("1 %", -math.inf, math.inf, False), ("1 %", 1.0, math.inf, False),
    ],
)  # fmt: skip
def test_tolerance(text, before, after, allowed):
    assert read_tolerances({"x": text}).of("x").allows(before, after) is allowed


def test_the_last_bit_is_within_tolerance_and_not_identical():
    assert compare_values("x", 0.1 + 0.2, 0.3).verdict == "within tolerance"
    assert compare_values("x", 10**12, 10**12 + 1).verdict == "differs"


@pytest.mark.parametrize("text", ["about 5", "", "5 per cent", "-1", "1 and 2", "%"])
def test_a_tolerance_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadSettings, match="tolerance"):
        read_tolerances({"x": text})
    with pytest.raises(BadSettings, match="likeness"):
        read_tolerances({}, "93")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_every_value_is_identical_to_itself(value):
    assert compare_values("x", value, json.loads(json.dumps(value))).verdict == "identical"


@given(st.text())
def test_every_text_is_identical_to_itself(text):
    assert compare_texts("x", text, text + "").verdict == "identical"
    assert isinstance(normalise(text)[0], str)


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-300, max_value=1e300), st.sampled_from([1.001, 0.999, 1.01, -1.0]))
def test_a_number_off_in_its_third_digit_is_caught(number, factor):
    """As a result, in a table and in a text."""
    other = number * factor
    assert compare_values("x", number, other).verdict == "differs"
    rows = [{"table": {"columns": ["x"], "rows": [[value]]}} for value in (number, other)]
    assert compare_values("x", *rows).verdict == "differs"
    assert compare_texts("x", f"value {number!r}", f"value {other!r}").verdict == "differs"


def test_tables_by_column():
    """A column that is gone, one of another type, another number of rows, another order; each is said of its column."""
    table = {"table": {"columns": ["a", "b"], "rows": [[1, 0.5], [2, 0.25]]}}
    for columns, rows, said in (
        (["a"], [[1], [2]], "without b"),
        (["b", "a"], [[0.5, 1], [0.25, 2]], "another order"),
        (["a", "b"], [[1.0, 0.5], [2.0, 0.25]], "column a held whole numbers and holds fractions"),
        (["a", "b"], [[1, 0.5]], "has 1 rows, and had 2"),
        (["a", "b"], [[1, 0.5], [2, 0.26]], "column b: 1 of 2 values differ, by 0.01 at most (row 2: 0.25 → 0.26)"),
        (["a", "b"], [[1, 0.5], [2, None]], "column b: 1 of 2 values differ (row 2: 0.25 → null)"),
    ):
        found = compare_values("t", table, {"table": {"columns": columns, "rows": rows}})
        assert found.verdict == "differs" and said in " ".join(found.reasons), found


def test_html_that_is_made_anew_each_time_is_the_same():
    page = "<style>#T_{0} td {{}}</style><table id='T_{0}'><tr><th>f1</th></tr><tr><td id='T_{0}_row0'>0.5</td></tr></table>"
    assert compare_html("x", page.format("a1b2c"), page.format("ffe01")).verdict == "identical"
    svg = "<svg><dc:date>{}</dc:date><path id='m{}' d='M 1 2'/><use href='#m{}'/></svg>"
    assert compare_html("x", svg.format("2026", "1a", "1a"), svg.format("2027", "2b", "2b")).verdict == "identical"
    assert compare_html("x", "<p>1.0001</p>", "<p>1.0002</p>", Context(read_tolerances({"*": "1 %"}))).verdict == "within tolerance"


def test_pictures_of_other_sizes_formats_and_shades():
    """The same pixels in another format are identical; a pixel more or a shade less is near; other shapes, and what is no picture, differ."""
    png = picture(0)
    again = io.BytesIO()
    Image.open(io.BytesIO(png)).save(again, "PNG", compress_level=1)
    assert again.getvalue() != png and compare_pictures("x", png, again.getvalue())[0].verdict == "identical"
    jpeg, transparent = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(png)).save(jpeg, "JPEG", quality=98)
    assert compare_pictures("x", png, jpeg.getvalue())[0].verdict == "within tolerance"
    Image.open(io.BytesIO(png)).convert("RGBA").save(transparent, "PNG")
    assert compare_pictures("x", png, transparent.getvalue())[0].verdict == "identical"
    assert compare_pictures("x", png, picture(0, 40, (240, 320)))[0].verdict == "differs"
    assert compare_pictures("x", png, b"broken")[0].verdict == "differs"
    assert compare_pictures("x", png, png[: len(png) // 2])[0].verdict == "differs"
    large = likeness(picture(0, 400, (3000, 2000)), picture(1, 400, (3000, 2000)))
    assert large.least < USUAL.pictures


def test_a_small_change_of_a_picture_is_seen_where_the_mean_hides_it():
    """One point of forty moved: alike on average, not alike there."""
    pixels = np.asarray(Image.open(io.BytesIO(picture(0)))).copy()
    pixels[200:204, 200:204] = (31, 119, 180)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    found = likeness(picture(0), file.getvalue())
    assert found.mean > 0.99 and found.least < USUAL.pictures
    assert Image.open(io.BytesIO(found.difference)).size == (320, 240)


def test_without_numpy_other_bytes_are_a_difference(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "numpy", None)
    found, _ = compare_pictures("x", picture(0), picture(1))
    assert found.verdict == "differs" and "Install numpy and pillow" in found.reasons[0]
    assert compare_pictures("x", picture(0), picture(0))[0].verdict == "identical"


def test_cells_that_are_new_gone_changed_or_vary():
    before = notebook(("a()", [printed("a")]), ("b()", [printed("b")]), ("c()", []))
    gone = compare_notebooks(before, notebook(("b()", [printed("b")]), ("c()", [])))
    assert [cell.verdict for cell in gone.cells] == ["differs", "identical", "identical"] and gone.cells[0].reasons == ("cell 1 is gone",)
    assert gone.share == 0.5, "a cell that shows nothing does not count"
    changed = compare_notebooks(before, notebook(("a()", [printed("a")]), ("b(1)", [printed("b")]), ("c()", [])))
    assert changed.verdict == "identical" and changed.cells[1].reasons == ("the code of cell 2 is another",)
    varies = compare_notebooks(notebook(("a()", [printed("1")], "varies")), notebook(("a()", [printed("2")], "varies")))
    assert varies.cells[0].verdict == "not compared" and varies.verdict == "identical" and varies.verdicts == ["not compared"]
    injected = notebook(("seed = 1", [], "injected-parameters"), ("a()", [printed("a")]), ("b()", [printed("b")]), ("c()", []))
    assert compare_notebooks(before, injected).verdict == "identical"


def test_files_of_a_run(tmp_path):
    """CSV and JSON by value, texts as in a notebook, zips by what is in them, everything else by its bytes."""
    pandas = pytest.importorskip("pandas")
    one, other = tmp_path / "one", tmp_path / "other"

    def compare(before, after, kind, **tolerance):
        for path, data in ((one, before), (other, after)):
            path.write_bytes(data)
        return compare_files("x", one, other, kind, read_tolerances(tolerance)).verdict

    assert compare(b"a,b\n1,0.5\n", b"a,b\r\n1,0.50\r\n", ".csv") == "identical"
    assert compare(b"a,b\n1,0.5\n", b"a,b\n1,0.51\n", ".csv") == "differs"
    assert compare(b"a,b\n1,0.5\n", b"a,b\n1,0.51\n", ".csv", b="0.1") == "within tolerance"
    assert compare(b"a,b\n1,0.5\n", b"a,b\n1,0.51\n", ".csv", x="any") == "not compared"
    assert compare(b'{"a": 1}', b'{ "a": 1 }', ".json") == "identical"
    assert compare(b"{broken", b"{ broken", ".json") == "differs"
    assert compare(b"took 3 s", b"took 4 s", ".txt") == "identical"
    assert compare(b"\xff\xfe1", b"\xff\xfe2", ".txt") == "differs"
    assert compare(picture(0), picture(1), ".png") == "differs"
    assert compare(b"weights 1", b"weights 2", ".bin") == "differs"
    frames = [pandas.DataFrame({"n": [1, 2], "f": [0.5, value]}) for value in (0.25, 0.26)]
    tables = []
    for frame in (*frames, frames[0].astype({"n": "float64"})):
        file = io.BytesIO()
        frame.to_parquet(file, compression="gzip" if len(tables) else None)
        tables.append(file.getvalue())
    assert compare(tables[0], tables[1], ".parquet") == "differs"
    assert compare(tables[0], tables[1], ".parquet", **{"f (float64)": "0.1"}) == "within tolerance"
    assert compare(tables[0], tables[2], ".parquet") == "differs", "another dtype"


def test_verdicts_add_up():
    assert worst(["identical", "did not run", "differs"]) == "did not run" and share(["identical"] * 3 + ["differs"]) == 0.75
    assert Tolerance().allows(1.0, 1.0 + 1e-10)


def test_whole_numbers_that_no_float_holds_are_compared_without_a_traceback():
    """Neither near anything nor a difference in digits: they differ, in a sentence that can be read. In a table, too."""
    big = 10**400
    assert compare_values("n", big, big).verdict == "identical"
    for before, after in ((big, big + 1), (1, big), (big, 2.5), (10**308 * 1, -(10**308))):
        [reason] = compare_values("n", before, after, read_tolerances({"n": "1 %"})).reasons
        assert len(reason) < 800 and "nan" not in reason
    tables = [{"table": {"columns": ["n"], "rows": [[value], [1.5]]}} for value in (big, 2)]
    assert compare_values("n", *tables).verdict == "differs"
