"""The board of all runs, in a real browser, opened from disk.

Needs Chromium (Debian and Ubuntu: `apt install chromium`) or Google Chrome; where there is none, what needs it is skipped, and says so.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from making import cell, command, write_project

from mlops_nb.beside import document
from mlops_nb.board import write_board
from mlops_nb.errors import BadArgument, BadStore
from mlops_nb.record import read_record, this_process, write_record

BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="NO BROWSER: the board was not tested. Install one (Debian: apt install chromium), or say in CHROMIUM where it is.")
HOSTILE = "<script>window.struck=1</script><img src=x onerror=window.struck=1>\"'&lt;</script>"


def record(number: int, **more) -> dict:
    """Return the record of a training run."""
    moment = f"2026-01-{1 + number // 1440:02}T{number // 60 % 24:02}:{number % 60:02}"
    made = {
        "id": f"{moment.replace('-', '').replace(':', '')}00-train-{number:08x}", "status": "succeeded", "template": "nbs/pipelines/stars/20_train.ipynb", "step": "train", "pipeline": "stars",
        "started": f"{moment}:00.000000Z", "seconds": float(number % 90), "arguments": {"hidden": (32, 64, 128)[number % 3], "optimizer": ("adam", "sgd")[number % 2], "seed": number},
        "given": ["seed"], "inputs": {"features": {"path": "data/features.parquet", "digest": "ab" * 32, "size_bytes": 12345}}, "outputs": {},
        "results": {"score": number / 10_000, "loss": 1 - number / 10_000, "curve": [1.0, 0.5, 0.3, 0.2]}, "error": None,
        "hardware": {"cpu": "a processor", "cores": 2, "memory_bytes": 2**34, "devices": []},
    }  # fmt: skip
    return {**made, **more}


def failed(number: int) -> dict:
    error = {"kind": "ValueError", "message": "the catalogue is empty", "cell": 3, "count": 2, "source": "read()", "traceback": "Traceback …\n\x1b[31mValueError\x1b[0m: the catalogue is empty"}
    return record(number, id=f"20260109T000000-ingest-{number:08x}", step="ingest", template="nbs/pipelines/stars/10_ingest.ipynb", status="failed", results={}, error=error, started="2026-01-09T00:00:00.000000Z")


def write_runs(root: Path, *records: dict) -> Path:
    (root / "runs" / "records").mkdir(parents=True, exist_ok=True)
    (root / "settings.ini").touch()
    for one in records:
        write_record(root / "runs", one)
    return root


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory) -> Path:
    """A board of 10,000 runs that succeeded and one that failed. The records are written as `write_record` does, without waiting for the disk each time."""
    root = write_runs(tmp_path_factory.mktemp("many"), failed(1))
    for number in range(10_000):
        one = record(number)
        (root / "runs" / "records" / f"{one['id']}.json").write_text(json.dumps({"format": 1, **one}))
    return write_board(root / "board", root).page


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


class Watched:
    """A page of the browser, with what went wrong in it."""

    def __init__(self, browser, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        self.page, self.wrong = self.context.new_page(), []
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda message: self.wrong.append(message.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.context.on("request", lambda request: self.wrong.append(request.url) if not request.url.startswith(("file:", "data:", "about:")) else None)

    def open(self, file: Path, fragment: str = ""):
        self.page.goto(file.as_uri() + fragment)
        return self.page


@pytest.fixture
def watched(browser):
    opened = []

    def watch(**options) -> Watched:
        opened.append(Watched(browser, **options))
        return opened[-1]

    yield watch
    for one in opened:
        assert one.wrong == []
        one.context.close()


def follow(link) -> None:
    """Click on a link, and wait until the page that it leads to is whole, with its style sheet."""
    with link.page.expect_event("load"):
        link.click()


def count(page) -> str:
    return page.locator("#count").inner_text()


@needs_browser
def test_search_filter_sort_open_and_go_back(ten_thousand, watched):
    """What is asked shows at once, stays in the address, and is there again after a look at a run."""
    page = watched().open(ten_thousand)
    assert count(page) == "10,001 runs" and page.locator("#rows tr").count() == 100
    page.get_by_label("Search").fill("hidden=64 score>0.9 adam")
    assert count(page) == "166 of 10,001 runs"  # 9,001 to 9,999 in steps of 6
    page.get_by_label("Status").select_option("failed")
    assert count(page) == "0 of 10,001 runs"
    page.get_by_label("Status").select_option("")
    page.locator("#head").get_by_role("button", name="loss").click()
    assert page.locator("th[aria-sort=descending]").inner_text().startswith("loss")
    assert "0.0996" in page.locator("#rows tr").first.inner_text()
    page.locator("#head").get_by_role("button", name="loss").click()
    assert page.locator("th[aria-sort=ascending]").count() == 1 and page.evaluate("document.activeElement.dataset.key") == "results.loss"
    first = page.locator("#rows a").first.inner_text()
    page.get_by_role("button", name="Next").click()
    assert page.locator("#where").inner_text() == "page 2 of 2" and page.locator("#rows tr").count() == 66
    page.get_by_role("button", name="Previous").click()
    follow(page.locator("#rows a").first)
    assert page.locator("h1").inner_text() == "train" and "the catalogue" not in page.content()
    page.go_back()
    assert count(page) == "166 of 10,001 runs" and page.locator("#rows a").first.inner_text() == first
    sent = watched().open(ten_thousand, "#" + page.url.partition("#")[2])
    assert count(sent) == "166 of 10,001 runs" and sent.get_by_label("Search").input_value() == "hidden=64 score>0.9 adam"
    page.get_by_role("button", name="Clear").click()
    assert count(page) == "10,001 runs"


@needs_browser
@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("seed=77", "1 of"), ("arguments.seed=77", "1 of"), ("results.seed=77", "10,001 runs. No run has an argument or a result called “results.seed”."),
        ("hiden=64", "10,001 runs. No run has an argument or a result called “hiden”."), ("score>=0.5 score<0.6", "1,000 of"), ("score>", "10,001 runs"),
        ("status=failed", "1 of"), ("status!=succeeded", "1 of"), ('"catalogue is empty"', "1 of"), ("started=2026-01-02", "1,440 of"), ("started>=2026-01-07T12", "1 of"),
        ("OPTIMIZER=sgd", "10,001 runs. No run has"), ("optimizer=SGD", "5,001 of"), ("00000009", "1 of"), ("seconds<1", "112 of"), ("__proto__=1 constructor", "0 of"), ("(((", "0 of"),
    ],
)  # fmt: skip
def test_what_can_be_searched_for(ten_thousand, watched, asked, found):
    """A name that no run has is said, and does not hide everything."""
    page = watched().open(ten_thousand)
    page.get_by_label("Search").fill(asked)
    assert count(page).startswith(found)


@needs_browser
def test_a_failed_run_shows_why(ten_thousand, watched):
    page = watched().open(ten_thousand, "#status=failed")
    assert "the catalogue is empty" in page.locator("#rows").inner_text()
    follow(page.locator("#rows a"))
    text = page.locator("body").inner_text()
    assert "failed in cell 2" in text and "ValueError: the catalogue is empty" in text and "[31m" not in text
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontFamily").startswith("system-ui"), "the style sheet was not used"


@needs_browser
def test_light_dark_and_a_phone(ten_thousand, watched, tmp_path):
    """The page follows the device; on a narrow screen nothing runs over its edge, and rows are cards with the names of their values."""
    backs = set()
    for scheme in ("light", "dark"):
        page = watched(color_scheme=scheme, viewport={"width": 375, "height": 700}).open(ten_thousand)
        backs.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        assert page.locator("thead").is_hidden() and page.locator("#rows td").nth(1).get_attribute("data-label") == "status"
        assert page.get_by_role("row").count() == 100, "cards are still rows to a screen reader"
        follow(page.locator("#rows a").first)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert backs == {"rgb(255, 255, 255)", "rgb(21, 24, 28)"}


@needs_browser
def test_by_keyboard_alone(ten_thousand, watched):
    page = watched().open(ten_thousand)
    page.keyboard.press("/")
    page.keyboard.type("seed=5")
    assert count(page) == "1 of 10,001 runs"
    names = page.evaluate("[...document.querySelectorAll('input,select,button')].filter(e => e.offsetParent).map(e => e.labels?.[0]?.textContent || e.textContent)")
    assert all(name.strip() for name in names)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#rows') !== null"):
            break
    page.keyboard.press("Enter")
    page.wait_for_url("**/runs/*.html")


@needs_browser
def test_ten_thousand_runs_are_quick(ten_thousand, watched):
    """A letter typed is answered in a tenth of a second or so, and the page is small enough to be sent."""
    assert ten_thousand.stat().st_size < 2_000_000
    page = watched().open(ten_thousand)
    timed = "(text) => { const q = document.getElementById('q'), t = performance.now(); q.value = text; q.dispatchEvent(new Event('input')); document.body.offsetHeight; return performance.now() - t; }"
    times = [page.evaluate(timed, text) for text in ("a", "ad", "adam", "adam score>0.5", "adam score>0.5 hidden=64")]
    print("filter, ms:", [round(one) for one in times])
    assert sorted(times)[2] < 500  # on two shared cores; about 40 on a quiet machine


@needs_browser
def test_a_hostile_run_does_nothing(tmp_path, watched):
    """What comes from runs is text: in the list, in the page of the run, in its notebook, in the name of a sweep."""
    results = {HOSTILE: 1.0, "text": HOSTILE, "table": {"table": {"columns": [HOSTILE], "rows": [[HOSTILE]]}}, "tree": {HOSTILE: HOSTILE}, "__proto__": 2.0}
    error = {"kind": HOSTILE, "message": HOSTILE, "source": HOSTILE, "traceback": HOSTILE, "count": HOSTILE}
    strange = record(3, step=HOSTILE, pipeline=HOSTILE, template=f"nbs/{HOSTILE}.ipynb".replace("/", "∕"), arguments={HOSTILE: HOSTILE, "constructor": 1}, results=results, error=error, status="failed")
    strange["hardware"] = {"cpu": HOSTILE, "cores": HOSTILE, "memory_bytes": 1, "devices": [HOSTILE]}
    strange["inputs"] = {HOSTILE: {"path": HOSTILE, "digest": HOSTILE, "size_bytes": 1}}
    odd = record(4, id="20260101T000400-<b>#?%2f &-00000004", template="20_train.ipynb")
    root = write_runs(tmp_path, strange, odd)
    outputs = [{"output_type": "display_data", "metadata": {}, "data": {"text/html": HOSTILE + "<link rel=preconnect href=https://example.org><iframe src=https://example.org></iframe><b>kept</b>"}}]
    outputs += [{"output_type": "display_data", "metadata": {}, "data": {kind: "window.top.struck=1"}} for kind in ("application/javascript", "image/svg+xml")]
    shown = {"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": [{"cell_type": "markdown", "metadata": {}, "source": f"# Title\n{HOSTILE}\n![a](https://example.org/a.png)"}, {**cell("1"), "outputs": outputs}]}
    for one in (strange, odd):
        (root / "runs" / one["id"]).mkdir()
        (root / "runs" / one["id"] / Path(one["template"]).name).write_text(json.dumps(shown))
    page = (one := watched()).open(write_board(root / "board", root).page)
    for name in ("20260101T0003", "20260101T0004"):
        page.get_by_label("Search").fill(name)
        assert count(page).startswith("1 of 2 runs")
        follow(page.locator("#rows a"))
        page.wait_for_selector("h1")
        frame = page.frame_locator("iframe.notebook")
        assert frame.locator("h1").inner_text().startswith("Title") and "kept" in frame.locator("body").inner_text()
        assert page.evaluate("window.struck") is None and page.locator("img").count() == 0
        assert page.locator("iframe.notebook").get_attribute("sandbox") == "" and page.locator("iframe.notebook").evaluate("frame => frame.contentDocument") is None
        assert frame.locator("script, link, iframe, svg, [src]:not([src^='data:image/']), [onerror], [href^=javascript]").count() == 0
        page.go_back()
    assert page.evaluate("window.struck") is None and page.locator("#all img").count() == 0 and one.wrong == []


@needs_browser
def test_pipelines_sweeps_and_comparisons(tmp_path, watched):
    """A real pipeline's steps stand as `status` says; a sweep leads to its runs, the best first; a report is copied, and a page that is none of ours is not."""
    root = write_project(tmp_path / "project", {"10_ingest": ('out = Output("data/a.txt")', 'open(out, "w").write("x")'), "20_fit": ('a = Input("data/a.txt")\nrate: float = 0.5', 'glue("score", rate)')})
    assert command("run", cwd=root).returncode == 0
    assert command("run", "-p", "rate=0.7", cwd=root).returncode == 0
    fits = sorted((json.loads(file.read_text()) for file in (root / "runs" / "records").glob("*fit*.json")), key=lambda one: one["started"])
    trials = [{"number": n, "setting": {"rate": one["arguments"]["rate"]}, "runs": [{"arguments": {}, "status": "succeeded", "id": one["id"], "key": None, "results": {"score": one["results"]["score"]}, "steps": {}, "error": None}]} for n, one in enumerate(fits)]
    sweep = {"id": "fit-abcd1234", "template": "nbs/pipelines/stars/20_fit.ipynb", "space": {"rate": "0.5,0.7"}, "fixed": {}, "over": None, "way": "grid", "objective": "score", "direction": "maximize", "seed": 0, "wanted": 2, "started": fits[0]["started"], "updated": fits[1]["started"], "logs": [], "trials": trials}
    (root / "runs" / "sweeps").mkdir()
    (root / "runs" / "sweeps" / "fit-abcd1234.json").write_text(json.dumps({"format": 1, **sweep}))
    (root / "runs" / "sweeps" / "broken.json").write_text("{")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    assert command("report", fits[1]["id"], "--against", fits[0]["id"], cwd=root).returncode == 0
    (root / "report" / "other.html").write_text("<!doctype html><script>window.struck=1</script>")
    done = command("board", cwd=root)
    assert done.returncode == 0 and done.stdout.startswith("3 runs: ") and "the board: board/index.html" in done.stdout, done.stderr
    assert sorted(file.name for file in (root / "board" / "comparisons").iterdir()) == ["report.html"]
    page = watched().open(root / "board" / "index.html")
    assert "2 steps: 2 fresh" in page.locator(".cards").inner_text()
    follow(page.get_by_role("link", name="Pipelines"))
    assert page.locator("svg").count() == 1 and page.locator(".chip.fresh").count() == 2
    follow(page.get_by_role("link", name="Sweeps"))
    assert "Best: trial 1 (rate=0.7), score 0.7" in page.locator("body").inner_text()
    follow(page.get_by_role("link", name="its 2 runs"))
    assert count(page) == "2 of 3 runs" and "0.7" in page.locator("#rows tr").first.inner_text()
    follow(page.locator("#rows a").first)
    text = page.locator("body").inner_text()
    assert "argument rate changed (0.5 → 0.7)" in text and "data/a.txt" in text
    follow(page.get_by_role("link", name="packages"))
    assert "ipykernel" in page.locator("body").inner_text()
    follow(page.get_by_role("link", name="Comparisons"))
    follow(page.get_by_role("link", name="fit: succeeded"))
    assert "Beside the baseline" in page.locator("body").inner_text()


