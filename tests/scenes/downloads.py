"""A server of one file that breaks off when told to, and archives, for tests."""

import hashlib
import io
import re
import zipfile
from http.server import BaseHTTPRequestHandler

import pytest

from nerf_dfa.errors import UserError
from nerf_dfa.scenes.archives import unpack


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


def refused(call, *words):
    with pytest.raises(UserError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message, message


def sha(data):
    return hashlib.sha256(data).hexdigest()


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
