"""What compiled engines keep on disk: only what is whole, and no other user can have written, is read again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from crossent.engines import kept

CODE = bytes(range(256)) * 40
ELSEWHERE = 12345
needs_modes = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system's files have no owner and mode")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path / "kept"))
    kept._said.clear()
    return tmp_path / "kept"


def _kept(name="kernel.code"):
    path = kept.path(name)
    kept.keep(path, CODE)
    return path


def _foreign(path, monkeypatch):
    """Make that file or folder another user's."""
    if os.geteuid() == 0:
        os.chown(path, ELSEWHERE, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: ELSEWHERE)


def test_what_is_kept_is_read(folder, warnings):
    assert kept.read(kept.path("kernel.code")) is None
    path = _kept()
    assert kept.read(path) == CODE
    assert path.read_bytes().startswith(CODE), "to other tools it is what it was"
    assert not warnings()


@needs_modes
def test_what_is_made_is_for_this_user_alone(folder):
    assert _kept().stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_name_changes_with_what_it_is_made_from():
    names = {kept.name("a"), kept.name("b"), kept.name("a", 1), kept.name("a", "1"), kept.name("a", 1, b"text")}
    assert len(names) == 5
    assert kept.name("a", 1, b"text") == kept.name("a", 1, b"text")


DAMAGES = {
    "empty": lambda whole: b"",
    "cut": lambda whole: whole[:-1],
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "one bit": lambda whole: whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:],
    "longer": lambda whole: whole + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_not_read_and_replaced(folder, warnings, damage):
    path = _kept()
    path.write_bytes(damage(path.read_bytes()))
    for _ in range(2):
        assert kept.read(path) is None
    assert warnings() == [f"crossent compiles its kernel anew: {path} is damaged"]
    kept.keep(path, CODE)
    assert kept.read(path) == CODE
    assert list(folder.iterdir()) == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_as_a_damaged_file(folder, warnings):
    path = kept.path("kernel.code")
    folder.mkdir(mode=0o700)
    os.mkfifo(path, 0o600)
    # One that waits for a writer would wait for ever.
    writer = threading.Timer(5.0, path.write_bytes, (b"late",))
    writer.start()
    began = time.monotonic()
    assert kept.read(path) is None
    writer.cancel()
    assert time.monotonic() - began < 4.0
    assert warnings() == [f"crossent compiles its kernel anew: {path} is damaged"]
    kept.keep(path, CODE)
    assert kept.read(path) == CODE


def test_what_is_no_folder_is_said_to_be_none(folder, warnings):
    folder.touch(mode=0o666)
    assert kept.path("kernel.code") is None
    assert warnings() == [f"crossent can not keep its kernel on disk (NotADirectoryError: {folder} is not a folder)"]


def test_a_whole_file_under_the_name_of_another_is_not_read(warnings):
    path = _kept("one.code")
    other = path.replace(path.with_name("another.code"))
    assert kept.read(other) is None
    assert warnings() == [f"crossent compiles its kernel anew: {other} is damaged"]


@needs_modes
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777], ids=oct)
def test_a_folder_that_others_can_write_is_not_used(folder, warnings, mode):
    path = _kept()
    folder.chmod(mode)
    for _ in range(2):
        assert kept.path("kernel.code") is None
    why = f"PermissionError: {folder} can be written by other users (chmod go-w)"
    assert warnings() == [f"crossent can not keep its kernel on disk ({why})"]
    folder.chmod(0o755)
    assert kept.path("kernel.code") == path
    assert kept.read(path) == CODE


@needs_modes
def test_in_a_sticky_folder_this_users_files_are_read(folder, warnings):
    path = _kept()
    folder.chmod(0o1777)
    assert kept.path("kernel.code") == path
    assert kept.read(path) == CODE
    assert not warnings()


@needs_modes
@pytest.mark.parametrize("fault", ["owner", "group", "all"])
def test_a_file_that_another_user_may_have_written_is_not_read(monkeypatch, warnings, fault):
    path = _kept()
    if fault == "owner":
        _foreign(path, monkeypatch)
    else:
        path.chmod({"group": 0o620, "all": 0o602}[fault])
    assert kept.read(path) is None
    why = f"belongs to another user, number {path.stat().st_uid}" if fault == "owner" else "can be written by other"
    assert len(warnings()) == 1
    assert f"{path} {why}" in warnings()[0]
    if fault != "owner":
        kept.keep(path, CODE)
        assert kept.read(path) == CODE


@needs_modes
def test_a_folder_of_another_user_is_not_used(folder, monkeypatch, warnings):
    _kept()
    _foreign(folder, monkeypatch)
    assert kept.path("kernel.code") is None
    assert f"{folder} belongs to another user" in warnings()[0]


def test_a_system_without_owners_of_files_is_trusted(folder, monkeypatch, warnings):
    path = _kept()
    folder.chmod(0o777)
    monkeypatch.delattr(os, "geteuid", raising=False)
    assert kept.path("kernel.code") == path
    assert kept.read(path) == CODE
    assert not warnings()


def test_where_there_is_no_folder_nothing_is_kept():
    assert kept.read(None) is None
    kept.keep(None, CODE)


def test_a_file_that_cannot_be_read_or_replaced_costs_time_alone(folder, warnings):
    path = _kept()
    path.unlink()
    path.mkdir()
    (path / "occupied").touch()
    assert kept.read(path) is None
    kept.keep(path, CODE)
    assert len(warnings()) == 2
    assert all(words.startswith("crossent can not keep its kernel on disk") for words in warnings())
    assert list(folder.iterdir()) == [path], "what was half written is taken away"


def test_a_user_without_a_home_costs_time_alone(monkeypatch, warnings):
    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CROSSENT_CACHE_DIR")
    monkeypatch.delenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert kept.path("kernel.code") is None
    assert len(warnings()) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows has another folder for caches")
def test_the_folder_is_the_one_that_was_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("CROSSENT_CACHE_DIR", str(tmp_path / "asked"))
    assert kept.path("a", str(tmp_path / "otherwise")) == tmp_path / "asked" / "a"
    monkeypatch.setenv("CROSSENT_CACHE_DIR", "~/asked")
    assert kept.path("a") == tmp_path / "home" / "asked" / "a"
    monkeypatch.delenv("CROSSENT_CACHE_DIR")
    assert kept.path("a", str(tmp_path / "otherwise")) == tmp_path / "otherwise" / "a"
    assert kept.path("a", "~/otherwise") == tmp_path / "home" / "otherwise" / "a"
    assert kept.path("a", "") == tmp_path / "caches" / "crossent" / "a"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert kept.path("a") == tmp_path / "home" / ".cache" / "crossent" / "a"
