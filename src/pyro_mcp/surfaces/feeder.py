"""Feeder: what a caller gives a command to read, sent on a thread of its own.

An iterable is the caller's code, and whatever it raises must not be lost with the thread: it ends the command, and is
the caller's answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.protocol.channel import ChannelClosed, Stream

INPUT_PIECE = 64 * 1024

Source = bytes | Iterable[bytes] | int
"""Bytes, pieces of them, or a file descriptor that is read as far as it goes."""


class Feeder:
    """Sends `source` into `stream`, and then its end. `error` is why it did not come to its end."""

    def __init__(self, stream: Stream, source: Source) -> None:
        self.error: PyroError | None = None
        self._stream = stream
        self._source = source
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    def _run(self) -> None:
        try:
            for piece in _pieces(self._source):
                self._stream.send(piece, 0)
            self._stream.end()
        except ChannelClosed:
            return  # It was answered without taking all, or the node is gone.
        except BaseException as error:  # noqa: BLE001
            self.error = _told(error)
            # Half an input is none, and a command would wait for the rest.
            self._stream.cancel()


def _pieces(source: Source) -> Iterable[bytes]:
    if isinstance(source, int):
        return _read_pieces(source)
    return (source,) if isinstance(source, bytes) else source


def _read_pieces(fd: int) -> Iterable[bytes]:
    while piece := os.read(fd, INPUT_PIECE):
        yield piece


def _told(error: BaseException) -> PyroError:
    if isinstance(error, PyroError):
        return error
    cause = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    told = InvalidArgument(
        f"cannot read the input: {cause[:500]}", hint="The command has been ended, since half an input is none."
    )
    told.__cause__ = error
    return told
