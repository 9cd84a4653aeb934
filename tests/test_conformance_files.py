"""Files of a run: whether one can be written is known before, and nothing is lost or left where it cannot."""

import os
import stat

import pytest

from crossent_conformance import files


def test_to_ask_leaves_and_changes_nothing(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("old")
    os.utime(old, (1, 1))
    assert files.obstacle(old) is None
    assert files.obstacle(new) is None
    assert (old.read_text(), old.stat().st_mtime) == ("old", 1)
    assert list(tmp_path.iterdir()) == [old]


def test_what_is_in_the_way(tmp_path):
    assert files.obstacle(tmp_path) == "it is a directory"
    assert files.obstacle(tmp_path / "no" / "x") == f"there is no directory {tmp_path / 'no'}"
    assert files.obstacle(tmp_path / ("x" * 400)) == "File name too long"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_takes_no_new_files_may_have_an_old_one(tmp_path):
    old = tmp_path / "old.json"
    old.write_text("old")
    tmp_path.chmod(0o500)
    try:
        assert files.obstacle(tmp_path / "new.json") == "Permission denied"
        assert files.obstacle(old) is None
        files.write(old, b"new")
        assert old.read_text() == "new"
        old.chmod(0o400)
        assert files.obstacle(old) == "Permission denied"
    finally:
        tmp_path.chmod(0o700)


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    assert files.obstacle(link) is None
    files.write(link, b"first")
    files.write(link, b"second")
    assert link.is_symlink()
    assert target.read_text() == "second"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert files.obstacle(pipe) is None
    files.write(pipe, b"through")
    assert os.read(reader, 100) == b"through"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("old")

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
