"""Files that are whole, and locks that keep a second process out."""

import subprocess
import sys

import pytest

from nerf_dfa import files
from nerf_dfa.errors import UserError
from nerf_dfa.files import alone, write_text

HOLDER = """
import sys, time
from pathlib import Path
from nerf_dfa.files import alone
with alone(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is in."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path / ".lock"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_kept_out_until_the_first_has_gone(tmp_path, holder):
    with pytest.raises(UserError, match="another process is writing here"), alone(tmp_path / ".lock"):
        pass
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock").exists()  # what a killed one leaves
    with alone(tmp_path / ".lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_what_fails_inside_lets_others_in(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), alone(tmp_path / ".lock"):
            raise KeyError
    with alone(tmp_path / ".lock"), pytest.raises(UserError), alone(tmp_path / ".lock"):
        pass


def test_without_locks_all_come_in(tmp_path, monkeypatch, holder):
    def none(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with alone(tmp_path / ".lock"):
        pass
    monkeypatch.setattr(files, "fcntl", None)
    with alone(tmp_path / ".lock"):
        pass


def test_a_file_removed_while_it_was_opened_is_no_lock(tmp_path, monkeypatch):
    """Whoever had it removes it between another's opening and locking: that one takes the new file."""
    plain, calls = files.fcntl.flock, []

    def late(file, how):
        if not calls:
            (tmp_path / ".lock").unlink()
        calls.append(file)
        plain(file, how)

    monkeypatch.setattr(files.fcntl, "flock", late)
    with alone(tmp_path / ".lock"):
        assert len(calls) == 2
        assert (tmp_path / ".lock").exists()


def test_text_is_written_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
