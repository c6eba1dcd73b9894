"""Cautions as the programs show them, and other warnings as ever."""

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from nerf_dfa.errors import UserCaution, plain_cautions


def test_a_caution_is_one_line_inside_and_a_warning_as_others_are_outside(capsys):
    before = warnings.showwarning, list(warnings.filters)

    @plain_cautions("train.py")
    def main():
        for _ in range(2):  # Python would show the second one of a place in the code no more
            warnings.warn("a.png has no pose", UserCaution, stacklevel=1)
        return 3

    assert main() == 3
    assert capsys.readouterr().err == "train.py: warning: a.png has no pose\n" * 2
    assert (warnings.showwarning, warnings.filters) == before
    with pytest.warns(UserWarning, match="a.png has no pose"):
        warnings.warn("a.png has no pose", UserCaution, stacklevel=1)


def test_other_warnings_are_as_ever_inside():
    with pytest.warns(RuntimeWarning, match="of another library"), plain_cautions("train.py"):
        warnings.warn("of another library", RuntimeWarning, stacklevel=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        with plain_cautions("train.py"), pytest.raises(RuntimeWarning, match="of another library"):
            warnings.warn("of another library", RuntimeWarning, stacklevel=1)


def test_train_says_in_one_line_what_it_leaves_out(tiny_scene, tmp_path):
    """As a person runs it: a split of transforms.json in which a view is both for training and for testing."""
    root = tmp_path / "capture"
    root.mkdir()
    (root / "train").symlink_to(tiny_scene / "train")
    frames = (tiny_scene / "transforms_train.json").read_text()
    names = [f"train/r_{i}.png" for i in range(6)]
    lists = f'"train_filenames": {names}, "test_filenames": {names[4:]}'.replace("'", '"')
    (root / "transforms.json").write_text(frames.replace("{", "{" + lists + ",", 1))
    flags = ["--datadir", str(root), "--basedir", str(tmp_path), "--expname", "run", "--device", "cpu"]
    small = "--netdepth 1 --netwidth 4 --N_samples 2 --N_rand 2 --N_iters 1 --frames 1 --white_bkgd".split()
    for program, options in (
        ("train", [*flags, *small]),
        ("render", ["--run", str(tmp_path / "run"), "--pose", "0,30,4"]),
    ):
        command = [sys.executable, Path(__file__).parents[1] / f"{program}.py", *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if "warn" in line.lower()]
        said = f"{root / 'transforms.json'}: 2 images are both for training and for testing, train/r_4.png the first"
        assert lines == [f"{program}.py: warning: {said}"]
