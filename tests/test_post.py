"""A report on its pull request: one comment, one status, by a forge that fails now and then, and from artefacts that a stranger wrote."""

import json
import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from forge import BOT, TOKEN, Forge, event_of, packed, pull_of, write_event
from making import command

from mlops_nb.comment import MARK, TAGS, Command, Metric, Reason, Result, Statement, write_statement
from mlops_nb.errors import BadForge, BadReport
from mlops_nb.post import MOST_ZIP, Patience, post_report

COMMIT = "5b0c766" + "0" * 33
SAID = Statement("does not pass", "score: worse: −0.02 [−0.03, −0.01].", "main (1234567)", "the working tree", "4 × a processor", commit=COMMIT, pull_request=7)
QUICK = Patience(retries=5, unit_s=0.01, most_s=5)


@pytest.fixture
def forge():
    one = Forge()
    one.pulls.append(pull_of(COMMIT))
    yield one
    one.close()


@pytest.fixture
def post(forge, tmp_path):
    """Post a report as a workflow does; return the sentence."""
    lines = []

    def posted(said=SAID, content=None, artifact=None, patience=QUICK, **variables):
        file = tmp_path / "report.zip"
        file.write_bytes(content or packed({"report.json": write_statement(said)}))
        given = {**environment(forge, tmp_path), **variables}
        return post_report(artifact or str(file), given, patience=patience, on_line=lines.append)

    posted.lines = lines
    return posted


def environment(forge, folder):
    return {"GITHUB_API_URL": forge.url, "GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "someone/stars", "GITHUB_EVENT_PATH": write_event(folder / "event.json", COMMIT)}


class Comment(HTMLParser):
    """The tags and links of a comment, and the text that stands outside of code."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.plain = [], [], [], ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.append(tag)
        assert {name for name, _ in attrs} <= {"href", "open"}
        self.links += [value for name, value in attrs if name == "href"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.plain += "" if {"code", "pre"} & set(self.open) else data


def test_the_first_comment_and_the_status(forge, post):
    """One comment that begins with the mark, and a status with the verdict on the commit that was measured; the whole page is a link away."""
    assert post() == "the comment on 7 is new; the status of 5b0c766 is failure."
    [comment], [status] = forge.comments, forge.statuses
    assert comment["body"].startswith(MARK + "\n\n### ❌ does not pass")
    assert Comment(comment["body"]).links == [f"https://mybinder.org/v2/gh/fork/stars/{COMMIT}?urlpath=lab%2Ftree", "https://github.com/someone/stars/actions/runs/12"]
    assert status == {"commit": COMMIT, "state": "failure", "context": "mlops-nb", "description": f"does not pass: {SAID.why}", "target_url": "https://github.com/someone/stars/actions/runs/12"}


def test_the_link_needs_no_build_where_the_environment_is_apart(forge, post, tmp_path, monkeypatch):
    """The branch of the pull request is pulled into the image that `[image] environment` of the default branch names; a hub of one's own may take the place of mybinder.org."""
    monkeypatch.chdir(tmp_path)
    Path("settings.ini").write_text("[image]\nenvironment = https://github.com/someone/environment\nbinder = https://binder.example.org\n")
    post()
    link = Comment(forge.comments[0]["body"]).links[0]
    assert link.startswith("https://binder.example.org/v2/gh/someone/environment/main?urlpath=git-pull")
    assert parse_qs(parse_qs(urlsplit(link).query)["urlpath"][0].partition("?")[2])["repo"] == ["https://github.com/fork/stars"]


def test_the_comment_is_brought_up_to_date_in_place(forge, post):
    """A second report changes the comment of the first, on whichever page it is; the same report changes nothing."""
    forge.comments += [{"id": n, "user": {"login": "talker"}, "body": "Hm."} for n in range(250)]
    post()
    assert "is updated" in post(replace(SAID, headline="passes"))
    assert "is unchanged" in post(replace(SAID, headline="passes"))
    assert len(forge.comments) == 251 and "### ✅ passes" in forge.comments[-1]["body"]
    assert [status["state"] for status in forge.statuses] == ["failure", "success", "success"]
    assert not [line for line in forge.asked if "DELETE" in line]


def test_small_pages_are_followed(forge, post):
    """Also where the forge gives fewer a page than it is asked for."""
    forge.page = 3
    forge.comments += [{"id": n, "user": {"login": "talker"}, "body": "Hm."} for n in range(10)]
    post()
    assert "is unchanged" in post() and len(forge.comments) == 11


def test_the_comment_of_somebody_else_is_left_alone(forge, post):
    """Whoever writes the mark into a comment of their own has not given us theirs; nor is one ours that quotes the mark further down."""
    forge.comments += [{"id": 1, "user": {"login": "mallory"}, "body": MARK}, {"id": 2, "user": BOT, "body": f"> {MARK}"}, {"id": 3, "user": None, "body": MARK}]
    assert "is new" in post()
    assert "is unchanged" in post()
    assert [one["body"] for one in forge.comments[:3]] == [MARK, f"> {MARK}", MARK] and len(forge.comments) == 4


def test_a_token_of_a_person_knows_its_own_comments(forge, post):
    """It asks who it is."""
    forge.user = {"login": "deploy", "id": 9}
    forge.comments.append({"id": 1, "user": BOT, "body": MARK})
    assert "is new" in post()
    assert forge.comments[1]["user"]["login"] == "deploy" and "is unchanged" in post()


@pytest.mark.parametrize("answer", [
    (429, {"Retry-After": "1"}, {"message": "slow down"}),
    (403, {"Retry-After": "1"}, {"message": "You have exceeded a secondary rate limit."}),
    (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "now"}, {"message": "API rate limit exceeded"}),
    (503, {"Retry-After": "1"}, "busy"),
], ids=["429", "secondary", "spent", "503"])  # fmt: skip
def test_a_limit_is_waited_for(forge, post, answer):
    """As long as the forge says, then it is asked again; also a request that makes something, since a limit means that nothing was made."""
    status, headers, content = answer
    if "X-RateLimit-Reset" in headers:
        headers = {**headers, "X-RateLimit-Reset": str(int(time.time()))}
    forge.fail("POST .*comments" if status != 503 else "GET .*comments", (status, headers, content))
    began = time.monotonic()
    assert "is new" in post()
    assert time.monotonic() - began >= 0.9 and len(forge.comments) == 1
    assert "asked again in 1 s" in post.lines[0]


