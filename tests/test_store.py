"""Objects are whole or not there, whatever happens and however many write at once."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.digest import Digester, digest_bytes
from mlops_nb.errors import BadStore
from mlops_nb.store import Store, written_whole

NAMES = st.text("abcé .-_", min_size=1, max_size=8).map(str.strip).filter(lambda name: name not in ("", ".", ".."))
FOLDERS = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), st.binary(max_size=50), min_size=1, max_size=6)


@settings(deadline=None)  # a disk has slow moments
@given(FOLDERS)
def test_a_folder_comes_back_as_it_was(tmp_path_factory, files):
    root = tmp_path_factory.mktemp("store")
    written = write(root / "model", files)
    store = Store(root / "runs")
    digest, size_bytes = store.take(root / "model")
    store.lay_out(digest, root / "copy")
    assert contents(root / "copy") == written and size_bytes == sum(map(len, written.values()))
    assert Digester().digest(root / "copy") == (digest, size_bytes)
    store.link(digest, root / "linked")
    assert contents(root / "linked") == written
    assert not (root / "model").exists()


def write(folder: Path, files: dict[tuple[str, ...], bytes]) -> dict[str, bytes]:
    """Write files by their path's parts, except where a file would have to be a folder; return what was written."""
    folder.mkdir()
    for parts, data in files.items():
        path = folder.joinpath(*parts)
        if not path.exists() and not any(parent.is_file() for parent in path.parents):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Return bytes by path in the folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_many(folder: str, number: int) -> list[str]:
    """Keep the same objects as every other process does."""
    store = Store(Path(folder))
    for index in range(50):
        path = Path(folder).parent / f"{number}-{index}"
        path.write_bytes(b"%d" % index * 1000)
        store.take(path)
        store.lay_out(digest_bytes(b"%d" % index * 1000), Path(folder).parent / "shared" / str(index))
    return sorted(store.put(b"x%d" % index) for index in range(50))


def test_many_writers_of_the_same_objects(tmp_path):
    with ProcessPoolExecutor(4) as pool:
        answers = list(pool.map(put_many, [str(tmp_path / "runs")] * 4, range(4)))
    assert all(answer == answers[0] for answer in answers)
    store = Store(tmp_path / "runs")
    objects = [path for path in (tmp_path / "runs" / "objects").rglob("*") if path.is_file()]
    assert len(objects) == 100 and all(digest_bytes(path.read_bytes()) == path.parent.name + path.name for path in objects)
    assert store.read(answers[0][0])


def lay_out_folders(folder: str, digests: list[str]) -> None:
    """Put different folders in one place, again and again."""
    store = Store(Path(folder))
    for digest in digests * 20:
        store.lay_out(digest, Path(folder).parent / "models" / "network")


def test_many_lay_out_one_folder(tmp_path):
    """Whoever comes last, what lies there is one of the folders, whole."""
    store = Store(tmp_path / "runs")
    digests = []
    for number in range(2):
        write(tmp_path / "model", {("a",): b"%d" % number, ("deep", "b"): b"%d" % number})
        digests.append(store.take(tmp_path / "model")[0])
    with ProcessPoolExecutor(3) as pool:
        list(pool.map(lay_out_folders, [str(tmp_path / "runs")] * 3, [digests, digests[::-1], digests]))
    assert Digester().digest(tmp_path / "models" / "network")[0] in digests
    assert os.listdir(tmp_path / "models") == ["network"]


def test_a_writer_that_is_killed_leaves_nothing_half(tmp_path):
    """Killed after half of the bytes: the target is as it was, and the next writer is not disturbed."""
    target = tmp_path / "record.json"
    target.write_text("old")
    program = (
        "import os, sys, signal; from pathlib import Path; from mlops_nb.store import written_whole\n"
        "with written_whole(Path(sys.argv[1])) as beside:\n"
        "    beside.write_text('half of'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(target)]).returncode == -9
    assert target.read_text() == "old"
    with written_whole(target) as beside:
        beside.write_text("new")
    assert target.read_text() == "new"


def test_a_disk_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadStore, match="Nothing was changed"):
        Store(tmp_path / "file" / "runs").put(b"x")


def test_a_missing_and_a_damaged_object(tmp_path):
    store = Store(tmp_path / "runs")
    digest = store.put(b"good")
    store.path(digest).unlink()
    with pytest.raises(BadStore, match="has no object"):
        store.lay_out(digest, tmp_path / "x")
    store.put(b"good")
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"evil")
    with pytest.raises(BadStore, match="is damaged"):
        store.link(digest, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_link_in_an_output_is_refused_before_anything_moves(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a").write_text("a")
    (tmp_path / "model" / "b").symlink_to("/etc/hostname")
    with pytest.raises(BadStore, match="link"):
        Store(tmp_path / "runs").take(tmp_path / "model")
    assert (tmp_path / "model" / "a").exists()


def test_an_unchanged_file_is_read_once(tmp_path, monkeypatch):
    import time

    import mlops_nb.digest

    path = tmp_path / "stars.parquet"
    path.write_bytes(b"x" * 1000)
    time.sleep(2 * mlops_nb.digest.RACY_S)
    first = Digester(tmp_path / "digests.sqlite").digest(path)
    monkeypatch.setattr(mlops_nb.digest, "digest_file", lambda path: pytest.fail("read again"))
    assert Digester(tmp_path / "digests.sqlite").digest(path) == first
    (tmp_path / "digests.sqlite").write_bytes(b"not a database")
    monkeypatch.undo()
    assert Digester(tmp_path / "digests.sqlite").digest(path) == first, "a broken memory is no error"