def test_building_again_writes_what_changed(tmp_path):
    """A second time nothing is written; a new run writes its page, the list, and nothing else; a run that is gone takes its page with it."""
    root = write_runs(tmp_path, *map(record, range(5)), failed(1))
    board = root / "board"
    first = write_board(board, root)
    assert (first.runs, first.written, first.unchanged, first.removed) == (6, 8, 0, 0)
    times = {file: file.stat().st_mtime_ns for file in board.rglob("*") if file.is_file()}
    again = write_board(board, root)
    assert (again.written, again.unchanged) == (0, 8) and all(file.stat().st_mtime_ns == time for file, time in times.items())
    write_runs(root, record(9))
    assert write_board(board, root).written == 2
    gone = root / "runs" / "records" / f"{record(9)['id']}.json"
    gone.unlink()
    (board / "runs" / "mine.txt").write_text("a note")
    less = write_board(board, root)
    assert (less.written, less.removed) == (1, 1) and not (board / "runs" / f"{record(9)['id']}.html").exists() and (board / "runs" / "mine.txt").exists()
    (board / "runs" / f"{record(0)['id']}.html").unlink()
    (board / "runs" / f"{record(1)['id']}.html").write_text("")
    assert write_board(board, root).written == 2, "a page that somebody deleted, or that a crash cut off, comes back"
    assert not list(board.rglob(".part-*"))