def test_a_limit_that_is_too_long_is_said(forge, post):
    """Nobody pays a machine for waiting an hour."""
    forge.fail("GET .*pulls", (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 3600)}, {}))
    with pytest.raises(BadForge, match=r"asks for 3,[56]\d\d s of patience, more than the 5 s"):
        post()


def test_502_twice_and_then_good(forge, post):
    """It is asked again."""
    forge.fail("GET .*pulls", (502, {}, "<html>bad gateway"), (502, {}, ""))
    assert "is new" in post()
    assert forge.asked.count("GET /repos/someone/stars/pulls") == 3


def test_a_comment_that_was_made_although_the_answer_was_502_is_not_made_twice(forge, post):
    """It is looked for first."""
    forge.fail("POST .*comments", (502, {}, "done"))
    assert "is unchanged" in post()
    assert len(forge.comments) == 1


def test_a_forge_that_stays_down_is_given_up(forge, post):
    """After so many attempts, in one sentence."""
    forge.fail("GET .*pulls", *[(500, {}, "")] * 20)
    with pytest.raises(BadForge, match="answers 500, after 6 attempts"):
        post()


@pytest.mark.parametrize(("status", "says"), [(401, "the token is not valid"), (403, "`permissions` must grant it"), (404, "the token may not see it"), (422, "does not take what was sent")])
def test_a_refusal_is_said_once_and_clearly(forge, post, status, says):
    """What will not change is not asked again. A server that repeats the token does not get it into a log."""
    forge.fail("POST .*comments", *[(status, {}, {"message": f"No: {TOKEN}"})] * 9)
    with pytest.raises(BadForge, match=says) as refusal:
        post()
    assert f"answers {status} to POST" in str(refusal.value) and TOKEN not in str(refusal.value)
    assert len([line for line in forge.asked if line.startswith("POST")]) == 1


