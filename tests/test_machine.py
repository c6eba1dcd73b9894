"""What numbers were measured on."""

import subprocess

import pytest
import torch

from nerf_dfa import machine
from nerf_dfa.machine import git_commit


class TestGitCommit:
    @pytest.fixture
    def checkout(self, tmp_path, monkeypatch):
        monkeypatch.setattr(machine, "PROJECT", tmp_path.resolve())
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")

        def git(*arguments):
            identity = ["-c", "user.name=n", "-c", "user.email=e"]
            done = subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)
            return done.stdout.decode().strip()

        return git

    def test_clean_and_dirty(self, tmp_path, checkout):
        checkout("init")
        assert git_commit() is None  # no commit yet
        (tmp_path / "file").write_text("1")
        (tmp_path / "docs").mkdir()
        (tmp_path / "docs" / "table").write_text("1")
        checkout("add", ".")
        checkout("commit", "-m", "one")
        commit = checkout("rev-parse", "--short", "HEAD")
        assert git_commit() == commit
        (tmp_path / "untracked").touch()
        (tmp_path / "docs" / "table").write_text("2")
        assert git_commit() == commit
        (tmp_path / "file").write_text("2")
        assert git_commit() == commit + "+dirty"

    def test_outside(self, tmp_path, checkout):
        assert git_commit() is None

    def test_inside_somebody_elses(self, tmp_path, checkout, monkeypatch):
        checkout("init")
        (tmp_path / "file").touch()
        checkout("add", "file")
        checkout("commit", "-m", "one")
        (tmp_path / "site-packages").mkdir()
        monkeypatch.setattr(machine, "PROJECT", tmp_path.resolve() / "site-packages")
        assert git_commit() is None

    def test_without_git(self, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert git_commit() is None


def test_of_the_cpu_it_says_what_torch_uses():
    """A virtual machine's processors may all have one name, and differ threefold in what they multiply."""
    assert machine.machine()["cpu"].endswith(torch.backends.cpu.get_cpu_capability())
