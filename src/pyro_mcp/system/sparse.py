"""Sparse files: copy and digest what is there, in time proportional to the data and not to the size."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1024 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


def extents(fd: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each data extent of the file, in order."""
    position, size = 0, os.fstat(fd).st_size
    while position < size:
        try:
            begin = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        position = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, position - begin


def copy_sparse(source: Path, target: Path, *, size: int | None = None) -> None:
    """Copy the data extents of `source` to the new file `target`, mode 0600, `size` bytes long if given."""
    with source.open("rb") as reading:
        writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(writing, os.fstat(reading.fileno()).st_size if size is None else size)
            for offset, length in extents(reading.fileno()):
                _copy_range(reading.fileno(), writing, offset, length)
        finally:
            os.close(writing)


def _copy_range(reading: int, writing: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        copied = _copy_some(reading, writing, offset, end - offset)
        if copied == 0:
            raise OSError(errno.EIO, "the file shrank while it was copied")
        offset += copied


def _copy_some(reading: int, writing: int, offset: int, length: int) -> int:
    try:
        return os.copy_file_range(reading, writing, length, offset, offset)
    except OSError as error:
        # Two file systems, or one that cannot: the kernel will not copy, so we do.
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.pwrite(writing, os.pread(reading, min(length, _CHUNK), offset), offset)


def digest_sparse(path: Path) -> str:
    """SHA-256 over size, extents and their data: equal for equal content laid out equally."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        digest.update(b"%d" % os.fstat(file.fileno()).st_size)
        buffer = memoryview(bytearray(_CHUNK))
        for offset, length in extents(file.fileno()):
            digest.update(b"@%d+%d" % (offset, length))
            _digest_range(file.fileno(), digest, buffer, offset, length)
    return digest.hexdigest()


def _digest_range(fd: int, digest: hashlib._Hash, buffer: memoryview, offset: int, length: int) -> None:
    while length:
        count = os.preadv(fd, [buffer[: min(length, _CHUNK)]], offset)
        if count == 0:
            raise OSError(errno.EIO, "the file shrank while it was read")
        digest.update(buffer[:count])
        offset += count
        length -= count


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2): the range reads as zeros and takes no space; the size stays. Raises `OSError`."""
    keep_size_and_punch = 3
    if _libc.fallocate(fd, keep_size_and_punch, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
