"""What a cached artefact is, and how it is trusted: a flat directory of files with a manifest that names each one.

The full digest of every file is computed once, when it is made. Later uses compare the file's identity (size, times,
inode), which no ordinary write leaves alone; where that differs, the digest decides.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_mcp.system.atomic import write_file

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class CacheEntry:
    """A published directory: its path and what its manifest says, without the bookkeeping of files."""

    path: Path
    fields: dict[str, Any]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def seal(directory: Path, fields: dict[str, Any], files: dict[str, str] | None = None) -> None:
    """Write the manifest over all files of `directory`. `files` gives digests that are known already."""
    known = files or {}
    names = sorted(entry.name for entry in os.scandir(directory) if entry.name != MANIFEST)
    digests = {name: known.get(name) or digest_file(directory / name) for name in names}
    _write(directory, fields, digests)


def open_entry(directory: Path) -> CacheEntry | None:
    """The entry in `directory`; None when it is absent, incomplete or damaged. Raises `OSError` for unreadable."""
    manifest = read_manifest(directory)
    if manifest is None:
        return None
    files = manifest["files"]
    changed = [name for name, file in files.items() if _identity(directory / name) != file["identity"]]
    try:
        if any(digest_file(directory / name) != files[name]["sha256"] for name in changed):
            return None
        if changed and os.access(directory, os.W_OK):
            _write(directory, manifest["facts"], {name: file["sha256"] for name, file in files.items()})
    except FileNotFoundError:  # damaged, or pruned at this moment
        return None
    return CacheEntry(directory, manifest["facts"])


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of `directory` as it stands, its files unchecked; None when absent or unreadable as one."""
    manifest = read_json(directory / MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict) or not isinstance(manifest.get("facts"), dict):
        return None
    return manifest if files and all(map(_is_file_record, files.values())) else None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty when the file is absent or holds none."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_file_record(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("sha256"), str) and isinstance(value.get("identity"), list)


def file_name(name: str) -> str:
    """`name` for a path: apt takes a colon in the path of its keys for a separator, and then trusts none of them."""
    return name.replace(":", "_")


def _write(directory: Path, fields: dict[str, Any], digests: dict[str, str]) -> None:
    files = {name: {"sha256": sha, "identity": _identity(directory / name)} for name, sha in digests.items()}
    text = json.dumps({"facts": fields, "files": files}, indent=1, sort_keys=True)
    write_file(directory / MANIFEST, text.encode(), mode=0o644)


def _identity(path: Path) -> list[int]:
    """Size, times and inode of a regular file; empty when there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
