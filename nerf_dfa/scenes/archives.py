"""Unpacking archives from the network without trusting them."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from nerf_dfa.errors import UserError

# The largest data set known here unpacks to about 3 GB, and pictures hardly compress; a zip bomb grows a thousandfold.
MAX_BYTES = 64 * 2**30
MAX_RATIO = 100
MAX_FILES = 200_000
BLOCK = 2**20
# What macOS puts into archives besides the contents.
CLUTTER = ("__MACOSX", ".DS_Store")


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO) -> None:
    """Unpacks a zip archive into an existing folder: regular files and folders inside it, nothing else.

    All entries are checked before the first is written. What macOS adds is left out; permissions are not taken over.

    Args:
        archive: the zip file.
        folder: where to; on an error what was already unpacked stays there.
        max_bytes, max_ratio: refuse an archive whose contents are larger than this, or than so many times its own
            size; the bytes that really come out are counted, whatever its headers say.

    Raises:
        UserError: the archive is damaged or encrypted, or holds what it should not.
        OSError: a file cannot be written.
    """
    limit = int(min(max_bytes, max_ratio * archive.stat().st_size))
    try:
        with zipfile.ZipFile(archive) as contents:
            entries = [entry for entry in contents.infolist() if not _is_clutter(entry.filename)]
            _check(archive, entries, limit)
            for entry in entries:
                target = folder / entry.filename
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    limit -= _write(archive, contents, entry, target, limit)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError) as error:
        raise UserError(f"{archive}: the zip archive is damaged or incomplete ({error})") from error


def _is_clutter(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any(part in CLUTTER for part in parts) or bool(parts and parts[-1].startswith("._"))


def _check(archive: Path, entries: list[zipfile.ZipInfo], limit: int) -> None:
    """UserError unless every entry is a file or folder of an ordinary relative name, and they fit the limit."""
    if len(entries) > MAX_FILES:
        raise UserError(f"{archive}: refused: {len(entries)} entries, more than {MAX_FILES}")
    names = set()
    for entry in entries:
        name = entry.filename
        parts = name.removesuffix("/").split("/")
        # A backslash or a colon means another folder or a drive on some systems.
        if any(part in ("", ".", "..") for part in parts) or "\\" in name or ":" in name:
            raise UserError(f"{archive}: refused: the entry {name!r} leads out of the folder to unpack to")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise UserError(f"{archive}: refused: the entry {name!r} is a link or a device, not a file")
        if entry.flag_bits & 1:
            raise UserError(f"{archive}: the entry {name!r} is encrypted")
        if name in names:
            raise UserError(f"{archive}: refused: the entry {name!r} is there twice")
        names.add(name)
    for name in names:
        above = next((str(p) for p in PurePosixPath(name).parents if str(p) in names), None)
        if above is not None:
            raise UserError(f"{archive}: refused: the entry {above!r} is a file and a folder")
    total = sum(entry.file_size for entry in entries)
    if total > limit:
        raise UserError(_too_large(archive, f"its contents claim {total} bytes", limit))


def _write(archive: Path, contents: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, limit: int) -> int:
    """Writes one file, checked against its CRC, and returns its length in bytes."""
    written = 0
    with contents.open(entry) as source, open(target, "xb") as file:
        while block := source.read(BLOCK):
            written += len(block)
            if written > limit:
                raise UserError(_too_large(archive, f"{entry.filename!r} does not end", limit))
            file.write(block)
    if written != entry.file_size:
        raise UserError(f"{archive}: the zip archive is damaged or incomplete ({entry.filename!r} ends early)")
    return written


def _too_large(archive: Path, why: str, limit: int) -> str:
    size = archive.stat().st_size
    return f"{archive}: refused as a zip bomb: {why}, more than the {limit} bytes that an archive of {size} may hold"
