"""root_files: the agent's own small files in the guest's root, safe whatever stands at their paths.

A machine that starts again finds its disk as its user left it. A pipe there would keep the agent waiting for ever, and
a link or a device would lead its writing elsewhere: so nothing here waits, and nothing but a regular file is written.
"""

from __future__ import annotations

import os
import stat

_SAFE = os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def read(path: str, max_: int) -> bytes:
    """What the file `path`, or the one that it links to, holds. Nothing when there is none, when it is no regular file,
    or when it holds more than `max_` bytes."""
    try:
        file = os.open(path, os.O_RDONLY | _SAFE)
    except OSError:
        return b""
    try:
        status = os.fstat(file)
        readable = stat.S_ISREG(status.st_mode) and status.st_size <= max_
        return os.read(file, status.st_size) if readable else b""
    finally:
        os.close(file)


def put(path: str, content: bytes) -> None:
    """Put `content` into `path`; what is no regular file, such as the link that some images have there, is replaced.
    Raises `OSError`.

    Written in place and cut only if need be: after a restore, truncating costs an emulated guest milliseconds.
    """
    file = _regular(path)
    try:
        os.write(file, content)
        if os.fstat(file).st_size != len(content):
            os.ftruncate(file, len(content))
    finally:
        os.close(file)


def replace(path: str, content: bytes) -> None:
    """Write a file that everybody may read, whole or not at all; a link that stands there is replaced. Raises
    `OSError`."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    temporary = f"{path}.pyro"
    try:
        with open(_new(temporary), "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        _remove(temporary)
        raise


def _regular(path: str) -> int:
    try:
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | _SAFE)
    except OSError:
        return _new(path)
    if stat.S_ISREG(os.fstat(file).st_mode):
        return file
    os.close(file)
    return _new(path)


def _new(path: str) -> int:
    _remove(path)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o644)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
