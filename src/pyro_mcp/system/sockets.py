"""Unix sockets at paths of any length.

The kernel allows 107 bytes for a socket's path, which a state directory easily exceeds. Both ends therefore go through
`/proc/self/fd/<directory>/<name>`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen_unix(path: Path, *, backlog: int = 64) -> socket.socket:
    """A listening stream socket at `path`, mode 0600, replacing a stale one. Raises `OSError`."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_path(path) as short:
            # Its directory is 0700, so nobody can connect between bind and chmod.
            listener.bind(short)
        os.chmod(path, 0o600)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener


def connect_unix(path: Path, *, timeout: float | None = None) -> socket.socket:
    """A stream socket connected to `path`. Raises `OSError` when nobody listens there."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(timeout)
    try:
        with _short_path(path) as short:
            client.connect(short)
    except OSError:
        client.close()
        raise
    client.settimeout(None)
    return client
