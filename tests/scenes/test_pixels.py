import errno
import os

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import pixels
from nerf_dfa.scenes.images import load_images
from nerf_dfa.scenes.photographs import load_photographs


@pytest.fixture
def photographs(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    return paths


@pytest.mark.parametrize("size", [None, (5, 4)])
def test_mapped_pixels_are_those_in_memory(photographs, tmp_path, monkeypatch, size):
    in_memory = load_images(photographs, size)
    masks = [photographs[0], None, None]
    masked_in_memory = load_photographs(photographs, masks, size)
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(pixels, "MAPPED_FROM", 1)
    monkeypatch.setattr(pixels.tempfile, "tempdir", str(folder))
    mapped = load_images(photographs, size)
    if os.path.exists("/proc/self/maps"):
        with open("/proc/self/maps") as maps:
            assert str(folder) in maps.read()
    assert torch.equal(mapped, in_memory)
    assert torch.equal(load_photographs(photographs, masks, size), masked_in_memory)
    assert not list(folder.iterdir())


def test_a_full_disk_is_named(photographs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixels, "MAPPED_FROM", 1)
    monkeypatch.setattr(pixels.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pixels.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError) as caught:
        load_images(photographs)
    for word in (str(tmp_path), "3 images of 16x12", "TMPDIR"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
