"""What numbers were measured on."""

import os
import subprocess
import sys

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


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "5000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),  # which a number would overrule
    ],
)
def test_threads_that_wait_do_not_keep_a_core_for_long_unless_told_to(chosen, expected):
    environment = {name: x for name, x in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    program = "import sys, os, nerf_dfa; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | chosen, check=True, capture_output=True, text=True
    )
    assert done.stdout.split() == [str(expected), "False"]  # torch reads it when it is loaded
