"""Configfile: a file that belongs to another program and may change at any time.

It is read once, and replaced only if it still says the same: whole, by one rename, with its mode, owner and attributes.
A symbolic link stays one, and what it leads to is replaced; what leads nowhere is nobody's file to make.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyro_mcp.errors import Conflict, InvalidArgument, PermissionDenied, Unsupported
from pyro_mcp.system.atomic import disk_errors, sync_directory

MAX_BYTES = 16 * 1024 * 1024
HELD_SECONDS = 10.0
BOM = b"\xef\xbb\xbf"


class Unreadable(InvalidArgument):
    """A host's file is not what the host could read either."""


@dataclass(frozen=True)
class ConfigFile:
    """`path` as the host names it, `real` where its links lead, and its bytes; None when there is no such file."""

    path: Path
    real: Path
    data: bytes | None

    @staticmethod
    def load(path: Path, *, within: Path | None = None) -> ConfigFile:
        """Read `path`. A file of a project must lie `within` it: a link in what others wrote leads anywhere.

        Raises `Unreadable`, `PermissionDenied` and `Conflict`.
        """
        with disk_errors(f"read {path}"):
            try:
                real = Path(os.path.realpath(path, strict=False))
                if os.path.lexists(path) and os.path.islink(real):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                _require_no_dangling_link(path)
                data = _read(path, real)
            except (FileNotFoundError, NotADirectoryError):
                data = None
        if within is not None and not real.is_relative_to(within.resolve()):
            raise Conflict(
                f"cannot use {path}: it leads out of the project, to {real}",
                hint="Replace the link by a file, or use --scope user.",
            )
        file = ConfigFile(path, real, data)
        with file.blamed():
            _ = file.text
        return file

    @property
    def text(self) -> str | None:
        """The content without a byte order mark, line ends as `\\n` if all of them are `\\r\\n`."""
        if self.data is None:
            return None
        text = self.data.removeprefix(BOM).decode("utf-8")
        return text.replace("\r\n", "\n") if self._crlf(text) else text

    @contextlib.contextmanager
    def blamed(self) -> Iterator[None]:
        """Turn a parser's complaint into an error that names the file."""
        try:
            yield
        except (ValueError, RecursionError) as error:
            cause = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise Unreadable(
                f"cannot read {self.path}: {cause}", hint="Mend the file by hand; it was not touched."
            ) from None

    def replace(self, text: str) -> None:
        """Put `text` in its place. Raises `Conflict` when the file changed since it was read, and `PyroError`."""
        if self.text == text and self.data is not None:
            return
        data = text.encode("utf-8")
        if self.data is not None:
            old = self.data.removeprefix(BOM).decode("utf-8")
            data = text.replace("\n", "\r\n").encode("utf-8") if self._crlf(old) else data
            data = BOM + data if self.data.startswith(BOM) else data
        self._publish(data)

    def restore(self, written: str) -> None:
        """Undo `replace(written)`. Raises like it."""
        now = ConfigFile.load(self.path)
        if now.text != written:
            raise Conflict(f"cannot take back the change of {self.path}: another program has changed it since")
        with disk_errors(f"take back the change of {self.path}"):
            if self.data is None:
                self.real.unlink()
            else:
                now._publish(self.data)

    @staticmethod
    def _crlf(text: str) -> bool:
        return "\r\n" in text and text.count("\r\n") == text.count("\n")

    def _publish(self, data: bytes) -> None:
        self._require_writable()
        beside = self.real.with_name(f".{self.real.name}.pyro-new")
        with disk_errors(f"write {self.path}", on=self.path.parent):
            try:
                _write_like(self.real if self.data is not None else None, beside, data)
                if _read_if_there(self.real) != self.data:
                    raise Conflict(
                        f"cannot write {self.path}: another program has changed it meanwhile", hint="Try again."
                    )
                os.rename(beside, self.real)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    beside.unlink()
            sync_directory(self.real.parent)

    def _require_writable(self) -> None:
        if self.data is None:
            return
        with disk_errors(f"write {self.path}", on=self.path.parent):
            status = self.real.stat()
        if not status.st_mode & 0o222 or not os.access(self.real, os.W_OK):
            raise PermissionDenied(f"cannot write {self.path}: it is read-only", hint="Make it writable first.")
        if status.st_nlink > 1:
            raise Unsupported(
                f"cannot write {self.path}: it has {status.st_nlink} hard links, and a new file would part them",
                hint="Make it a symbolic link, or change it by hand: see `pyro host print-config`.",
            )


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Keep other pyro processes off the file `path`. Raises `Conflict` when somebody has it locked."""
    real = Path(os.path.realpath(path))
    with contextlib.ExitStack() as stack:
        with disk_errors(f"change {path}", on=path.parent):
            for what in dict.fromkeys((real.parent, real)):
                if what.exists():
                    _lock(stack, what, path)
        yield


def _require_no_dangling_link(path: Path) -> None:
    for one in (path, *path.parents):
        if not one.is_symlink():
            continue
        try:
            one.stat()
        except FileNotFoundError:
            raise Conflict(
                f"cannot use {path}: {one} is a link to {os.path.realpath(one)}, which is not there",
                hint="Make what it leads to, such as by mounting it, or remove the link.",
            ) from None


def _read(path: Path, real: Path) -> bytes:
    # Looked at before it is opened: opening a pipe would wait for who writes into it.
    mode = real.stat().st_mode
    if stat.S_ISDIR(mode):
        raise Unreadable(f"cannot read {path}: it is a directory", hint="Name a file.")
    if not stat.S_ISREG(mode):
        raise Unreadable(f"cannot read {path}: it is no regular file")
    with open(real, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise Unreadable(f"cannot read {path}: it is larger than {MAX_BYTES} bytes")
    return data


def _read_if_there(real: Path) -> bytes | None:
    try:
        return _read(real, real)
    except FileNotFoundError:
        return None


def _write_like(model: Path | None, beside: Path, data: bytes) -> None:
    """Write `beside`, durably, with mode, owner and attributes of `model`."""
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        if model is not None:
            status = model.stat()
            os.fchown(descriptor, status.st_uid, status.st_gid)
            shutil.copystat(model, beside)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def _lock(stack: contextlib.ExitStack, what: Path, shown: Path) -> None:
    descriptor = os.open(what, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    stack.callback(os.close, descriptor)
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Conflict(
                    f"cannot change {shown}: another program holds it locked", hint="End that program and try again."
                ) from None
        # The kernel offers no event for "lock or deadline".
        time.sleep(0.1)