def test_a_folder_that_is_no_board_is_refused(tmp_path):
    """Nothing is written there."""
    root = write_runs(tmp_path / "project", record(1))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    with pytest.raises(BadArgument, match="holds files, and no board"):
        write_board(tmp_path / "site", root)
    assert [file.name for file in (tmp_path / "site").iterdir()] == ["index.html"]
    (tmp_path / "site" / ".board.json").write_text(json.dumps({"format": 1, "pages": {"../project/settings.ini": ["", 0, []], "runs/../../project/settings.ini": ["", 0, []]}}))
    write_board(tmp_path / "site", root)
    assert (root / "settings.ini").exists(), "a manifest that was tampered with deletes nothing elsewhere"


def test_damaged_records_and_an_empty_project(tmp_path):
    """A record that cannot be read has a page that says so; a project without runs has a board without rows."""
    (tmp_path / "settings.ini").touch()
    assert write_board(tmp_path / "board", tmp_path).runs == 0
    root = write_runs(tmp_path, record(1))
    (root / "runs" / "records" / "20260101T000000-fit-00000000.json").write_text("{")
    assert write_board(tmp_path / "board", tmp_path).runs == 2
    assert "is damaged" in (tmp_path / "board" / "runs" / "20260101T000000-fit-00000000.html").read_text()


