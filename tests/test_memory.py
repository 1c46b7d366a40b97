"""What is remembered is never wrong: whatever happens to files, clocks, interpreters and the memory itself, the answer is that of one who looks anew."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from making import write_notebook

import mlops_nb.digest
import mlops_nb.reach
import mlops_nb.template
from mlops_nb.digest import Digester, Memory, digest_bytes, memory_in
from mlops_nb.kernelspec import kernel_folders
from mlops_nb.reach import code_digest, read_reach
from mlops_nb.template import read_template, recall_contracts, remember_contracts

CODE = "import stars\nfrom stars import units\nimport tools.deep\ntry:\n    import later\nexcept ImportError:\n    later = 0\nx = stars.fold(units.days(seed)) + tools.deep.one()"


@pytest.fixture
def project(tmp_path):
    """A template that imports a package, a module of it, and a namespace package."""
    files = {"stars/__init__.py": "def fold(t):\n    return t\n", "stars/units.py": "def days(t):\n    return t\n", "tools/deep.py": "def one():\n    return 1\n"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "steps").mkdir()
    write_notebook(tmp_path / "steps" / "train.ipynb", CODE, parameters="seed: int = 0")
    (tmp_path / "runs").mkdir()
    return tmp_path


def both(project, memory):
    """The reach with the memory, after it was compared with the reach of one who looks anew."""
    template = read_template(project / "steps" / "train.ipynb")
    found = read_reach(template, project, memory=memory)
    assert found == read_reach(template, project)
    assert code_digest(template, memory) == code_digest(template)
    return found


EDITS = {
    "a function": lambda root: (root / "stars/units.py").write_text("def days(t):\n    return -t\n"),
    "a module that shadows the package": lambda root: ((root / "steps/stars").mkdir(), (root / "steps/stars/__init__.py").write_text("def fold(t):\n    return 2\n")),
    "a module beside the template": lambda root: (root / "steps/stars.py").write_text("def fold(t):\n    return 3\n"),
    "a package in the place of a namespace": lambda root: (root / "tools/__init__.py").write_text("print('made')\n"),
    "a module that is gone": lambda root: (root / "stars/units.py").unlink(),
    "a module that is broken": lambda root: (root / "stars/units.py").write_text("def days(t:\n"),
    "a module in the place of its package": lambda root: (os.rename(root / "stars", root / "old"), (root / "stars.py").write_text("def fold(t):\n    return 4\n")),
    "a namespace that comes": lambda root: ((root / "later").mkdir(), (root / "later/one.py").write_text("")),
    "a namespace that is gone": lambda root: (root / "tools/deep.py").unlink(),
    "a link to another module": lambda root: ((root / "stars/units.py").unlink(), (root / "other.py").write_text("def days(t):\n    return 9\n"), os.symlink(root / "other.py", root / "stars/units.py")),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS)
def test_a_remembered_reach_is_that_of_today(project, edit):
    """Whatever a walk saw, or saw not to be there, is looked at again; also by another process, which knows only what is written."""
    memory = memory_in(project / "runs")
    before = both(project, memory)
    assert both(project, memory) == before
    memory.write()
    EDITS[edit](project)
    assert both(project, Memory(memory.file)) != before
    assert both(project, memory) != before


def test_an_edit_of_equal_size_and_time_is_seen(project):
    """A module edited again and again within moments, its size as it was and its modification time set back, is read as it is."""
    memory, path = memory_in(project / "runs"), project / "stars" / "units.py"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    seen = set()
    for number in range(40):
        path.write_text(f"def days(t):\n    return {number % 10}\n")
        os.utime(path, ns=times)
        seen.add(both(project, memory).code["stars/units.py: function days"])
    assert len(seen) == 10


def test_a_remembered_reach_is_used(project, monkeypatch):
    """Where nothing changed, no code is walked."""
    assert both(project, memory_in(project / "runs")).code
    memory = memory_in(project / "runs")
    both(project, memory)
    monkeypatch.setattr(mlops_nb.reach, "_Walk", None)
    assert read_reach(read_template(project / "steps" / "train.ipynb"), project, memory=memory).code


def test_what_another_python_found_is_found_again(project, monkeypatch):
    """Code is read by a version of Python and of this package; what others made of it is not taken."""
    template, memory = read_template(project / "steps" / "train.ipynb"), memory_in(project / "runs")
    expected = read_reach(template, project, memory=memory), code_digest(template, memory)
    remember_contracts([template], memory)
    memory.write()
    with sqlite3.connect(memory.file) as connection:
        connection.execute("UPDATE known SET value = '{\"looked\": {\"files\": {}, \"namespaces\": {}, \"folders\": {}}, \"code\": {}}' WHERE kind = 'reach'")
        connection.execute("UPDATE known SET value = 'another' WHERE kind = 'code'")
        connection.execute("UPDATE known SET value = '[]' WHERE kind = 'contract'")
    assert code_digest(template, memory) == "another", "else this test would show nothing"
    monkeypatch.setattr(mlops_nb.template, "reading", lambda: "of another version")
    monkeypatch.setattr(mlops_nb.reach, "reading", lambda: "of another version")
    assert (read_reach(template, project, memory=memory), code_digest(template, memory)) == expected
    mlops_nb.template._contracts.clear()
    recall_contracts([template], memory)
    assert not mlops_nb.template._contracts


def test_what_is_read_hangs_on_python_and_on_the_code_that_reads(monkeypatch):
    """Another Python, or an edit of the modules that read code, makes another state."""
    states = {mlops_nb.template.reading()}
    mlops_nb.template.reading.cache_clear()
    monkeypatch.setattr(sys, "version", "3.99")
    states.add(mlops_nb.template.reading())
    mlops_nb.template.reading.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"another " + path.name.encode())
    states.add(mlops_nb.template.reading())
    monkeypatch.undo()
    mlops_nb.template.reading.cache_clear()
    assert len(states) == 3 and mlops_nb.template.reading() in states


def test_a_contract_of_equal_size_and_time_is_read_again(tmp_path):
    """The bytes of a notebook decide what its contract is, not its times."""
    memory, path = Memory(tmp_path / "digests.sqlite"), tmp_path / "t.ipynb"
    found = []
    for value in (1, 2):
        write_notebook(path, "pass", parameters=f"seed: int = {value}")
        os.utime(path, (1e9, 1e9))
        mlops_nb.template._contracts.clear()
        template = read_template(path)
        recall_contracts([template], memory)
        remember_contracts([template], memory)
        found.append(template.parameters[0].default)
    assert found == [1, 2]


@pytest.mark.parametrize("damage", [b"", b"not a database", b"SQLite format 3\0" + bytes(200), None, "folder", "table", "cut"])
def test_a_damaged_memory_is_no_error(tmp_path, damage):
    """With a memory that is empty, broken, cut off, a folder, or made by something else, digests are right."""
    data, file = tmp_path / "data", tmp_path / "digests.sqlite"
    data.mkdir()
    for number in range(50):
        (data / f"{number}.txt").write_text(str(number))
    time.sleep(0.15)
    expected = Digester().digest(data)
    assert Digester(file).digest(data) == expected
    if damage is None:
        file.unlink()
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "table":
        file.unlink()
        with sqlite3.connect(file) as connection:
            connection.execute("CREATE TABLE known (something TEXT)")
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    else:
        file.write_bytes(damage)
    for _ in range(2):
        assert Digester(file).digest(data) == expected
    if damage not in ("folder", "table"):
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM files").fetchone() == (50,), "a broken one is made anew"
    (data / "7.txt").write_text("eight")
    assert Digester(file).digest(data) == Digester().digest(data) != expected


def test_a_memory_replaced_under_a_process_is_left(tmp_path):
    """A process that holds the memory open sees that the file is another one, and that it is gone."""
    memory, other = Memory(tmp_path / "digests.sqlite"), Memory(tmp_path / "other.sqlite")
    for one, value in ((memory, "1"), (other, "2")):
        one.remember("size", "a", "now", value)
        one.write()
    os.replace(tmp_path / "other.sqlite", tmp_path / "digests.sqlite")
    assert memory.recall("size", "a", "now") == "2"
    (tmp_path / "digests.sqlite").unlink()
    assert memory.recall("size", "a", "now") is None


@pytest.mark.parametrize("step_s", [-3600, -1, 1, 3600])
def test_a_clock_that_steps_hides_no_edit(tmp_path, monkeypatch, step_s):
    """A file is read again after every edit, though the clock was set back or forward between its writing and its reading."""
    path, real = tmp_path / "stars.txt", time.time
    digester = Digester(tmp_path / "digests.sqlite")
    monkeypatch.setattr(mlops_nb.digest.time, "time", lambda: real() + step_s)
    for number in range(100):
        path.write_text(f"{number:04d}")
        os.utime(path, (1e9, 1e9))
        assert digester.digest_file(path) == digest_bytes(f"{number:04d}".encode())
        if step_s < 0:
            assert not digester.known, "a file from the future is not remembered"


def test_where_times_are_whole_seconds_a_moment_is_longer(tmp_path, monkeypatch):
    """On a file system that counts in seconds, a file of this second is not remembered: it may change within it."""
    path, digester, of = tmp_path / "stars.txt", Digester(), mlops_nb.digest._identity
    path.write_text("abc")
    seconds = time.time() // 1 * 1_000_000_000
    monkeypatch.setattr(mlops_nb.digest, "_identity", lambda status: (*of(status)[:3], int(seconds), int(seconds)))
    begun_s = seconds / 1e9
    monkeypatch.setattr(mlops_nb.digest.time, "time", lambda: begun_s + 1.5)
    digester.digest_file(path)
    assert not digester.known
    seconds -= 3_000_000_000
    digester.digest_file(path)
    assert digester.known


def test_random_edits_of_a_folder(tmp_path):
    """Files added, removed, moved, swapped, rewritten: after each, the digest is that of one who reads everything."""
    folder, rng, digester = tmp_path / "data", random.Random(7), Digester(tmp_path / "digests.sqlite")
    (folder / "deep").mkdir(parents=True)
    for step in range(80):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        kind = rng.choice(["write", "write", "remove", "move", "swap", "touch", "wait"])
        if kind == "write" or len(files) < 3:
            (folder / rng.choice(["", "deep"]) / f"{rng.randrange(12)}.bin").write_bytes(rng.choice([b"aaaa", b"bbbb", b"cccc"]))
        elif kind == "remove":
            rng.choice(files).unlink()
        elif kind == "move":
            os.replace(rng.choice(files), folder / f"m{rng.randrange(5)}.bin")
        elif kind == "swap":
            one, other = rng.sample(files, 2)
            os.rename(one, tmp_path / "aside")
            os.rename(other, one)
            os.rename(tmp_path / "aside", other)
        elif kind == "touch":
            os.utime(rng.choice(files), (1e9, 1e9))
        elif step % 3 == 0:
            time.sleep(0.12)
        assert digester.digest(folder) == Digester().digest(folder) == Digester(tmp_path / "digests.sqlite").digest(folder)


AT_ONCE = """
import sys
from pathlib import Path
from mlops_nb.digest import Digester
print({Digester(Path(sys.argv[1])).digest(Path(sys.argv[2])) for _ in range(3)})
"""


def test_processes_may_use_one_memory_at_once(tmp_path):
    """Four processes that start with no memory find the same digest, and the memory is whole; one that is killed harms nobody."""
    data, file = tmp_path / "data", tmp_path / "digests.sqlite"
    data.mkdir()
    for number in range(300):
        (data / f"{number}.txt").write_text(str(number) * 100)
    time.sleep(0.15)
    processes = [subprocess.Popen([sys.executable, "-c", AT_ONCE, str(file), str(data)], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    processes[0].send_signal(signal.SIGKILL)
    answers = {process.communicate()[0].strip() for process in processes[1:]}
    assert answers == {str({Digester().digest(data)})}
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (300,)


def test_a_forked_process_uses_no_connection_of_its_parent(tmp_path):
    """A connection that was open before a fork is not used after it."""
    memory = Memory(tmp_path / "digests.sqlite")
    memory.remember("size", "a", "now", "1")
    memory.write()
    before = memory._opened[1]
    child = os.fork()
    if child == 0:
        memory.remember("size", "b", "now", memory.recall("size", "a", "now") or "")
        memory.write()
        os._exit(int(memory._opened[1] is before))
    assert os.waitpid(child, 0)[1] == 0
    assert memory.recall("size", "b", "now") == "1"


OPENED = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
sys.argv = ["mlops-nb", "status"]
from mlops_nb.cli import main
try:
    main()
except SystemExit:
    pass
print(len([name for name in opened if "/data/" in name]), *sorted({"pydantic", "asyncio", "jupyter_client", "nbformat", "papermill", "rich", "pandas"} & set(sys.modules)))
"""


