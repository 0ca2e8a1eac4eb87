"""Files are whole or as before, whatever goes wrong while they are written."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from convlstm import files
from convlstm.errors import OutputError
from convlstm.files import DRAFT, check_writable, remove_drafts, write_atomic, write_verified


def write_folder(draft: Path) -> None:
    draft.mkdir()
    (draft / "inner").mkdir()
    (draft / "inner" / "a").write_text("new")


def write_folder_of_killed(draft: Path) -> None:
    """Write what a process leaves that is killed between the two moves of a replacement."""
    (draft / "c.zarr").mkdir(parents=True)
    (draft / "c.zarr" / "a").write_text("new")
    (draft / "c.zarr~").mkdir()


def fail_on_call(monkeypatch: pytest.MonkeyPatch, name: str, number: int, error: BaseException) -> None:
    """Let the nth call of an os function fail, as a full disk or a lost connection would."""
    real, calls = getattr(os, name), iter(range(1, 1000))

    def failing(*args: object, **options: object) -> object:
        if next(calls) == number:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(os, name, failing)


def test_folders_are_made_and_text_is_written(tmp_path: Path) -> None:
    path = write_atomic(tmp_path / "a" / "b" / "c.txt", lambda draft: draft.write_text("whole"))
    assert path == tmp_path / "a" / "b" / "c.txt"
    assert path.read_text() == "whole"
    assert os.listdir(path.parent) == ["c.txt"]


def test_a_file_replaces_a_file(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")
    write_atomic(path, lambda draft: draft.write_text("new"))
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["c.txt"]


@pytest.mark.parametrize("name", ["c.zarr", "old", "x" * 250])
def test_a_folder_replaces_a_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    (path / "stale").write_text("old")
    write_atomic(path, write_folder)
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*")) == ["inner", "inner/a"]
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt()])
def test_writer_that_fails_leaves_the_old_content(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")

    def write(draft: Path) -> None:
        draft.write_text("half")
        raise error

    with pytest.raises(type(error)):
        write_atomic(path, write)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["c.txt"]


def test_a_full_disk_is_one_line_and_keeps_the_old_content(tmp_path: Path, refused) -> None:
    path = tmp_path / "c.txt"
    path.write_text("old")

    def write(draft: Path) -> None:
        draft.write_text("half")
        raise OSError(28, "No space left on device")

    with refused(OutputError, str(path)):
        write_atomic(path, write)
    with pytest.raises(OutputError, match=r"free space, got No space left on device, where [\d,]+ bytes are free\."):
        write_atomic(path, write)
    with pytest.raises(OutputError, match=r"expected a path with 4,000 bytes of free space, got No space"):
        write_atomic(path, write, size=4000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["c.txt"]


@pytest.mark.parametrize(
    "changed", [lambda content: content[:-1], lambda content: bytes([content[0] ^ 1]) + content[1:]]
)
def test_a_disk_that_stores_other_bytes_is_reported_and_the_old_content_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused, changed: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "c.txt"
    write_verified(path, b"old")
    assert path.read_bytes() == b"old"
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        for draft in tmp_path.glob(f".c.txt.*{DRAFT}/c.txt"):
            draft.write_bytes(changed(draft.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    with refused(OutputError, str(path)):
        write_verified(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["c.txt"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_lost_when_a_move_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool, number: int, error: BaseException
) -> None:
    path = tmp_path / "c"
    write: Callable[[Path], object] = write_folder if folder else lambda draft: draft.write_text("new")
    if folder:
        path.mkdir()
        (path / "a").write_text("old")
    else:
        path.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(files, "_exchange", lambda *paths: False)
        fail_on_call(patch, "replace", number, error)
        if folder or number == 1:
            with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
                write_atomic(path, write)
            assert (path / "a" if folder else path).read_text() == "old"
        else:
            write_atomic(path, write)
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="other systems cannot exchange folders")
def test_a_folder_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.zarr"
    path.mkdir()
    if not files._exchange(path, write_atomic(tmp_path / "other", write_folder)):
        pytest.skip("this file system cannot exchange folders")
    fail_on_call(monkeypatch, "replace", 1, AssertionError("no moment without the folder"))
    write_atomic(tmp_path / "other", write_folder)
    assert (path / "inner" / "a").read_text() == "new"
    assert (tmp_path / "other" / "inner" / "a").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["c.zarr", "other"]


KILLED = """
import os, sys
from pathlib import Path
from convlstm import files

path, number, real, done = Path(sys.argv[1]), int(sys.argv[2]), os.replace, []
files._exchange = lambda *paths: False

def replace(*paths):
    done.append(real(*paths) if len(done) + 1 < number else os._exit(9))

def write(draft):
    draft.mkdir()
    (draft / "a").write_text("new")

