"""Flags and folder of a tiny run."""

import pytest
from nerf.runs import SMALL


@pytest.fixture
def flags(tiny_scene, tmp_path):
    """Flags of a tiny run in tmp_path/runs/tiny."""
    return ["--datadir", str(tiny_scene), "--basedir", str(tmp_path / "runs"), "--expname", "tiny", *SMALL]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "tiny"