def test_a_second_status_reads_no_input_and_imports_nothing_heavy(tmp_path):
    """The first status reads each of the inputs once, the second none of them; neither imports what only a run needs."""
    (tmp_path / "settings.ini").touch()
    (tmp_path / "data").mkdir()
    for number in range(200):
        (tmp_path / "data" / f"{number}.txt").write_text(str(number))
    (tmp_path / "nbs/pipelines/p").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    write_notebook(tmp_path / "nbs/pipelines/p/10_read.ipynb", "print(stars)", parameters='stars = Input("data")')
    time.sleep(0.15)
    said = [subprocess.run([sys.executable, "-c", OPENED], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split("\n") for _ in range(2)]
    assert [lines[-2] for lines in said] == ["200", "0"] and said[0][0] == said[1][0]


def test_where_kernelspecs_lie_follows_the_variables(tmp_path, monkeypatch):
    """Remembered folders are those of the same variables; with others, Jupyter is asked again."""
    memory = Memory(tmp_path / "digests.sqlite")
    before = kernel_folders(memory)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert kernel_folders(memory) != before and str(tmp_path / "kernels") in kernel_folders(memory)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert any(str(tmp_path / "home") in folder for folder in kernel_folders(memory)) or "JUPYTER_DATA_DIR" in os.environ
    assert json.dumps(kernel_folders(memory))


def test_old_memories_are_used(tmp_path):
    """The file of an earlier version, with another table, is taken over."""
    file = Path(tmp_path, "digests.sqlite")
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE digests (identity TEXT PRIMARY KEY, digest TEXT)")
    memory = Memory(file)
    memory.remember("size", "a", "now", "1")
    memory.write()
    assert Memory(file).recall("size", "a", "now") == "1"


def test_a_process_that_was_stopped_in_the_memory_stops_nobody(tmp_path, monkeypatch):
    """It is waited for once; what is found out meanwhile is written when the file is free again."""
    monkeypatch.setattr(mlops_nb.digest, "WAIT_S", 0.3)
    Memory(tmp_path / "digests.sqlite").remember("reach", "a", "1", "one")
    holder = sqlite3.connect(tmp_path / "digests.sqlite")
    holder.execute("BEGIN EXCLUSIVE")
    memory, began_s = Memory(tmp_path / "digests.sqlite"), time.monotonic()
    for number in range(50):
        assert memory.recall("reach", "a", "1") is None
        memory.remember("reach", f"b{number}", "1", "more")
        memory.write()
        assert memory.recall("reach", f"b{number}", "1") == "more"
    assert time.monotonic() - began_s < 5
    holder.close()
    monkeypatch.setattr(memory, "_stuck_until_s", 0.0)  # as half a minute later
    assert memory.recall("reach", "a", "1") == "one"
    memory.write()
    assert Memory(tmp_path / "digests.sqlite").recall("reach", "b49", "1") == "more"