os.replace = replace
files.write_atomic(path, write)
"""


@pytest.mark.parametrize("number", [1, 2])
def test_a_process_killed_while_it_replaces_a_folder_loses_nothing(tmp_path: Path, number: int) -> None:
    path = tmp_path / "c.zarr"
    path.mkdir()
    (path / "a").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), str(number)], check=False)
    assert killed.returncode == 9
    assert path.exists() == (number == 1)
    remove_drafts(tmp_path)
    assert (path / "a").read_text() == ("old" if number == 1 else "new")
    assert os.listdir(tmp_path) == ["c.zarr"]


def test_drafts_of_killed_processes_are_removed_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    left = tmp_path / f".other.nc.abcdefgh{DRAFT}"
    left.mkdir()
    (left / "other.nc").write_text("half")
    (tmp_path / f".link{DRAFT}").symlink_to(tmp_path)
    with files._tmp_dir(tmp_path / "c") as running:
        write_atomic(tmp_path / "d", lambda draft: draft.write_text("new"))
        assert running.is_dir()
        assert not left.exists()
    assert sorted(os.listdir(tmp_path)) == [f".link{DRAFT}", "d"]


def test_a_folder_that_cannot_be_put_in_its_place_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = tmp_path / f".c.zarr.abcdefgh{DRAFT}"
    write_folder_of_killed(draft)
    with monkeypatch.context() as patch:
        fail_on_call(patch, "replace", 1, PermissionError(13, "Permission denied"))
        remove_drafts(tmp_path)
    assert (draft / "c.zarr" / "a").read_text() == "new"
    remove_drafts(tmp_path)
    assert (tmp_path / "c.zarr" / "a").read_text() == "new"
    assert os.listdir(tmp_path) == ["c.zarr"]


def test_a_draft_that_looks_like_a_replaced_folder_stays_out_of_the_way(tmp_path: Path) -> None:
    left = tmp_path / f".c~.abcdefgh{DRAFT}"
    left.mkdir()
    (left / "c~").write_text("half")
    remove_drafts(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path, refused) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name, write in (("c", lambda draft: draft.write_text("new")), ("c.zarr", write_folder)):
        target, link = tmp_path / "elsewhere" / name, tmp_path / name
        link.symlink_to(target)
        for _ in range(2):  # nothing there, and then old content
            assert write_atomic(link, write) == link
            assert link.is_symlink()
    assert (tmp_path / "elsewhere" / "c").read_text() == "new"
    assert (tmp_path / "elsewhere" / "c.zarr" / "inner" / "a").read_text() == "new"
    assert sorted(os.listdir(tmp_path)) == ["c", "c.zarr", "elsewhere"]
    assert sorted(os.listdir(tmp_path / "elsewhere")) == ["c", "c.zarr"]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with refused(OutputError, str(tmp_path / "loop")):
        write_atomic(tmp_path / "loop", lambda draft: draft.write_text("new"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_failed_fsync_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fail_on_call(monkeypatch, "fsync", number, OSError(5, "Input/output error"))
    with pytest.raises(OutputError, match="Input/output error"):
        write_atomic(tmp_path / "c", lambda draft: draft.write_text("new"))
    assert os.listdir(tmp_path) == ([] if number == 1 else ["c"])


def test_content_is_on_disk_before_it_is_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1])
    write_atomic(tmp_path / "c", lambda draft: draft.write_text("new"))
    assert calls == ["fsync", "replace", "fsync"]


def test_a_writer_that_writes_nothing_is_reported(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_atomic(tmp_path / "c", lambda draft: None)
    assert os.listdir(tmp_path) == []


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    written = write_atomic(tmp_path / "written", lambda draft: draft.write_text("x"))
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_file_and_folder_do_not_replace_each_other(tmp_path: Path, refused) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    write_atomic(folder, write_folder)
    file.write_text("old")
    for path, write in ((folder, lambda draft: draft.write_text("new")), (file, write_folder)):
        with refused(OutputError, str(path)):
            write_atomic(path, write)
        with pytest.raises(OutputError, match="Choose another path"):
            write_atomic(path, write)
    for path, is_folder in ((folder, False), (file, True)):
        with refused(OutputError, str(path)):
            check_writable(path, folder=is_folder)
        check_writable(path, folder=not is_folder)
    assert (folder / "inner" / "a").read_text() == "new"
    assert file.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_places_that_cannot_be_written_are_refused(tmp_path: Path, refused) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    for bad in (tmp_path / "pipe", Path("/dev/null"), tmp_path / "file" / "below", tmp_path / "file" / "a" / "b"):
        with refused(OutputError, str(bad)):
            check_writable(bad)
        with refused(OutputError, str(bad)):
            write_atomic(bad, lambda draft: draft.write_text("x"))
    check_writable(tmp_path / "to" / "be" / "made")
    assert sorted(os.listdir(tmp_path)) == ["file", "pipe"]


@pytest.mark.parametrize(("name", "number"), [("made/c", 1), ("c", 2)], ids=["parent", "room"])
def test_a_folder_that_cannot_be_made_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused, name: str, number: int
) -> None:
    fail_on_call(monkeypatch, "mkdir", number, OSError(28, "No space left on device"))
    with refused(OutputError, str(tmp_path / name)):
        write_atomic(tmp_path / name, lambda draft: draft.write_text("new"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_refused(tmp_path: Path, refused) -> None:
    tmp_path.chmod(0o500)
    with refused(OutputError, str(tmp_path / "c")):
        check_writable(tmp_path / "c")
