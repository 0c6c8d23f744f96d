"""Trust: which files of which projects a person has agreed to, by the SHA-256 of their bytes.

A file that changed, by whatever hand, is not trusted until it was shown again.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from pyro_mcp.errors import PyroError
from pyro_mcp.system.atomic import disk_errors, write_file

_MAX = 1000
"""The oldest consents beyond go."""


class Trust:
    """The consents of one state directory, a project's path or URL to a digest. The node alone writes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def trusted(self, project: str, sha256: str) -> bool:
        """Whether somebody agreed to exactly this. Raises `PyroError` when the record cannot be read."""
        with self._lock:
            return self._load().get(project) == sha256

    def add(self, project: str, sha256: str) -> None:
        """Agree, in place of what was agreed to before."""
        with self._lock, disk_errors(f"write {self._path}"):
            found = self._load()
            found.pop(project, None)
            found[project] = sha256
            kept = dict(list(found.items())[-_MAX:])
            write_file(self._path, json.dumps(kept, indent=1).encode("utf-8", "surrogatepass"))

    def _load(self) -> dict[str, str]:
        with disk_errors(f"read {self._path}"):
            try:
                text = self._path.read_bytes().decode("utf-8", "surrogatepass")
            except FileNotFoundError:
                return {}
        try:
            found = json.loads(text)
            return {str(project): str(digest) for project, digest in found.items()}
        except (ValueError, AttributeError) as error:
            raise PyroError(
                f"cannot read {self._path}: {error}", hint="Remove it, and trust your projects again"
            ) from None
