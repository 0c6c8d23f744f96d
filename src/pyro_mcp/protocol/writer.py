"""Writer: frames onto a pipe, each whole, from many threads. Receipts for exchange pieces travel along."""

from __future__ import annotations

import threading
import time

from pyro_mcp.protocol.exchange import PLACE, Loans
from pyro_mcp.protocol.frames import HEADER, MAX_PIECE, FrameKind
from pyro_mcp.protocol.pipe import Buffer, Pipe

SEND_SECONDS = 60.0
SMALL = 4096


class Writer:
    """Writes raise `PipeClosed`, or `TimeoutError` when the peer takes nothing for too long; then all is over."""

    def __init__(self, pipe: Pipe, loans: Loans) -> None:
        self._pipe = pipe
        self._loans = loans
        self._lock = threading.Lock()

    def frame(self, kind: FrameKind, stream: int, *payload: bytes | memoryview, behind: bytes = b"") -> None:
        """One frame, and in the same message the frames `behind` it."""
        length = sum(map(len, payload))
        header = HEADER.pack(length, stream, kind)
        # Each part is a call into the guest's device, so only a body that is dear to copy travels apart.
        if length <= SMALL:
            self.send(b"".join((header, *payload, behind)))
        else:
            self.send(b"".join((header, *payload[:-1])), payload[-1], *((behind,) if behind else ()))

    def data(self, stream: int, tag: int, data: memoryview) -> None:
        """A piece of data, by way of the exchange if it can be."""
        slot = self._loans.place(stream, data)
        if slot is not None:
            self.frame(FrameKind.PLACED, stream, PLACE.pack(slot, len(data), tag))
            return
        for at in range(0, len(data), MAX_PIECE):
            self.frame(FrameKind.DATA, stream, bytes((tag,)), data[at : at + MAX_PIECE])

    def send(self, *parts: Buffer) -> None:
        """These bytes, with nothing of another thread between them, and with the receipt for what was taken; without
        any, only that. It may wait until the peer reads, so only what the peer waits for may be the reader's to send.
        """
        with self._lock:
            if self._loans.owed:
                taken = self._loans.receipt()
                parts = (HEADER.pack(len(taken), 0, FrameKind.TAKEN) + taken, *parts)
            self._pipe.write_all(parts, deadline=time.monotonic() + SEND_SECONDS)
