"""Downloading data sets: whole or not at all, and from nobody else."""

import io
import os
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from scenes.downloads import refused, sha, zipped

from nerf_dfa.scenes import download as module
from nerf_dfa.scenes import fetch as fetching
from nerf_dfa.scenes.blender import load_blender
from nerf_dfa.scenes.download import COLLECTIONS, Collection, download, main


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def toy(server, monkeypatch):
    """A collection of two scenes on the server."""
    server.body = zipped(
        [
            ("toy/one/sign.json", "{}"), ("toy/one/a.png", png("red")), ("toy/two/sign.json", "{}"),
            ("__MACOSX/toy/._one", "x"), ("toy/README.txt", "read"),
        ]
    )  # fmt: skip
    collection = Collection((server.address,), sha(server.body), len(server.body), ("one", "two"), "sign.json", "", "")
    monkeypatch.setitem(COLLECTIONS, "toy", collection)
    return collection


def test_download(server, toy, tmp_path, capsys):
    into = tmp_path / "new" / "scenes"
    assert download("toy", into) == into / "toy"
    assert [path.name for path in into.iterdir()] == ["toy"]
    assert sorted(path.name for path in (into / "toy").iterdir()) == ["README.txt", "one", "two"]
    assert (into / "toy/one/a.png").read_bytes() == png("red")
    (into / "toy/one/a.png").write_bytes(b"mine")
    assert main(["toy", "--into", str(into)]) == 0
    assert "already there" in capsys.readouterr().out
    assert server.ranges == [None]
    assert (into / "toy/one/a.png").read_bytes() == b"mine"


def test_a_kill_leaves_no_half_scene(server, toy, tmp_path, monkeypatch):
    def killed(archive, folder):
        (folder / "toy").mkdir()
        (folder / "toy/half").write_text("a scene")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "unpack", killed)
        assert main(["toy", "--into", str(tmp_path)]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["toy.download"]
    (tmp_path / ".toy.unpacking").mkdir()
    (tmp_path / ".toy.unpacking" / "half").write_text("left by a kill that nothing could catch")
    download("toy", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
    assert not (tmp_path / "toy/half").exists()
    assert server.ranges == [None]


def test_other_contents_are_not_touched(toy, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/notes").write_text("mine")
    refused(lambda: download("toy", tmp_path), tmp_path / "toy", "move it away")
    assert (tmp_path / "toy/notes").read_text() == "mine"
    (tmp_path / "toy/notes").unlink()
    download("toy", tmp_path)


def test_an_archive_that_is_not_the_data_set(server, toy, tmp_path, monkeypatch):
    monkeypatch.setitem(COLLECTIONS, "toy", toy._replace(sha256=None, size=None))
    server.body = zipped([("toy/one/sign.json", "{}")])
    refused(lambda: download("toy", tmp_path), "without two/sign.json")
    server.body = b"no zip at all"
    refused(lambda: download("toy", tmp_path), "damaged or incomplete")
    assert not list(tmp_path.iterdir())


def test_an_archive_from_elsewhere(server, toy, tmp_path):
    file = tmp_path / "by_hand.zip"
    refused(lambda: download("toy", tmp_path, file), file, "no such file")
    file.write_bytes(server.body[:-1] + b"x")
    refused(lambda: download("toy", tmp_path, file), file, "checksum")
    file.write_bytes(server.body)
    download("toy", tmp_path / "in", file)
    assert file.is_file()
    assert server.ranges == []


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [("../../evil", b"1", "leads out"), ("toy/one/sign.json", bytes(3_000_000), "zip bomb")],
)
def test_the_program_refuses_a_hostile_archive_in_one_line(toy, tmp_path, monkeypatch, capsys, name, content, word):
    monkeypatch.setitem(COLLECTIONS, "toy", toy._replace(sha256=None, size=None))
    entry = zipfile.ZipInfo("x")
    entry.filename, entry.compress_type = name, zipfile.ZIP_DEFLATED
    file = tmp_path / "hostile.zip"
    file.write_bytes(zipped([("toy/two/sign.json", "{}"), (entry, content)]))
    assert main(["toy", "--into", str(tmp_path / "in" / "scenes"), "--archive", str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("download: error: ")
    assert repr(name) in line or "bytes" in line
    assert word in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != file]


def test_a_folder_that_cannot_be_written(toy, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert main(["toy", "--into", str(tmp_path / "file")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert str(tmp_path / "file") in message
    refused(lambda: download("lego", tmp_path), "lego", "tiny_nerf")


def tiny_arrays(count=103):
    rng = np.random.default_rng(0)
    images = rng.random((count, 6, 8, 3), dtype=np.float32)
    poses = np.tile(np.eye(4, dtype=np.float32), (count, 1, 1))
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return {"images": images, "poses": poses, "focal": np.array(11.0)}


def as_npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.fixture
def tiny(server, monkeypatch):
    monkeypatch.setitem(
        COLLECTIONS, "tiny_nerf", COLLECTIONS["tiny_nerf"]._replace(addresses=(server.address,), size=None)
    )


def test_tiny_lego_becomes_a_blender_scene(server, tiny, tmp_path):
    arrays = tiny_arrays()
    server.body = as_npz(arrays)
    scene = load_blender(download("tiny_nerf", tmp_path))
    assert {name: len(views) for name, views in scene.split.items()} == {"train": 100, "val": 3, "test": 3}
    for split, expected in (("train", slice(0, 100)), ("test", slice(100, 103))):
        images, cameras, _ = scene.views(split)
        assert np.abs(images.numpy() / 255 - arrays["images"][expected]).max() <= 0.5 / 255 + 1e-6
        assert torch.equal(cameras.poses, torch.from_numpy(arrays["poses"][expected, :3]))
    assert scene.cameras.intrinsics[0].tolist() == pytest.approx([11, 11, 4, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny_nerf"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"poses": np.eye(4)}, "poses (4, 4)"),
        ({"images": np.zeros((103, 6, 8))}, "images (103, 6, 8)"),
        ({"focal": np.array(np.nan)}, "focal"),
        ({"images": np.full((103, 6, 8, 3), 255.0)}, "colours outside 0 to 1"),
        ({"focal": np.array("eleven")}, "focal.npy"),
        ({"focal": None}, "focal.npy"),
    ],
)
def test_tiny_lego_of_another_kind(server, tiny, tmp_path, changes, word):
    arrays = {**tiny_arrays(), **changes}
    server.body = as_npz({name: array for name, array in arrays.items() if array is not None})
    refused(lambda: download("tiny_nerf", tmp_path), word)
    assert not list(tmp_path.iterdir())


def test_pickles_are_not_run(server, tiny, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    server.body = as_npz({**tiny_arrays(), "focal": np.array([Evil()], dtype=object)})
    refused(lambda: download("tiny_nerf", tmp_path), "focal.npy")
    assert not list(tmp_path.iterdir())


def test_help_names_every_collection(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    text = capsys.readouterr().out
    for name, collection in COLLECTIONS.items():
        assert name in text
        assert collection.licence in text
        assert all(address.startswith("http") for address in collection.addresses)
        assert collection.sha256 is None or re.fullmatch("[0-9a-f]{64}", collection.sha256)