def test_a_secret_is_on_no_page(tmp_path):
    """Records and executed notebooks are masked before they are written, so the board never sees one."""
    root = write_project(tmp_path, {"10_ask": ('token = Secret("STAR_TOKEN")', 'print(token)\nglue("said", f"Bearer {token}")')})
    assert command("run", cwd=root, STAR_TOKEN="hunter2-hunter2").returncode == 0
    assert command("board", cwd=root).returncode == 0
    pages = [file.read_text() for file in (root / "board").rglob("*.html")]
    assert any("Bearer" in page for page in pages) and not any("hunter2" in page for page in pages)


WRONG = {
    "results": [None, [1], "text"], "error": ["text", 3], "seconds": ["x", True], "arguments": [None, []], "started": [None], "step": [None], "template": [None], "pipeline": [3],
    "revision": ["x", {"commit": "a", "changed": "x"}], "environment": ["x"], "hardware": ["x", {"memory_bytes": "x"}], "inputs": [{"x": None}, {"x": {"path": "a", "digest": None}}, None], "key": ["x"],
}  # fmt: skip


def test_a_record_of_another_shape_is_damaged_and_hides_no_other(tmp_path):
    """Valid JSON with a wrong type: what it is, and what it should be, is said; the board, the list and the other runs stand."""
    wrong = [(name, value) for name, values in WRONG.items() for value in values]
    root = write_runs(tmp_path, record(0), *[record(n, **{name: value}) for n, (name, value) in enumerate(wrong, 1)])
    for n, (name, _) in enumerate(wrong, 1):
        with pytest.raises(BadStore, match=f"is damaged: '{name}.*, and .* was expected"):
            read_record(root / "runs", record(n)["id"])
    assert write_board(root / "board", root).runs == len(wrong) + 1
    page = (root / "board" / "runs" / f"{record(1)['id']}.html").read_text()
    assert "is damaged: &#x27;results&#x27; is null, and an object was expected. Its outputs are still in the store." in page
    listed = json.loads(command("runs", "--json", cwd=root).stdout)
    assert sorted(one["status"] for one in listed) == ["damaged"] * len(wrong) + ["succeeded"]
    for words in (["show", record(1)["id"]], ["report", record(1)["id"]], ["trace", record(1)["id"]], ["compare", record(1)["id"], record(0)["id"]]):
        done = command(*words, cwd=root)
        assert done.returncode == 2 and ("damaged" in done.stderr or words[0] == "trace") and "Traceback" not in done.stderr, (words, done)