def test_the_network_is_down(post):
    """Nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BadForge, match="cannot be reached .*after 6 attempts"):
        post(GITHUB_API_URL=url)


def test_a_token_goes_nowhere_else(forge, post):
    """Not to an address that is not encrypted, not along a redirection, and the storage that holds the artefact gets none."""
    with pytest.raises(BadForge, match="is not encrypted"):
        post(GITHUB_API_URL="http://api.example.org")
    forge.fail("GET .*pulls", (301, {"Location": f"{forge.url}/storage/1"}, ""))
    with pytest.raises(BadForge, match="set the address of the API"):
        post()
    forge.artifacts[12].append(packed({"report.json": write_statement(SAID)}))
    assert "is new" in post(artifact="uploaded")
    assert "GET /storage/1200" in forge.asked and forge.leaked == []


def test_a_token_is_never_shown(forge, tmp_path):
    """Not by the command, not with its traceback, whatever goes wrong; and it must come from the environment."""
    (tmp_path / "report.zip").write_bytes(packed({"report.json": write_statement(SAID)}))
    given = environment(forge, tmp_path)
    forge.fail("POST .*statuses", *[(403, {}, {"message": f"no {TOKEN}"})] * 2)
    for words in (["report", "--post", "report.zip"], ["--debug", "report", "--post", "report.zip"]):
        done = command(*words, cwd=tmp_path, **given)
        assert done.returncode in (1, 2) and TOKEN not in done.stdout + done.stderr
    wrong = command("report", "--post", "report.zip", cwd=tmp_path, **{**given, "GITHUB_TOKEN": "wrong-token-hunter2"})
    assert wrong.returncode == 2 and "the token is not valid" in wrong.stderr and "hunter2" not in wrong.stdout + wrong.stderr
    none = command("report", "--post", "report.zip", cwd=tmp_path, **{**given, "GITHUB_TOKEN": ""})
    assert none.returncode == 2 and none.stderr == "mlops-nb: there is no token: GITHUB_TOKEN is not set in the environment.\n"
    good = command("report", "--post", "report.zip", cwd=tmp_path, **given)
    assert good.returncode == 0 and good.stdout == "the comment on 7 is unchanged; the status of 5b0c766 is failure.\n", good.stderr


BAD = "</code></pre></details>\n\n<script>alert(1)</script><img src=http://evil.example/x.png> ![x](//evil.example) [a](http://evil.example) @everyone fixes #1 GH-2\n/merge\n```\n||| \u202e http://evil.example"


def test_hostile_texts_stay_texts(forge, post):
    """Whatever is in a report: only our tags, only links to the repository and Binder, nothing outside of code, nobody is called, no line of its own."""
    hostile = replace(
        SAID, why=BAD, before=BAD, after=BAD, where=BAD, pipeline=BAD, metrics=(Metric(BAD, BAD, BAD, BAD, "better"),), notes=(BAD,),
        results=(Result(BAD, BAD, BAD, BAD, BAD),), reasons=(Reason("code", BAD, BAD),), commands=(Command("t", ""), Command("t", " "), Command(BAD, BAD)), notebooks=("results/stars/10_train.ipynb",),
    )  # fmt: skip
    post(hostile)
    body = forge.comments[0]["body"]
    assert "\n\n" not in body[body.index("<details") : body.rindex("</details>")].replace("</details>\n\n<", ""), "a blank line would end the HTML"
    seen = Comment(body)
    assert set(seen.tags) <= set(TAGS)
    assert all(link.startswith(("https://github.com/someone/stars/", "https://mybinder.org/v2/gh/fork/stars/")) for link in seen.links)
    assert not re.search(r"evil|@|#1|GH-|alert|merge|\u202e", seen.plain) and "\u202e" not in body
    assert not [line for line in body.splitlines() if line.startswith(("/", "```", "!", "["))]
    assert "\n" not in forge.statuses[0]["description"]


def changed(**fields):
    return packed({"report.json": json.dumps(json.loads(write_statement(SAID)) | fields)})


def bomb():
    return packed({"report.json": "[" + " " * 50_000_000 + "]"})


def many():
    return packed({f"{n}.txt": "" for n in range(1000)})


def lying():
    """Its directory says that report.json is small, and it is not."""
    content = bytearray(packed({"report.json": "[" + " " * 5_000_000 + "]"}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    return bytes(content)


HOSTILE = {
    "path traversal": (lambda: packed({"../../../home/runner/.bashrc": "x", "report.json": write_statement(SAID)}), "'../../../home/runner/.bashrc' in it"),
    "absolute path": (lambda: packed({"/etc/passwd": "x"}), "'/etc/passwd' in it"),
    "backslashes": (lambda: packed({"..\\report.json": "x"}), "in it, and only files"),
    "symbolic link": (lambda: packed({"report.json": "/proc/self/environ"}, links=["report.json"]), "'report.json' in it, a link"),
    "bomb": (bomb, "would grow from"),
    "lying bomb": (lying, "nothing is posted"),
    "unusual packing": (lambda: packed({"report.json": write_statement(SAID)}, kind=zipfile.ZIP_LZMA), "is packed in an unusual way"),
    "two of a name": (lambda: packed({"report/report.json": write_statement(SAID), "report.json": write_statement(SAID)}), "two files called report.json"),
    "many files": (many, "only files called"),
    "huge": (lambda: b"PK" + b"\0" * MOST_ZIP, "and a report has 30,000,000 at most"),
    "no zip": (lambda: b"<html>", "not a zip that can be read"),
    "cut off": (lambda: packed({"report.json": write_statement(SAID)})[:-30], "not a zip that can be read"),
    "empty": (lambda: packed({"report.md": "# hello"}), "has no report.json"),
    "not UTF-8": (lambda: packed({"report.json": b'{"why": "\xff\xfe"}'}), "is not UTF-8 at byte 9"),
    "half a character": (lambda: packed({"report.json": write_statement(SAID).replace("score", "\\\\ud800", 1).replace("\\\\ud800", "\\ud800")}), "not a report that this version"),
    "too long": (lambda: packed({"report.json": write_statement(SAID) + "".join(f"{n:x}" for n in range(300_000))}), "and a report has 1,000,000 at most"),
    "long text": (lambda: changed(why="x" * 5000), "why: String should have at most 2000"),
    "markup as headline": (lambda: changed(headline="<script>"), "headline: Input should be"),
    "a key of its own": (lambda: changed(**{"<script>@everyone": 1}), "Unexpected keyword"),
    "path of a notebook": (lambda: changed(notebooks=["../../../evil/stars"]), "notebooks.0"),
    "deep": (lambda: packed({"report.json": "[" * 100_000}), "not a report that this version"),
    "NaN as number": (lambda: changed(pull_request=float("nan")), "not a report that this version"),
    "wrong pull request": (lambda: changed(pull_request=1), "says that it is about pull request 1, and it comes from 7"),
    "wrong commit": (lambda: changed(commit="f" * 40), "is about commit fffffff, and the pull request is at 5b0c766"),
    "no commit": (lambda: changed(commit=None), "changes that are in no commit"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_artefact_is_refused_in_one_sentence(forge, post, kind, tmp_path):
    """Nothing is posted, nothing is written, whichever way it comes."""
    content, why = HOSTILE[kind]
    content = content()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadReport, match=re.escape(why)) as refusal:
        post(content=content)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 400
    forge.artifacts[12].append(content)
    with pytest.raises(BadReport):
        post(artifact="uploaded")
    assert forge.comments == forge.statuses == []
    assert {path.name for path in set(tmp_path.rglob("*")) - set(before)} == {"report.zip", "event.json"}


def test_a_folder_is_read_with_the_same_care(post, tmp_path):
    """Also one that somebody unpacked: no link is followed, no other file is there."""
    folder = tmp_path / "report"
    folder.mkdir()
    (folder / "report.json").write_text(write_statement(SAID))
    (folder / "report.md").write_text("# anything")
    assert "is new" in post(artifact=str(folder))
    (folder / "report.html").symlink_to("/etc/passwd")
    with pytest.raises(BadReport, match=r"'report\.html' in it"):
        post(artifact=str(folder))
    with pytest.raises(BadReport, match="there is no report at"):
        post(artifact=str(tmp_path / "nothing"))


def test_which_pull_request_is_asked_of_the_forge(forge, post):
    """That of a fork, by branch and commit, among others; of two with the same head, the one that the report names."""
    forge.pulls = [pull_of("a" * 40, 1, branch="other"), pull_of(COMMIT, 2, head="someone/stars"), pull_of(COMMIT, 7), pull_of(COMMIT, 9)]
    assert "the comment on 7" in post()
    assert "the comment on 9 is new" in post(replace(SAID, pull_request=9))
    for number in (1, 2):
        with pytest.raises(BadReport, match=f"is about pull request {number}, and it comes from 7 or 9"):
            post(replace(SAID, pull_request=number))
    with pytest.raises(BadReport, match="does not say whether it is about pull request 7 or 9"):
        post(replace(SAID, pull_request=None))


def test_what_was_overtaken_is_not_posted_and_is_no_failure(forge, post, tmp_path):
    """A newer commit, a closed pull request, a run for something else."""
    forge.pulls = [pull_of("a" * 40)]
    assert post() == "nothing is posted: 5b0c766 is no longer the last commit of fork:better."
    forge.pulls = [pull_of(COMMIT, state="closed")]
    assert post() == "nothing is posted: no open pull request comes from fork:better."
    assert post(GITHUB_EVENT_PATH=write_event(tmp_path / "push.json", COMMIT, event="push")) == "nothing is posted: the run was for push, not for a pull request."
    assert forge.comments == forge.statuses == []


def test_a_run_that_uploaded_nothing_has_a_status_that_says_so(forge, post):
    assert post(artifact="uploaded") == "the run has uploaded no report; the status of 5b0c766 says so."
    assert forge.statuses[0]["state"] == "error" and forge.comments == []


def test_without_the_event_nobody_knows_which(post, tmp_path):
    """Neither without a file, nor with the event of something else."""
    (tmp_path / "other.json").write_text('{"pull_request": {"number": 7}}')
    for file in ("", str(tmp_path / "none"), str(tmp_path / "other.json")):
        with pytest.raises(BadForge, match="workflow_run"):
            post(GITHUB_EVENT_PATH=file)


def gitlab(forge, **merge):
    forge.user = {"id": 77, "username": "project_5_bot", "login": "bot"}
    forge.merge = {"iid": 7, "state": "opened", "sha": COMMIT, "ref": "refs/merge-requests/7/head", "measured": COMMIT, "web_url": "https://gitlab.com/group/stars/-/merge_requests/7", **merge}
    return {"GITLAB_CI": "true", "CI_API_V4_URL": forge.url, "GITLAB_TOKEN": TOKEN, "CI_PROJECT_ID": "5", "REPORT_PIPELINE": "31", "GITHUB_TOKEN": ""}


def test_gitlab_has_one_note_and_a_status_too(forge, post):
    """Made, brought up to date, with the report among the artefacts of the pipeline; a stranger's note is left alone."""
    variables = gitlab(forge)
    forge.comments.append({"id": 1, "author": {"id": 3}, "body": MARK})
    forge.artifacts[31].append(packed({"report/": "", "report/report.json": write_statement(SAID), "report/report.html": "<p>"}))
    assert post(artifact="uploaded", **variables) == "the comment on 7 is new; the status of 5b0c766 is failed."
    assert "is updated" in post(replace(SAID, headline="passes"), **variables)
    assert len(forge.comments) == 2 and "PUT /projects/5/merge_requests/7/notes/1001" in forge.asked
    assert [(one["name"], one["state"]) for one in forge.statuses] == [("mlops-nb", "failed"), ("mlops-nb", "success")]
    assert "https://gitlab.com/group/stars/-/pipelines/31" in Comment(forge.comments[1]["body"]).links
    assert f"https://mybinder.org/v2/gl/group%2Fstars/{COMMIT}?urlpath=lab%2Ftree" in Comment(forge.comments[1]["body"]).links


