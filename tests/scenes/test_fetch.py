"""Fetching one file: breaks, resumption, checksums, servers of all kinds."""

import pytest
from scenes.downloads import refused, sha

from nerf_dfa.scenes import fetch as fetching
from nerf_dfa.scenes.fetch import fetch


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(fetching.time, "sleep", lambda seconds: None)


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