def test_a_result_that_only_looks_like_a_table_is_shown_as_what_it_is(tmp_path):
    for n, table in enumerate((None, {"columns": ["a"], "rows": None}, {"columns": ["a"], "rows": [3]}, {"columns": ["a", "b"], "rows": [[1]]}, {"rows": []})):
        root = write_runs(tmp_path, record(n, results={"odd": {"table": table}}))
    assert write_board(root / "board", root).runs == 5
    for n in range(5):
        for words in ("show", "results", "report"):
            done = command(words, record(n)["id"], cwd=root)
            assert done.returncode == 0, (words, done.stderr)


def test_reports_whose_copies_would_have_one_name_are_both_there_and_what_is_no_file_stops_nothing(tmp_path):
    root = write_runs(tmp_path, record(1))
    for place in ("a/b/r.html", "a-b/r.html", "a/b-r.html"):
        (root / "report" / place).parent.mkdir(parents=True, exist_ok=True)
        (root / "report" / place).write_text(document(place, "<p>what it says</p>"))
    (root / "report" / "x.html").mkdir()
    (root / "report" / "gone.html").symlink_to("nowhere.html")
    for _ in range(2):
        write_board(root / "board", root)
        copies = sorted((root / "board" / "comparisons").iterdir())
        assert len(copies) == 3 and copies[-1].name == "a-b-r.html"
        assert sorted(file.read_text() for file in copies) == sorted(document(place, "<p>what it says</p>") for place in ("a/b/r.html", "a-b/r.html", "a/b-r.html"))
        page = (root / "board" / "comparisons.html").read_text()
        assert all(f'href="comparisons/{file.name}"' in page for file in copies)