def test_gitlab_says_which_merge_request_it_was(forge, post):
    """The number of the pipeline is checked with GitLab, whoever gave it."""
    with pytest.raises(BadReport, match="it comes from 8"):
        post(**gitlab(forge, ref="refs/merge-requests/8/head"))
    assert "no longer the last commit" in post(**gitlab(forge, sha="a" * 40))
    assert "not for the commits of a merge request" in post(**gitlab(forge, ref="main"))
    with pytest.raises(BadForge, match="REPORT_PIPELINE is missing"):
        post(**{**gitlab(forge), "REPORT_PIPELINE": "31/../../6"})
    assert forge.comments == forge.statuses == []


def test_two_that_post_at_once_do_no_harm(forge, tmp_path):
    """At worst there are two comments for a while (the workflow lets one wait for the other); nothing breaks."""
    (tmp_path / "report.zip").write_bytes(packed({"report.json": write_statement(SAID)}))
    given, found = environment(forge, tmp_path), []
    threads = [threading.Thread(target=lambda: found.append(post_report(str(tmp_path / "report.zip"), given, patience=QUICK))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 3 and 1 <= len(forge.comments) <= 3


def test_posting_imports_nothing_heavy(tmp_path):
    """Neither what draws and computes, nor what executes notebooks."""
    code = "import sys, mlops_nb.cli, mlops_nb.post; print([name for name in ('numpy', 'pandas', 'matplotlib', 'scipy', 'papermill', 'nbclient', 'IPython', 'nbformat') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path).stdout == "[]\n"


def test_names_of_notebooks_are_those_that_files_may_have(forge, post):
    """What `mlops-nb report` writes is taken; what leaves the repository, is hidden or is not seen whole, is not."""
    names = ("results/stars/10_train.v2 (b).ipynb", "results/c++/a#1 & b.ipynb", "results/sterne/größe@2.ipynb", "results/<b>x.ipynb")
    assert "is new" in post(replace(SAID, notebooks=names))
    body = forge.comments[0]["body"]
    links = [link for link in Comment(body).links if "/blob/" in link]
    assert len(links) == 4 and links[1] == f"https://github.com/someone/stars/blob/{COMMIT}/results/c%2B%2B/a%231%20%26%20b.ipynb" and "<b>" not in body
    for name in ("../a", "a/../b", ".git/a", "a//b", "/a", "a\nb", "a\x07", "a\u202eb", "a\u200bb", "a\\b", "a/", ""):
        with pytest.raises(BadReport, match=r"notebooks\.0"):
            post(replace(SAID, notebooks=(name,)))


def test_a_token_across_the_place_where_a_message_is_cut_is_not_shown(forge, post):
    forge.fail("POST .*comments", (401, {}, {"message": "x" * 190 + TOKEN}))
    with pytest.raises(BadForge) as refusal:
        post()
    assert TOKEN[:4] not in str(refusal.value) and "x…" in str(refusal.value)


def test_a_fork_that_is_gone_is_no_failure(forge, post, tmp_path):
    event = event_of(COMMIT)
    event["workflow_run"]["head_repository"] = None
    (tmp_path / "gone.json").write_text(json.dumps(event))
    assert post(GITHUB_EVENT_PATH=str(tmp_path / "gone.json")) == "nothing is posted: the repository that the pull request comes from is gone."
    assert forge.comments == forge.statuses == []


def test_the_comment_of_an_app_is_brought_up_to_date(forge, post):
    """Its token may not ask who it is either; and a person is no bot, whatever the name."""
    forge.comments += [{"id": 1, "user": {"login": "mallory", "type": "User"}, "body": MARK}, {"id": 2, "user": {"login": "mallory[bot]", "type": "User"}, "body": MARK}]
    forge.comments.append({"id": 3, "user": {"login": "my-app[bot]", "type": "Bot"}, "body": MARK})
    assert "is updated" in post() and len(forge.comments) == 3
    assert [one["body"] == MARK for one in forge.comments] == [True, True, False]


@pytest.mark.parametrize(("what", "content", "says"), [
    ("GET .*pulls", {"message": f"odd {TOKEN}"}, r"with no list; is this the address of its API\? It says: odd …"),
    ("GET .*pulls", ["x"], "with no list"),
    ("GET .*pulls", [{"head": None}], "list of pull requests is missing, or not of the usual form"),
    ("GET .*artifacts", {"total_count": 1}, "with no list of artifacts"),
    ("GET .*artifacts", {"artifacts": [{"name": "report"}]}, "list of artifacts is missing"),
    ("GET .*comments", {"message": "odd"}, "with no list"),
    ("GET .*user", [], "answer to /user is missing"),
], ids=["message", "texts", "no head", "no key", "no id", "comments", "user"])  # fmt: skip
def test_an_answer_of_another_form_is_said_in_one_sentence(forge, post, what, content, says):
    forge.artifacts[12].append(packed({"report.json": write_statement(SAID)}))
    forge.fail(what, (200, {}, content))
    with pytest.raises(BadForge, match=says) as refusal:
        post(artifact="uploaded")
    assert TOKEN not in str(refusal.value)


def test_an_event_that_is_broken_is_said(post, tmp_path):
    for content in (b"{", b"", b"\xff\xfe", b"[" * 100_000):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(BadForge, match="cannot be read as JSON"):
            post(GITHUB_EVENT_PATH=str(tmp_path / "broken.json"))
