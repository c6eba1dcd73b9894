"""One file from the network to the disk: resumed where it broke, checked when it is there."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from nerf_dfa.errors import UserError

ATTEMPTS = 4  # in a row without a byte received
WAIT = 2.0  # seconds before the second attempt, doubled before each further one
TIMEOUT = 30.0  # seconds without an answer or a byte
BLOCK = 2**18
PERMANENT = (400, 401, 403, 404, 405, 410, 451)  # statuses that another attempt does not change


class _Broken(Exception):
    """The connection ended; what was received is in the .part file, and another attempt may go on."""


class _Unavailable(Exception):
    """This address does not give the file, now or later."""


def fetch(
    addresses: Sequence[str],
    file: Path,
    *,
    sha256: str | None = None,
    size: int | None = None,
    attempts: int = ATTEMPTS,
    wait: float = WAIT,
) -> None:
    """Downloads a file from the first address that gives it.

    What has arrived lies in `file` + ".part", where the next attempt, or the next call, goes on if the server can
    (HTTP Range) and starts again if not. `file` itself appears only when it is whole; one that is there is kept.

    Args:
        addresses: places of the same file, the preferred one first.
        sha256, size: checksum and bytes of the file, where known.
        attempts, wait: how often a broken connection is tried in a row, and the seconds between, doubled each time.

    Raises:
        UserError: no address gave the file, each with its reason; or the disk is full.
    """
    if file.is_file() and mismatch(file, sha256, size) is None:
        return
    part = file.with_name(file.name + ".part")
    problems = []
    for address in addresses:
        try:
            _receive(address, part, size, attempts, wait)
        except _Unavailable as error:
            problems.append(f"{address}: {error}")
            continue
        wrong = mismatch(part, sha256, size)
        if wrong is None:
            os.replace(part, file)
            return
        problems.append(f"{address}: {wrong}; discarded")
        part.unlink()
    kept = f"{_length(part)} bytes are kept in {part}; " if part.is_file() else ""
    raise UserError(f"{'; '.join(problems)}; {kept}the same command continues")


def mismatch(file: Path, sha256: str | None, size: int | None) -> str | None:
    """In what a file differs from the checksum and bytes that it should have, as far as known; None in nothing."""
    if size is not None and _length(file) != size:
        return f"{_length(file)} bytes, expected {size}"
    if sha256 is not None:
        with open(file, "rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != sha256:
            return f"the checksum (SHA-256) is {digest}, expected {sha256}"
    return None


def _receive(address: str, part: Path, size: int | None, attempts: int, wait: float) -> None:
    """The whole file in `part`, in as many attempts as it takes; raises _Unavailable where they do not help."""
    failures = 0
    while True:
        before = _length(part)
        if size is not None and before == size:
            return
        try:
            _attempt(address, part, before, size)
            return
        except _Broken as error:
            failures = 1 if _length(part) > before else failures + 1
            if failures >= attempts:
                raise _Unavailable(f"{error}, {attempts} times in a row") from error
            time.sleep(wait * 2 ** (failures - 1))


def _length(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


def _attempt(address: str, part: Path, have: int, size: int | None) -> None:
    """One request, whose answer is appended to `part` or replaces it; returns only when `part` is whole."""
    headers = {"User-Agent": "nerf_dfa", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    request = urllib.request.Request(address, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            start, total = _extent(response, have)
            _append(response, part, start, total if total is not None else size)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and have:  # nothing behind what is there: it is whole, or not of this file
                if _total(error.headers.get("Content-Range")) == have:
                    return
                part.unlink()
                raise _Broken("the part on the disk does not belong to this file") from error
            if error.code in PERMANENT:
                raise _Unavailable(f"the server answered {error.code} {error.reason}") from error
            raise _Broken(f"the server answered {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise _Broken(f"the connection failed ({text})") from error


def _extent(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the length of the whole file, where the server says it."""
    if response.headers.get_content_type() == "text/html":
        raise _Unavailable("the server sent a web page, not the file (a file shared too often is closed for a day)")
    if response.status == 206:
        span = response.headers.get("Content-Range", "")
        if not re.match(rf"bytes {have}-", span):
            raise _Unavailable(f"the server sent the range {span!r} when asked for bytes {have} onwards")
        return have, _total(span)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _total(content_range: str | None) -> int | None:
    """The n of "bytes 0-9/n" or "bytes */n"."""
    match = re.search(r"/(\d+)$", content_range or "")
    return int(match[1]) if match else None


def _append(response: http.client.HTTPResponse, part: Path, start: int, total: int | None) -> None:
    free = shutil.disk_usage(part.absolute().parent).free
    if total is not None and total - start > free:
        raise UserError(
            f"{part}: {(total - start) / 1e9:.2f} GB are to come and {free / 1e9:.2f} GB of the disk are free: "
            "make room; the same command continues"
        )
    received = start
    with (
        _writable(part, start) as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.name.removesuffix(".part")) as bar,
    ):
        while block := response.read(BLOCK):
            _write(part, file, block)
            received += len(block)
            bar.update(len(block))
    if total is not None and received < total:
        raise _Broken(f"the connection ended after {received} of {total} bytes")


def _writable(part: Path, start: int) -> io.FileIO:
    """The file opened without a buffer, so that an error comes where it arises and not when the file is closed."""
    try:
        return open(part, "ab" if start else "wb", buffering=0)
    except OSError as error:
        raise _unwritable(part, error) from error


def _write(part: Path, file: io.FileIO, block: bytes) -> None:
    rest = memoryview(block)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        raise _unwritable(part, error) from error


def _unwritable(part: Path, error: OSError) -> UserError:
    return UserError(f"{part}: cannot be written ({error.strerror or error}); the same command continues")
