"""Telling formats apart, passing options on, and adding a format."""

import json

import numpy as np
import pytest
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import FORMATS, load_scene, register
from nerf_dfa.scenes.load import recognise


@pytest.fixture
def blender(tmp_path):
    root = tmp_path / "blender"
    root.mkdir()
    Image.new("RGBA", (4, 4), (1, 2, 3, 255)).save(root / "a.png")
    matrix = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]
    content = {"camera_angle_x": 1.0, "frames": [{"file_path": "a", "transform_matrix": matrix}]}
    (root / "transforms_train.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def llff(tmp_path):
    root = tmp_path / "llff"
    (root / "images_2").mkdir(parents=True)
    for i in range(3):
        Image.new("RGB", (4, 4)).save(root / "images_2" / f"{i}.png")
    matrix = np.array([[0, 1, 0, 0, 8], [-1, 0, 0, 0, 8], [0, 0, 1, 0, 9]])
    np.save(root / "poses_bounds.npy", np.tile([*matrix.ravel(), 1, 2], (3, 1)))
    return root


def refused(*words, **arguments):
    with pytest.raises(UserError) as error:
        load_scene(**arguments)
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_formats_are_told_by_their_files(blender, llff):
    assert recognise(blender) == "blender"
    assert recognise(llff) == "llff"
    scene = load_scene(str(blender))
    assert (scene.name, scene.images.shape[-1], scene.ndc) == ("blender", 4, False)
    scene = load_scene(llff, factor=2)
    assert (scene.name, len(scene.split["train"]), scene.ndc) == ("llff", 2, True)


def test_options_reach_the_loader(blender, llff):
    assert load_scene(blender, "blender", half_res=True, near=1.0).images.shape == (1, 2, 2, 4)
    assert load_scene(llff, "llff", factor=2, llffhold=2).split["test"] == (0, 2)


def test_formats_say_which_options_they_read():
    assert FORMATS["blender"].options == ("half_res", "image_size", "testskip", "near", "far")
    assert FORMATS["llff"].options == (
        *("factor", "llffhold", "ndc", "spherify", "image_size", "bd_factor", "keep_world", "near", "far"),
    )


def test_what_cannot_be_read_is_said(tmp_path, blender):
    refused(tmp_path / "nowhere", "no such folder", datadir=tmp_path / "nowhere")
    refused(tmp_path, "transforms_train.json", "poses_bounds.npy", datadir=tmp_path)
    refused("bundler", "auto, ", "blender, llff", datadir=blender, dataset_type="bundler")
    refused(blender / "poses_bounds.npy", datadir=blender, dataset_type="llff")
    refused("factor", "blender", "half_res", datadir=blender, factor=4)


def test_a_format_can_be_added(tmp_path, blender, monkeypatch):
    monkeypatch.setattr("nerf_dfa.scenes.load.FORMATS", dict(FORMATS))

    def load(root, *, shade=0):
        scene = load_scene(blender, "blender")
        scene.images.fill_(shade)
        return scene

    register("grey", lambda root: (root / "grey.txt").is_file(), load, "grey.txt")
    (tmp_path / "grey.txt").touch()
    assert (load_scene(tmp_path, shade=7).images == 7).all()
    refused("shade", datadir=tmp_path, dataset_type="grey", half_res=True)
    # A folder of two formats is read as the one added first, unless told.
    (blender / "grey.txt").touch()
    assert load_scene(blender).images[0, 0, 0].tolist() == [1, 2, 3, 255]
    assert (load_scene(blender, "grey", shade=9).images == 9).all()
