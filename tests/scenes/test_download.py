"""Downloads from a server on this machine that breaks off, lies and refuses; archives that attack."""

import hashlib
import io
import os
import re
import socket
import stat
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from nerf_dfa.errors import UserError
from nerf_dfa.scenes import download as module
from nerf_dfa.scenes import fetch as fetching
from nerf_dfa.scenes.archives import unpack
from nerf_dfa.scenes.blender import load_blender
from nerf_dfa.scenes.download import COLLECTIONS, Collection, download, main
from nerf_dfa.scenes.fetch import fetch


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        status = server.statuses.pop(0) if server.statuses else 200
        if self.path != "/file" or status != 200:
            return self.send_error(404 if status == 200 else status)
        body, start = server.body, 0
        if wanted and server.has_range:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return None
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.content_type)
        if server.says_length:
            self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        stop = server.breaks.pop(0) if server.breaks else None
        self.wfile.write(body[start:stop])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    """breaks: for each of the next answers, where in the file it ends; statuses: the errors that come first."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body = np.random.default_rng(0).bytes(300_000)
    server.has_range, server.says_length, server.content_type = True, True, "application/zip"
    server.breaks, server.statuses, server.ranges = [], [], []
    server.address = f"http://127.0.0.1:{server.server_port}/file"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def closed_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        yield taken.getsockname()[1]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)


def refused(call, *words):
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def sha(data):
    return hashlib.sha256(data).hexdigest()


# The file


def test_fetches_the_file(server, tmp_path):
    file = tmp_path / "data.zip"
    fetch([server.address], file, sha256=sha(server.body), size=len(server.body))
    assert file.read_bytes() == server.body
    assert [path.name for path in tmp_path.iterdir()] == ["data.zip"]
    fetch([server.address], file, sha256=sha(server.body))
    assert server.ranges == [None]  # what is there and right is not asked for again


def test_a_break_is_resumed_where_it_happened(server, tmp_path):
    server.breaks = [100_000, 200_000]
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert server.ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert (tmp_path / "f").read_bytes() == server.body


def test_the_next_call_goes_on(server, tmp_path):
    server.breaks = [100_000]
    refused(
        lambda: fetch([server.address], tmp_path / "f", attempts=1),
        server.address, "100000 of 300000 bytes", f"100000 bytes are kept in {tmp_path / 'f'}.part", "same command",
    )  # fmt: skip
    assert not (tmp_path / "f").exists()
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert server.ranges == [None, "bytes=100000-"]


def test_a_server_without_range_starts_again(server, tmp_path):
    server.has_range, server.breaks = False, [100_000]
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert (tmp_path / "f").read_bytes() == server.body


def test_a_server_that_never_gets_further_is_given_up(server, tmp_path):
    server.has_range, server.breaks = False, [100_000] * 9
    refused(lambda: fetch([server.address], tmp_path / "f", attempts=3), "3 times in a row", "same command continues")
    assert len(server.ranges) == 3


def test_a_whole_part_is_recognised(server, tmp_path):
    (tmp_path / "f.part").write_bytes(server.body)
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert server.ranges == ["bytes=300000-"]
    assert (tmp_path / "f").read_bytes() == server.body
    (tmp_path / "g.part").write_bytes(server.body)
    fetch([server.address], tmp_path / "g", size=len(server.body))
    assert len(server.ranges) == 1  # the size is known: nothing to ask


def test_a_part_of_another_file_is_discarded(server, tmp_path):
    (tmp_path / "f.part").write_bytes(bytes(400_000))
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert (tmp_path / "f").read_bytes() == server.body


def test_wrong_checksum_and_size(server, tmp_path):
    wrong = sha(b"other")
    refused(
        lambda: fetch([server.address], tmp_path / "f", sha256=wrong), server.address, sha(server.body), wrong,
        "discarded",
    )  # fmt: skip
    refused(lambda: fetch([server.address], tmp_path / "f", size=7), "300000 bytes, expected 7", "discarded")
    assert not list(tmp_path.iterdir())


def test_without_a_length_the_known_size_tells_a_break(server, tmp_path):
    server.says_length, server.breaks = False, [100_000]
    fetch([server.address], tmp_path / "f", size=len(server.body))
    assert (tmp_path / "f").read_bytes() == server.body
    assert server.ranges == [None, "bytes=100000-"]


def test_passing_errors_are_tried_again_and_permanent_ones_not(server, tmp_path):
    server.statuses = [503, 429]
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert len(server.ranges) == 3
    refused(lambda: fetch([server.address + "s"], tmp_path / "g"), "files", "404 Not Found")
    assert len(server.ranges) == 4


def test_the_next_address_is_tried(server, closed_port, tmp_path):
    missing = server.address + "s"
    fetch([missing, f"http://127.0.0.1:{closed_port}/file", server.address], tmp_path / "f", sha256=sha(server.body))
    assert (tmp_path / "f").read_bytes() == server.body


def test_no_network(closed_port, tmp_path):
    refused(
        lambda: fetch([f"http://127.0.0.1:{closed_port}/file"], tmp_path / "f"),
        "Connection refused", "4 times in a row", "same command continues",
    )  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_a_web_page_is_not_the_file(server, tmp_path):
    server.content_type = "text/html; charset=utf-8"
    refused(lambda: fetch([server.address], tmp_path / "f"), "web page")
    assert not list(tmp_path.iterdir())


def test_disk_full(server, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        usage = fetching.shutil.disk_usage(tmp_path)
        patch.setattr(fetching.shutil, "disk_usage", lambda folder: usage._replace(free=299_999))
        refused(lambda: fetch([server.address], tmp_path / "f"), tmp_path / "f", "make room", "same command continues")
    resource = pytest.importorskip("resource", reason="limits on file sizes exist on Unix only")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        refused(lambda: fetch([server.address], tmp_path / "f"), tmp_path / "f.part", "cannot be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "f.part").read_bytes() == server.body[:50_000]
    fetch([server.address], tmp_path / "f", sha256=sha(server.body))
    assert server.ranges[-1] == "bytes=50000-"


# The archive


def zipped(entries, compression=zipfile.ZIP_DEFLATED):
    """entries: name or ZipInfo, and content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def unpacked(tmp_path, data, **limits):
    (tmp_path / "a.zip").write_bytes(data)
    (tmp_path / "to").mkdir(exist_ok=True)
    unpack(tmp_path / "a.zip", tmp_path / "to", **limits)
    return tmp_path / "to"