def test_a_run_says_why_its_notebook_is_not_shown_and_counts_files_as_one_does(tmp_path):
    made = [record(n, revision={"commit": "ab" * 20, "changed": ["a.py"] * n, "branch": None, "patch": None, "left_out": []}) for n in (1, 2)]
    root = write_runs(tmp_path, *made)
    for one in made:
        (root / "runs" / one["id"]).mkdir()
        (root / "runs" / one["id"] / "20_train.ipynb").write_text('{"nbformat": 4, "nbformat_minor": 4, "metadata": {}, "cells": []}')
    write_board(root / "board", root, notebooks=1)
    first, second = ((root / "board" / "runs" / f"{one['id']}.html").read_text() for one in made)
    assert "not among the 1 latest; <code>mlops-nb board --notebooks 100</code> shows more" in first and "iframe" not in first
    assert "not among" not in second and "iframe" in second
    assert "and 1 changed file: a.py" in first and "and 2 changed files: a.py, a.py" in second
    write_board(root / "board", root, notebooks=0)
    assert "not among the 0 latest" in (root / "board" / "runs" / f"{made[0]['id']}.html").read_text()
    for n, one in enumerate(made, 1):
        assert f"and {n} changed file{'s'[n < 2:]}\n" in command("show", one["id"], cwd=root).stdout
    assert command("runs", "--status", "interrupted", cwd=root).stdout == "no run has this status\n"
    assert command("runs", "--step", "fit", cwd=root).stdout == "no run is like that\n"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "settings.ini").touch()
    assert command("runs", "--status", "interrupted", cwd=tmp_path / "empty").stdout == "no runs yet; `mlops-nb run` makes some\n"


@needs_browser
def test_names_with_a_dot_are_shown_whole(tmp_path, watched):
    page = watched().open(write_board(tmp_path / "board", write_runs(tmp_path, record(1, step="train.v2 (b)", pipeline="v1.0"), record(2))).page)
    shown = page.evaluate("['status', 'step', 'pipeline'].map(id => [...document.getElementById(id).options].slice(1).map(one => one.text))")
    assert shown == [["succeeded"], ["train", "train.v2 (b)"], ["stars", "v1.0"]]


@pytest.mark.parametrize("status", ["running", "lost"])
def test_the_report_of_a_run_that_has_not_ended(tmp_path, status):
    root = write_runs(tmp_path, record(0) | {"status": status, "seconds": None, "notebook": None, "process": {**this_process(), "host": "another"}})
    done = command("report", record(0)["id"], cwd=root)
    assert done.returncode in (0, 1) and "it has not ended" in done.stdout, done.stderr
