"""Fixtures that several tests share."""

import os
from pathlib import Path

import pytest
import torch

from nerf_dfa.scenes.procedural import write_demo

# Tensors are small here: a second thread is mostly waited for, and on a busy machine for long.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_scene(tmp_path_factory) -> Path:
    """The demo scene in a few small views, in Blender format."""
    return write_demo(
        tmp_path_factory.mktemp("scenes") / "tiny", image_size=12, train_views=6, val_views=2, test_views=2
    )


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data sets, where there is one."""
    path = Path(os.environ.get("NERF_DFA_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real data: set NERF_DFA_DATA, or put it at {path}")
    return path


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
