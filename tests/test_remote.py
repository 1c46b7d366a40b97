"""What one machine ran is there for every other; what is half, damaged or out of reach is never used, and ends no run."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from making import all_bytes, command, until, write_project

import mlops_nb.remote
from mlops_nb.digest import digest_bytes, digest_file
from mlops_nb.errors import UnreachableRemote
from mlops_nb.jobs import Watch
from mlops_nb.pipeline import run_pipeline
from mlops_nb.plain import dump
from mlops_nb.record import runs_in, write_record
from mlops_nb.remote import Remote, fetch, fetch_object, needed, send, send_all, send_new, send_object, send_run, shared
from mlops_nb.settings import read_settings
from mlops_nb.status import read_status
from mlops_nb.store import Store

SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCY"
STEPS = {
    "10_make": ('table = Output("data/table.csv")\nsize: int = 3', "open(table, 'w').write('x' * size)\nglue('size', size)"),
    "20_use": (
        'table = Input("data/table.csv")\nmodel = Output("models/network")',
        "import os\nos.makedirs(model + '/deep')\nfor name in ('a', 'deep/b'):\n    open(f'{model}/{name}', 'w').write(name + open(table).read())",
    ),
}


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A server that speaks the protocol of S3, and its log; the environment leads there."""
    log = tmp_path_factory.mktemp("s3") / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=file, stderr=file, cwd=log.parent)
    patch = pytest.MonkeyPatch()
    try:
        until(lambda: "Running on" in log.read_text())
        patch.setenv("AWS_ENDPOINT_URL", re.search(r"http://127.0.0.1:\d+", log.read_text())[0])
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield log
    finally:
        patch.undo()
        process.terminate()
        process.wait()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Let a server answer later than the product waits: a machine that stands still for ten seconds is no bucket that cannot be reached."""
    monkeypatch.setattr(mlops_nb.remote, "ANSWER_S", 60.0)


@pytest.fixture(params=["folder", "s3"])
def url(request, tmp_path):
    """The URL of an empty shared store; in a bucket for a test in which that may make a difference."""
    if request.param == "folder":
        (tmp_path / "shared").mkdir()
        return str(tmp_path / "shared")
    request.getfixturevalue("server")
    return bucket(tmp_path)


def bucket(tmp_path: Path) -> str:
    name = "b" + digest_bytes(str(tmp_path).encode())[:20]
    fsspec.filesystem("s3").mkdir(name)
    return f"s3://{name}/team"


def files(url: str) -> dict[str, bytes]:
    """Return bytes by path of what lies in a shared store."""
    fs, base = fsspec.url_to_fs(url, skip_instance_cache=True, use_listings_cache=False)
    return {path[len(base) + 1 :]: fs.cat_file(path) for path in fs.find(base)}


def write(url: str, path: str, data: bytes | None) -> None:
    """Change a file of a shared store behind everybody's back; None deletes it."""
    fs, base = fsspec.url_to_fs(url, skip_instance_cache=True)
    if data is None:
        return fs.rm_file(f"{base}/{path}")
    if fs.protocol[0] == "file":
        fs.makedirs(Path(base, path).parent, exist_ok=True)
    fs.pipe_file(f"{base}/{path}", data)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A project in git, with an edit that is not committed, whose pipeline has run without a shared store."""
    root = write_project(tmp_path_factory.mktemp("made") / "project", STEPS)
    (root / "notes.txt").write_text("draft\n")
    (root / ".gitignore").write_text("runs\ndata\nmodels\n")
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "Begin"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    (root / "notes.txt").write_text("nobody else's business\n")
    assert run_pipeline(root=root).succeeded
    return root


def clone(made: Path, root: Path, url: str, runs: bool, push: str = "yes") -> Path:
    """Return a clone of the project with this shared store: CI's, with its runs, or a laptop's, with nothing."""
    shutil.copytree(made, root, symlinks=True, ignore=None if runs else shutil.ignore_patterns("runs", "data", "models"))
    (root / "settings.ini").write_text(f"[store]\nremote = {url}\npush = {push}\n")
    return root


@pytest.fixture
def ci(made, tmp_path, url):
    """A machine with both runs; the shared store is empty yet."""
    return clone(made, tmp_path / "ci", url, runs=True)


@pytest.fixture
def laptop(made, tmp_path, url):
    """A machine that never ran anything, elsewhere."""
    return clone(made, tmp_path / "far" / "away" / "laptop", url, runs=False)


def store_of(root: Path) -> Store:
    return Store(read_settings(root).store)


def newest(root: Path, step: str = "use"):
    return runs_in(root / "runs", step=step, status="succeeded", limit=1)[0]


def ask(remote: Remote, run, store: Store, said: list | None = None) -> str | None:
    """Look for a run with the key of `run`, as a run of its template does."""
    paths = [file["path"] for file in run.record["outputs"].values()]
    return fetch(remote, run.key, run.template, paths, store, aloud=(said if said is not None else []).append)


def ran(root: Path, arguments: dict | None = None, **options) -> tuple[list[bool], list[str]]:
    """Run the pipeline; return for each step whether nothing was executed, and what was said aloud."""
    hits, said = [], []
    ended = run_pipeline(arguments=arguments, root=root, watch=Watch(on_end=lambda run, hit: hits.append(hit), on_warning=said.append), **options)
    assert ended.succeeded, ended.errors
    return hits, said


def test_what_ci_ran_is_a_hit_on_the_laptop_and_the_other_way_round(ci, laptop, url):
    """Nothing is executed, the outputs are the same bytes, and the laptop knows the runs as its own; then the laptop runs something that CI finds."""
    assert send_all(Remote(url), store_of(ci))[0] == 2
    assert ran(laptop) == ([True, True], [])
    for name in ("data/table.csv", "models/network/a", "models/network/deep/b"):
        assert (laptop / name).read_bytes() == (ci / name).read_bytes()
    assert [run.id for run in runs_in(laptop / "runs")] == [run.id for run in runs_in(ci / "runs")]
    assert all(run.notebook.exists() for run in runs_in(laptop / "runs"))
    assert [one.status for one in read_status(root=laptop)] == ["fresh", "fresh"]

    before = len(files(url))
    assert ran(laptop, {"make": {"size": 4}}, only="make") == ([False], [])
    assert len(files(url)) > before
    assert ran(ci, {"make": {"size": 4}}, only="make") == ([True], []) and (ci / "data/table.csv").read_text() == "xxxx"
    assert not (laptop / "runs/unsent").exists() or not os.listdir(laptop / "runs/unsent")


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_push_and_pull(ci, laptop, url):
    """`push` sends what was run before there was a shared store; `pull` fetches what there is, executes nothing, and says what is not there."""
    assert "make: 10_make.ipynb: no run with its key of today is here, nor in" in (nothing := command("pull", cwd=laptop)).stdout, nothing
    assert nothing.returncode == 1 and "use: it needs make" in nothing.stdout
    sent = command("push", cwd=ci)
    assert sent.returncode == 0 and sent.stdout.startswith("sent 2 runs ("), sent
    assert command("push", cwd=ci).stdout.startswith("sent 0 runs")
    pulled = command("pull", cwd=laptop)
    assert pulled.returncode == 0 and pulled.stdout == f"make: {newest(ci, 'make').id}\nuse: {newest(ci).id}\n", pulled
    assert [one.status for one in read_status(root=laptop)] == ["fresh", "fresh"]


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_step_whose_output_is_damaged_there_runs_and_mends_it(ci, laptop, url, tmp_path):
    """As a person sees it: a warning, a run that succeeds, and afterwards it is a hit for the others."""
    run = newest(ci, "make")
    send_run(Remote(url), run.id, store_of(ci))
    digest = run.record["outputs"]["table"]["digest"]
    write(url, f"objects/{digest[:2]}/{digest[2:]}", b"xx?")
    hits, said = ran(laptop, only="make")
    assert hits == [False] and len(said) == 1 and "is damaged" in said[0]
    assert files(url)[f"objects/{digest[:2]}/{digest[2:]}"] == b"xxx"
    assert ask(Remote(url), newest(laptop, "make"), Store(tmp_path / "third")) == newest(laptop, "make").id


def test_what_is_never_sent(ci, url, made):
    """Not the patch of uncommitted changes, not which process ran it, no credentials; not a run that failed."""
    store = store_of(ci)
    patch = newest(ci).record["revision"]["patch"]
    assert b"nobody else's business" in store.read(patch)
    send_all(Remote(url), store)
    held = b"\n".join(files(url).values())
    assert b"nobody else's business" not in held and patch.encode() in held
    assert b'"process"' not in held and SECRET.encode() not in held
    assert SECRET.encode() not in all_bytes(ci / "runs")


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_second_time_nothing_is_sent(ci, url):
    store, run = store_of(ci), newest(ci)
    assert send_run(Remote(url), run.id, store) > 0
    there = files(url)
    assert send_run(Remote(url), run.id, store) == 0 and files(url) == there


DAMAGES = {"truncated": lambda data: data[:-1], "changed": lambda data: data[:-1] + b"?", "empty": lambda data: b"", "missing": lambda data: None}


@pytest.mark.parametrize(
    ("url", "part", "damage"),
    [("s3", "file", "truncated"), ("s3", "file", "missing"), ("s3", "record", "changed")]
    + [("folder", part, damage) for part in ("file", "folder", "notebook", "record") for damage in DAMAGES],
    indirect=["url"],
)
def test_what_is_damaged_there_is_said_and_not_used_and_replaced(ci, laptop, url, part, damage):
    """Nothing of it gets a name here; the next run of the key that sends the same bytes replaces it."""
    store, run = store_of(ci), newest(ci)
    send_run(Remote(url), run.id, store)
    folder = run.record["outputs"]["model"]["digest"]
    digest = {"file": store.entries(folder)[0].digest, "folder": folder, "notebook": run.record["notebook"]}.get(part)
    names = [name for name in files(url) if (name.startswith("records/") if part == "record" else name == f"objects/{digest[:2]}/{digest[2:]}")]
    write(url, names[0], DAMAGES[damage](files(url)[names[0]]))

    remote, said, local = Remote(url), [], store_of(laptop)
    assert ask(remote, run, local, said) is None
    assert not runs_in(local.folder)
    assert all(digest_file(path) == path.parent.name + path.name for path in (local.folder / "objects").rglob("*") if path.is_file())
    if (part, damage) != ("record", "missing"):
        assert len(said) == 1 and ("lacks the object" if damage == "missing" else "is damaged") in said[0] and said[0].endswith("It is not used.")

    assert send(remote, run.id, store) and not remote.damaged
    if part == "record" and damage != "missing":
        return  # the damaged record stays beside those of later runs, which are looked at first
    assert ask(Remote(url), run, local) == run.id


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_an_older_run_of_the_key_stands_in_for_a_damaged_one(ci, laptop, url):
    store, run, said = store_of(ci), newest(ci), []
    send_run(Remote(url), run.id, store)
    later = {**shared(run.record), "id": "29991231T000000-use-ffffffff"}
    write(url, f"records/{run.key}/{later['id']}.{'0' * 64}.json", dump(later).encode())
    assert ask(Remote(url), run, store_of(laptop), said) == run.id and "is damaged" in said[0]


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_record_of_a_later_version_is_refused_clearly(ci, laptop, url):
    run, said = newest(ci), []
    text = dump({**shared(run.record), "format": 99}).encode()
    write(url, f"records/{run.key}/{run.id}.{digest_bytes(text)}.json", text)
    assert ask(Remote(url), run, store_of(laptop), said) is None
    assert "is of version 99" in said[0] and "upgrade mlops_nb" in said[0]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "failed"},
        {"template": "nbs/pipelines/stars/30_other.ipynb"},
        {"key": {"digest": "0" * 64, "parts": "0" * 64}},
        {"outputs": {}},
        {"outputs": {"model": {"path": "../../.bashrc", "digest": "0" * 64, "size_bytes": 1}}},
        {"notebook": "../../../etc/passwd"},
        {"outputs": None},
    ],
)
@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_record_of_somebodys_making_is_not_used(ci, laptop, tmp_path, url, change):
    """Its digest fits, because it was computed; what it tells does not."""
    run, said = newest(ci), []
    text = dump({**shared(run.record), **change}).encode()
    write(url, f"records/{run.key}/{run.id}.{digest_bytes(text)}.json", text)
    assert ask(Remote(url), run, store_of(laptop), said) is None and len(said) == 1 and ("is not that of a succeeded run" in said[0] or "is damaged: 'outputs' is null" in said[0])
    assert not (laptop / "runs/records").exists()


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_an_output_that_leads_out_of_its_folder_is_not_used(ci, laptop, url):
    store, run, said = store_of(ci), newest(ci), []
    evil = store.put(b"mlops-nb folder 1\n" + dump([["../../../.bashrc", store.put("rm"), 2]]).encode())
    record = {**run.record, "outputs": {"model": {**run.record["outputs"]["model"], "digest": evil}}}
    write_record(store.folder, record)
    send_run(Remote(url), run.id, store)
    assert fetch(Remote(url), run.key, run.template, ["models/network"], store_of(laptop), aloud=said.append) is None
    assert "leads out of it" in said[0]


# Killed on the way. The file system of a forked process writes half of a file and is killed, or just before or after a rename; every point is tried.


def killed_at(point: str, number: int, work) -> bool:
    """Do the work in a process that is killed at the n-th time it comes to this point; say whether it was."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1] == signal.SIGKILL
    try:
        from fsspec.implementations.local import LocalFileSystem

        seen, lock = [], threading.Lock()
        put_file, mv = LocalFileSystem.put_file, LocalFileSystem.mv

        def die(here: str, before=lambda: None) -> None:
            with lock:
                seen.append(here)
                if here == point and seen.count(point) == number:
                    before()
                    os.kill(os.getpid(), signal.SIGKILL)

        def half(self, source, target, **options):
            die("half", lambda: Path(target).write_bytes(Path(source).read_bytes()[: Path(source).stat().st_size // 2]))
            put_file(self, source, target, **options)

        def rename(self, source, target, **options):
            die("before the rename")
            mv(self, source, target, **options)
            die("after the rename")

        LocalFileSystem.put_file, LocalFileSystem.mv = half, rename
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("point", ["half", "before the rename", "after the rename"])
@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_sender_that_is_killed_leaves_nothing_half(ci, tmp_path, url, point):
    """Wherever it dies: what is there under its name is whole, nobody is told of anything damaged, and the next run sends the rest."""
    run, local = newest(ci), url
    for number in range(1, 20):
        shutil.rmtree(local)
        os.mkdir(local)
        shutil.rmtree(ci / "runs/unsent", ignore_errors=True)
        if not killed_at(point, number, lambda: send(Remote(local), run.id, store_of(ci))):
            break
        assert all(digest_file(path) == path.parent.name + path.name for path in Path(local, "objects").rglob("*") if path.is_file())
        elsewhere, said = Store(tmp_path / "elsewhere" / f"{number}"), []
        there = ask(Remote(local), run, elsewhere, said)
        assert said == [] and there == (run.id if list(Path(local).glob("records/*/*.json")) else None)
        assert os.listdir(ci / "runs/unsent") == [run.id]
        send_new(Remote(local), None, store_of(ci))
        assert os.listdir(ci / "runs/unsent") == [] and ask(Remote(local), run, elsewhere, said) == run.id
    assert number > len(needed(run.record))


KILLED = """
import os, signal, sys
from pathlib import Path
from s3fs import S3FileSystem
from mlops_nb.remote import Remote, send
from mlops_nb.store import Store

call, seen = S3FileSystem._call_s3, []
async def killed(self, method, *arguments, **options):
    seen.append(method)
    if seen.count(sys.argv[1]) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return await call(self, method, *arguments, **options)
S3FileSystem._call_s3 = killed
send(Remote(sys.argv[3]), sys.argv[4], Store(Path(sys.argv[5])))
"""


@pytest.mark.parametrize(("method", "number"), [("put_object", 4), ("put_object", 7), ("upload_part", 2)])
def test_a_sender_to_a_bucket_that_is_killed_leaves_nothing_half(server, made, tmp_path, method, number):
    """Also in the middle of a large file that is sent in parts: what is there is whole, and the next run sends the rest."""
    there = bucket(tmp_path)
    ci = clone(made, tmp_path / "ci", there, runs=True)
    run, store = newest(ci), store_of(ci)
    record = run.record
    if method != "put_object":
        record["outputs"] = {"model": {**record["outputs"]["model"], "digest": store.put(os.urandom(20 * 2**20))}}
        write_record(store.folder, record)
    words = [method, number, there, run.id, store.folder]
    assert subprocess.run([sys.executable, "-c", KILLED, *map(str, words)]).returncode == -signal.SIGKILL
    elsewhere, said = Store(tmp_path / "elsewhere"), []
    assert all(digest_bytes(data) == name[8:].replace("/", "") for name, data in files(there).items() if name.startswith("objects/"))
    assert ask(Remote(there), run, elsewhere, said) is None and said == []
    send_new(Remote(there), None, store)
    assert ask(Remote(there), run, elsewhere, said) == run.id and said == []


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_receiver_that_is_killed_leaves_nothing_half(ci, laptop, tmp_path, url):
    """It dies while an object arrives: no object under its name, no record; the next one fetches it."""
    run = newest(ci)
    send_run(Remote(url), run.id, store_of(ci))
    for number in range(1, 8):
        shutil.rmtree(laptop / "runs", ignore_errors=True)
        pid = os.fork()
        if not pid:
            from fsspec.implementations.local import LocalFileSystem

            arrived = []

            def half(self, source, target, arrived=arrived, number=number, **options):
                data = Path(source).read_bytes()
                arrived.append(source)
                Path(target).write_bytes(data[: len(data) // 2] if len(arrived) >= number else data)
                if len(arrived) >= number:
                    os.kill(os.getpid(), signal.SIGKILL)

            LocalFileSystem.get_file = half
            ask(Remote(url), run, store_of(laptop))
            os._exit(0)
        if os.waitpid(pid, 0)[1] == 0:
            break
        objects = [path for path in (laptop / "runs/objects").rglob("*") if path.is_file() and not path.name.startswith(".part-")]
        assert all(digest_file(path) == path.parent.name + path.name for path in objects) and not runs_in(laptop / "runs")
        assert ask(Remote(url), run, store_of(laptop)) == run.id
    assert number > 3


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_what_a_dead_sender_left_is_swept_after_a_day(ci, url):
    Path(url, "parts").mkdir()
    for name in (f"{int(time.time()) - 90_000}-aa", f"{int(time.time()) - 60}-bb"):
        Path(url, "parts", name).write_text("half")
    send_run(Remote(url), newest(ci).id, store_of(ci))
    assert [name[-2:] for name in os.listdir(Path(url, "parts"))] == ["bb"]


def test_several_machines_send_the_same_run_at_once(ci, laptop, url):
    """And others fetch it meanwhile: nobody is told of anything, and everything that is there is whole."""
    run, store, said = newest(ci), store_of(ci), []

    def machine(number: int) -> None:
        if number % 3:
            send_run(Remote(url), run.id, store)
        else:
            ask(Remote(url), run, Store(laptop / f"runs-{number}"), said)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(machine, range(12)))
    assert said == []
    assert all(digest_bytes(data) == name[8:].replace("/", "") for name, data in files(url).items() if name.startswith("objects/"))
    assert ask(Remote(url), run, store_of(laptop), said) == run.id and said == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_bucket_that_cannot_be_reached_ends_no_run(server, made, tmp_path):
    """It is said once, the run succeeds, and when the bucket is back the next run sends what this one could not, without executing anything."""
    there = bucket(tmp_path)
    laptop = clone(made, tmp_path / "laptop", there, runs=False)
    ended = command("run", "--only", "make", cwd=laptop, AWS_ENDPOINT_URL=f"http://127.0.0.1:{closed_port()}")
    assert ended.returncode == 0 and "succeeded" in ended.stderr
    assert ended.stderr.count("cannot be reached") == 1 and there in ended.stderr and SECRET not in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert os.listdir(laptop / "runs/unsent") == [newest(laptop, "make").id] and files(there) == {}
    again = command("run", "--only", "make", cwd=laptop)
    assert "fresh" in again.stderr and "cannot" not in again.stderr, again.stderr
    assert os.listdir(laptop / "runs/unsent") == [] and any(name.startswith("records/") for name in files(there))


def test_a_server_that_never_answers_costs_a_bounded_time(made, tmp_path, monkeypatch):
    """It accepts and says nothing: one question waits, the next ones do not."""
    monkeypatch.setattr(mlops_nb.remote, "ANSWER_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        remote, said, run = Remote("s3://stars/team"), [], newest(made)
        started = time.monotonic()
        for _ in range(40):
            assert ask(remote, run, Store(tmp_path), said) is None
        assert time.monotonic() - started < 30
    assert len(said) == 1 and "no answer within 1 s" in said[0]


def test_a_bucket_and_a_folder_that_are_not_there(server, made, tmp_path):
    """A share that is not mounted is not made on the local disk, and a bucket's name that is mistyped is said."""
    for there in (str(tmp_path / "not mounted"), "s3://no-such-bucket-0/team"):
        root, said = clone(made, tmp_path / there.replace("/", "-"), there, runs=True), []
        assert not send(Remote(there), newest(root).id, store_of(root), said.append)
        assert len(said) == 1 and there in said[0] and "make" in said[0]
        assert os.listdir(root / "runs/unsent") == [newest(root).id]
    assert not (tmp_path / "not mounted").exists()


def test_a_folder_that_may_only_be_read(made):
    """What is there is used; that nothing can be sent is said once, and what to set; nothing waits to be sent."""
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "shared").mkdir()
        ci, laptop = clone(made, base / "ci", str(base / "shared"), runs=True), Store(base / "laptop")
        make, use = newest(ci, "make"), newest(ci)
        send_run(Remote(str(base / "shared")), make.id, store_of(ci))
        for path in (base / "shared", *(base / "shared").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        subprocess.run(["chmod", "-R", "a+rwX", base / "ci"], check=True)
        laptop.folder.mkdir(mode=0o777)
        laptop.folder.chmod(0o777)
        pid = os.fork()
        if not pid:
            try:
                if os.geteuid() == 0:
                    os.setresuid(65534, 65534, 65534)
                remote, said = Remote(str(base / "shared")), []
                assert ask(remote, make, laptop, said) == make.id and said == []
                for _ in range(2):
                    assert not send(remote, use.id, store_of(ci), said.append)
                assert len(said) == 1 and "refuses" in said[0] and "push = ci" in said[0], said
                assert os.listdir(ci / "runs/unsent") == []
            except BaseException:
                import traceback

                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        subprocess.run(["chmod", "-R", "u+rwX", base], check=True)


def test_a_bucket_that_may_only_be_read(server, made, tmp_path):
    """As with a folder: said once, and nothing waits to be sent."""
    there, said = bucket(tmp_path), []
    name = there.split("/")[2]
    policy = {"Statement": [{"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{name}/*"}], "Version": "2012-10-17"}
    fsspec.filesystem("s3").call_s3("put_bucket_policy", Bucket=name, Policy=json.dumps(policy))
    ci, remote = clone(made, tmp_path / "ci", there, runs=True), Remote(there)
    for step in ("make", "use"):
        assert not send(remote, newest(ci, step).id, store_of(ci), said.append)
    assert len(said) == 1 and "refuses: Forbidden. " in said[0] and os.listdir(ci / "runs/unsent") == []


@pytest.mark.parametrize(("push", "ci_variable", "sends"), [("yes", "", True), ("no", "true", False), ("ci", "", False), ("ci", "true", True), ("ci", "false", False)])
def test_who_sends(made, tmp_path, monkeypatch, push, ci_variable, sends):
    (tmp_path / "shared").mkdir()
    root = clone(made, tmp_path / "clone", str(tmp_path / "shared"), runs=True, push=push)
    monkeypatch.setenv("CI", ci_variable)
    remote = mlops_nb.remote.remote_of(read_settings(root))
    assert send(remote, newest(root).id, store_of(root)) is sends
    assert bool(files(remote.url)) is sends and (sends or not (root / "runs/unsent").exists())


def test_credentials_in_a_url_are_refused_and_not_shown(made, tmp_path):
    root = clone(made, tmp_path / "clone", f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@stars/team", runs=True)
    ended = command("status", cwd=root)
    assert ended.returncode != 0 and SECRET not in ended.stdout + ended.stderr and "password" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_error_of_the_storage_shows_no_secret_of_the_environment(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    remote = Remote("memory://stars")
    with pytest.raises(UnreachableRemote, match="signed with … is wrong") as refusal:
        remote._answer(lambda: (_ for _ in ()).throw(RuntimeError(f"what was signed with {SECRET} is wrong\nmore")))
    assert SECRET not in str(refusal.value)


def test_a_package_that_is_missing_is_named(made, tmp_path):
    """Before anything is executed."""
    laptop = clone(made, tmp_path / "laptop", "s3://stars/team", runs=False)
    program = "import sys; sys.modules['s3fs'] = None; from mlops_nb.cli import main; main()"
    ended = subprocess.run([sys.executable, "-c", program, "run", "--only", "make"], cwd=laptop, capture_output=True, text=True)
    assert ended.returncode != 0 and "pip install 'mlops-nb[s3]'" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    assert not (laptop / "runs/records").exists()


def test_a_large_file_goes_to_a_bucket_in_parts(server, tmp_path):
    there, here, elsewhere = bucket(tmp_path), Store(tmp_path / "here"), Store(tmp_path / "elsewhere")
    digest = here.put(os.urandom(64 * 2**20))
    assert send_object(Remote(there), digest, here) == 64 * 2**20
    assert "partNumber=8" in server.read_text()
    fetch_object(Remote(there), digest, elsewhere)
    assert digest_file(elsewhere.path(digest)) == digest


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_the_team_may_write_in_what_one_of_them_made(ci, url):
    """Folders in a shared folder get its mode, whatever the sender's umask is."""
    Path(url).chmod(0o2775)
    send_run(Remote(url), newest(ci).id, store_of(ci))
    assert {path.stat().st_mode & 0o7777 for path in Path(url).rglob("*") if path.is_dir()} == {0o2775}


@pytest.mark.parametrize("url", ["folder"], indirect=True)
def test_a_remote_costs_nothing_where_nothing_is_to_do(ci, url):
    """Neither fsspec is imported nor the network asked: the store could be anywhere."""
    (ci / "settings.ini").write_text("[store]\nremote = s3://stars-that-nobody-has/team\n")
    program = "import sys; from mlops_nb.pipeline import run_pipeline; assert run_pipeline().succeeded; assert 'fsspec' not in sys.modules, 'imported'"
    assert subprocess.run([sys.executable, "-c", program], cwd=ci).returncode == 0