def test_unpacks_files_and_folders(tmp_path):
    data = zipped(
        [("a/b/c.txt", "text"), ("a/empty/", ""), ("__MACOSX/a/x", "0"), ("a/.DS_Store", "0"), ("a/b/._c.txt", "0")]
    )
    folder = unpacked(tmp_path, data)
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == [
        "a", "a/b", "a/b/c.txt", "a/empty",
    ]  # fmt: skip
    assert (folder / "a/b/c.txt").read_text() == "text"


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/tmp/evil", "a//b", "C:/evil", "a\\..\\..\\evil", "./a", "..", "/"]
)
def test_paths_that_lead_out(tmp_path, name):
    entry = zipfile.ZipInfo("x")
    entry.filename = name
    refused(lambda: unpacked(tmp_path, zipped([("fine", "1"), (entry, "2")])), repr(name), "leads out")
    assert not list((tmp_path / "to").iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "to"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices(tmp_path, kind):
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (kind | 0o777) << 16
    refused(lambda: unpacked(tmp_path, zipped([(entry, "/etc/passwd")])), "'link'", "link or a device")
    assert not list((tmp_path / "to").iterdir())


def test_names_that_collide(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped([("a", "1"), ("a", "2")])
    refused(lambda: unpacked(tmp_path, twice), "'a' is there twice")
    refused(lambda: unpacked(tmp_path, zipped([("a", "1"), ("a/b", "2")])), "'a' is a file and a folder")


def test_encrypted(tmp_path):
    data = bytearray(zipped([("a", "1")]))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(lambda: unpacked(tmp_path, bytes(data)), "'a' is encrypted")


def test_zip_bombs(tmp_path):
    bomb = zipped([("zeros", bytes(3_000_000))])
    refused(lambda: unpacked(tmp_path, bomb), "a.zip", "zip bomb", "3000000 bytes")
    stored = zipped([("a", bytes(600)), ("b", bytes(600))], zipfile.ZIP_STORED)
    refused(lambda: unpacked(tmp_path, stored, max_bytes=1000), "zip bomb", "1200 bytes")
    assert not list((tmp_path / "to").iterdir())
    unpacked(tmp_path, stored, max_bytes=1200)


def test_bytes_are_counted_whatever_the_headers_say(tmp_path, monkeypatch):
    """An archive whose directory claims 10 bytes where a million come out."""
    data = bytearray(zipped([("zeros", bytes(1_000_000))]))
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = (10).to_bytes(4, "little")
    refused(lambda: unpacked(tmp_path, bytes(data)), "damaged")
    assert sum(path.stat().st_size for path in (tmp_path / "to").rglob("*")) <= 10
    # The same where Python's reader would not stop at the claim.
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda self, entry: io.BytesIO(bytes(1_000_000)))
    (tmp_path / "to" / "zeros").unlink()
    refused(lambda: unpacked(tmp_path, bytes(data)), "zip bomb", "'zeros' does not end")


def test_damaged_archives(tmp_path):
    data = zipped([("a", np.random.default_rng(0).bytes(10_000))])
    for bad in (data[:5000], data[:-10], b"", b"no zip", data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]):
        refused(lambda bad=bad: unpacked(tmp_path, bad), "a.zip", "damaged or incomplete")
        (tmp_path / "to" / "a").unlink(missing_ok=True)


# The data set


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
