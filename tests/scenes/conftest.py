"""Servers to fetch from."""

import socket
import threading
from http.server import ThreadingHTTPServer

import numpy as np
import pytest
from scenes.downloads import Handler


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
