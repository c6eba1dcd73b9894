"""Unpacking archives that nobody vouches for."""

import io
import stat
import zipfile

import numpy as np
import pytest
from scenes.downloads import refused, unpacked, zipped


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
