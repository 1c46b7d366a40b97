"""A forge on this machine: as much of the APIs of GitHub and GitLab as a report meets, with the failures that are asked of it. It takes no other token than TOKEN."""

import io
import json
import re
import stat
import threading
import zipfile
from collections import defaultdict

from flask import Flask, jsonify, make_response, redirect, request
from werkzeug.serving import make_server

TOKEN = "ghs_0123456789secret0123456789"
BOT = {"login": "github-actions[bot]", "id": 41898282}


def packed(files, links=(), kind=zipfile.ZIP_DEFLATED):
    """Return a zip of these files; those named in `links` are symbolic links to what they hold."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.compress_type = kind
            entry.external_attr = ((stat.S_IFLNK if name in links else stat.S_IFREG) | 0o644) << 16
            archive.writestr(entry, content)
    return held.getvalue()


class Forge:
    """One repository, someone/stars; on GitLab, project 5."""

    def __init__(self):
        self.pulls, self.comments, self.statuses = [], [], []
        self.artifacts = defaultdict(list)  # by the number of a run: zips
        self.failures = []  # [what of "METHOD path", answers that are given before the true one]
        self.asked = []  # "METHOD path" of each request
        self.leaked = []  # requests with a token that should have none
        self.page = 100
        self.user = None  # None: the token of a workflow, which may not ask who it is
        self.merge = {}
        app = Flask("forge")
        app.before_request(self.before)
        for rule, method, function in (
            ("/user", "GET", self.who),
            ("/repos/someone/stars/pulls", "GET", self.list_pulls),
            ("/repos/someone/stars/issues/<int:number>/comments", "GET", self.list_comments),
            ("/repos/someone/stars/issues/<int:number>/comments", "POST", self.add_comment),
            ("/repos/someone/stars/issues/comments/<int:number>", "PATCH", self.edit_comment),
            ("/repos/someone/stars/statuses/<commit>", "POST", self.add_status),
            ("/repos/someone/stars/actions/runs/<int:run>/artifacts", "GET", self.list_artifacts),
            ("/repos/someone/stars/actions/artifacts/<int:number>/zip", "GET", self.send_elsewhere),
            ("/storage/<int:number>", "GET", self.send_zip),
            ("/projects/5/pipelines/<int:run>", "GET", self.pipeline),
            ("/projects/5/pipelines/<int:run>/jobs", "GET", self.list_jobs),
            ("/projects/5/jobs/<int:number>/artifacts", "GET", self.send_zip),
            ("/projects/5/merge_requests/<int:number>", "GET", lambda number: jsonify(self.merge)),
            ("/projects/5/merge_requests/<int:number>/notes", "GET", self.list_comments),
            ("/projects/5/merge_requests/<int:number>/notes", "POST", self.add_comment),
            ("/projects/5/merge_requests/<int:of>/notes/<int:number>", "PUT", lambda of, number: self.edit_comment(number)),
            ("/projects/5/statuses/<commit>", "POST", self.add_status),
        ):
            app.add_url_rule(rule, f"{method} {rule}", function, methods=[method])
        self.server = make_server("127.0.0.1", 0, app, threaded=True)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def fail(self, what, *answers):
        """Give these answers (status, headers, content) to the first requests whose "METHOD path" matches; content "done" means that it is done nevertheless."""
        self.failures.append((what, list(answers)))

    def before(self):
        line = f"{request.method} {request.path}"
        self.asked.append(line)
        given = [value for name, value in request.headers if name in ("Authorization", "Private-Token", "Job-Token")]
        if request.path.startswith("/storage"):
            self.leaked += given
            return None
        if given not in ([f"Bearer {TOKEN}"], [TOKEN]):
            return jsonify(message=f"Bad credentials {given}"), 401
        for what, answers in self.failures:
            if re.search(what, line) and answers:
                status, headers, content = answers.pop(0)
                if content == "done":
                    self.add_comment(**request.view_args)
                return make_response(content if isinstance(content, str) else jsonify(content), status, headers)
        return None

    def listing(self, found, key=None):
        page, size = int(request.args.get("page", 1)), min(self.page, int(request.args.get("per_page", 30)))
        part = found[(page - 1) * size : page * size]
        answer = make_response(jsonify(part if key is None else {"total_count": len(found), key: part}))
        if page * size < len(found):
            answer.headers["Link"] = f'<{request.base_url}?page={page + 1}>; rel="next"'
        return answer

    def who(self):
        return (jsonify(message="Resource not accessible by integration"), 403) if self.user is None else jsonify(self.user)

    def list_pulls(self):
        """GitHub passes over a `head` that it does not understand and lists everything; so does this."""
        owner, _, branch = request.args.get("head", "").partition(":")
        mine = [pull for pull in self.pulls if not branch or (pull["head"]["repo"]["full_name"].partition("/")[0], pull["head"]["ref"]) == (owner, branch)]
        return self.listing([pull for pull in mine if pull["state"] == request.args.get("state", "open")])

    def list_comments(self, number):
        return self.listing([one for one in self.comments if one.get("on", number) == number])

    def add_comment(self, number):
        user = self.user or BOT
        self.comments.append({"id": 1000 + len(self.comments), "user": user, "author": user, "on": number, "body": request.json["body"]})
        return jsonify(self.comments[-1]), 201

    def edit_comment(self, number):
        next(one for one in self.comments if one["id"] == number)["body"] = request.json["body"]
        return jsonify({})

    def add_status(self, commit):
        assert len(request.json["description"]) <= 140
        self.statuses.append({"commit": commit, **request.json})
        return jsonify({}), 201

    def list_artifacts(self, run):
        return self.listing([{"id": run * 100 + n, "name": "report", "size_in_bytes": len(content), "expired": False} for n, content in enumerate(self.artifacts[run])], "artifacts")

    def send_elsewhere(self, number):
        return redirect(f"{self.url}/storage/{number}?sig=abc")

    def send_zip(self, number):
        return make_response(self.artifacts[number // 100][number % 100])

    def pipeline(self, run):
        return jsonify({"id": run, "ref": self.merge["ref"], "sha": self.merge["measured"]})

    def list_jobs(self, run):
        return self.listing([{"id": run * 100 + n, "name": "report", "artifacts_file": {}} | {"artifacts_file": {"size": len(content)}} for n, content in enumerate(self.artifacts[run])])


def pull_of(commit, number=7, branch="better", head="fork/stars", state="open"):
    """Return a pull request as GitHub describes it."""
    return {"number": number, "state": state, "head": {"ref": branch, "sha": commit, "repo": {"full_name": head}}, "base": {"ref": "main", "repo": {"html_url": "https://github.com/someone/stars"}}}


def event_of(commit, run=12, branch="better", head="fork/stars", event="pull_request"):
    """Return the event `workflow_run`; for a fork, it names no pull request."""
    repository = {"full_name": head, "owner": {"login": head.partition("/")[0]}}
    return {"workflow_run": {"id": run, "name": "report", "event": event, "head_sha": commit, "head_branch": branch, "head_repository": repository, "pull_requests": []}}


def write_event(file, *words, **named):
    """Write it where the forge writes it; return the path."""
    file.write_text(json.dumps(event_of(*words, **named)))
    return str(file)
