"""Exchange: a small disk that host and guest share, over which large pieces of data travel.

The wire then carries only where a piece lies: `PLACED` (slot, length, tag) instead of `DATA`, and `TAKEN` when it has
been read. A guest reads its disk thirty times faster than its port, and a request beside a transfer waits for none of
it. One half of the disk is written by the host and the other by the guest, so no slot ever has two writers. The reader
copies a piece once, and what it then checks is its copy: the other side may write over the disk at any time.

A piece that finds no slot, or a disk that is full or fails, goes over the wire. Nothing waits for a slot.
"""

from __future__ import annotations

import mmap
import struct
import threading
from abc import ABC, abstractmethod

from pyro_mcp.protocol.frames import FrameError

SLOT_BYTES = 1024 * 1024
SLOTS = 8
"""In each half: what four streams at full speed have under way."""
HALF_BYTES = SLOTS * SLOT_BYTES
DISK_BYTES = 2 * HALF_BYTES
PLACE_MIN = 32 * 1024
"""A smaller piece is sent over the wire in less time than a disk takes to answer."""
PLACE = struct.Struct("!BIB")


def buffer(size: int = SLOT_BYTES) -> mmap.mmap:
    """Memory on whole pages, as direct input and output want it."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Exchange(ABC):
    """One side's hold on the disk. It outlives the channels that use it, one after the other.

    `mine` and `theirs` are where the half that this side writes, and the other, begin.
    """

    def __init__(self, *, mine: int, theirs: int) -> None:
        self._mine = mine
        self._theirs = theirs
        self._lock = threading.Lock()
        self._free = list(range(SLOTS))
        self._used = False

    @abstractmethod
    def _store(self, data: memoryview, offset: int) -> None:
        """Write all of `data`. Raises `OSError`."""

    @abstractmethod
    def _load(self, length: int, offset: int) -> bytes | memoryview:
        """Read `length` bytes, a copy of them. Raises `OSError`."""

    @abstractmethod
    def _discard(self, offset: int, length: int) -> None:
        """Give the host its space back. Raises `OSError`."""

    def put(self, data: memoryview) -> int | None:
        """Write `data`, at most `SLOT_BYTES`, into a slot of this side; None when there is none or the disk fails."""
        with self._lock:
            if not self._free:
                return None
            slot = self._free.pop(0)
            self._used = True
        try:
            self._store(data, self._mine + slot * SLOT_BYTES)
        except OSError:
            self.release_slots([slot])
            return None
        return slot

    def get(self, slot: int, length: int) -> bytes | memoryview:
        """Read what the other side has put into its `slot`. Raises `OSError`."""
        return self._load(length, self._theirs + slot * SLOT_BYTES)

    def release_slots(self, slots: list[int]) -> None:
        """Let these slots of this side be written again."""
        with self._lock:
            # The one used last first: a short transfer then touches few.
            self._free[:0] = slots

    def tidy(self) -> None:
        """Between transfers: give the space of this side's half back. Raises `OSError`."""
        with self._lock:
            if self._used and len(self._free) == SLOTS:
                self._used = False
                self._discard(self._mine, HALF_BYTES)

    @abstractmethod
    def close(self) -> None:
        """The channel that used it has ended."""


class Loans:
    """What one channel has lying on the exchange, both ways. Without an exchange it lends nothing and takes nothing."""

    def __init__(self, exchange: Exchange | None) -> None:
        self.offer = {} if exchange is None else {"exchange": DISK_BYTES}
        """What the hello says about it."""
        self.ready = False
        """Whether the peer takes pieces from there."""
        self._exchange = exchange
        self._lock = threading.Lock()
        self._lent: set[int] = set()
        self._borrowers: set[int] = set()
        self._taken: list[int] = []
        self._closed = False

    def agree(self, peer: dict[str, object]) -> None:
        """Note what the peer's hello says."""
        self.ready = self._exchange is not None and peer.get("exchange") == DISK_BYTES

    # -- out

    def place(self, number: int, data: memoryview) -> int | None:
        """Put a piece of stream `number` on the disk; its slot, or None when it must go over the wire."""
        if not self.ready or self._exchange is None or len(data) < PLACE_MIN:
            return None
        slot = self._exchange.put(data)
        if slot is None:
            return None
        with self._lock:
            lent = not self._closed
            if lent:
                self._lent.add(slot)
                self._borrowers.add(number)
        if not lent:
            self._exchange.release_slots([slot])
        return slot if lent else None

    def returned(self, slots: bytes) -> None:
        """The peer has read these. Raises `FrameError` for one that it was not lent."""
        with self._lock:
            if not slots or len(set(slots)) != len(slots) or not self._lent.issuperset(slots):
                raise FrameError("TAKEN for what was not placed")
            self._lent.difference_update(slots)
        assert self._exchange is not None
        self._exchange.release_slots(list(slots))
        self._tidy()

    def stream_done(self, number: int) -> None:
        """The stream `number` sends no more."""
        with self._lock:
            if number not in self._borrowers:
                return
            self._borrowers.discard(number)
        self._tidy()

    def _tidy(self) -> None:
        with self._lock:
            idle = not self._borrowers and not self._lent and not self._closed
        if idle and self._exchange is not None:
            try:
                self._exchange.tidy()
            except OSError:
                pass  # The space is bounded, and goes with the machine.

    # -- in

    def parse_notice(self, payload: bytes) -> tuple[int, int, int]:
        """Slot, length and tag of a piece that the peer has placed. Raises `FrameError` for what it may not say."""
        if not self.ready or len(payload) != PLACE.size:
            raise FrameError("unexpected or malformed PLACED")
        slot, length, tag = PLACE.unpack(payload)
        with self._lock:
            if slot >= SLOTS or not 0 < length <= SLOT_BYTES or slot in self._taken:
                raise FrameError("PLACED where nothing may lie")
        return slot, length, tag

    def fetch(self, slot: int, length: int) -> bytes | memoryview:
        """Read a piece that was `parse_notice`. Raises `FrameError` when the disk fails: the bytes are lost then."""
        assert self._exchange is not None
        try:
            return self._exchange.get(slot, length)
        except OSError as error:
            raise FrameError(f"a piece on the exchange cannot be read: {error}") from None

    def take(self, slot: int) -> None:
        """The piece in `slot` is read or not wanted; the receipt goes with what is written next."""
        with self._lock:
            self._taken.append(slot)

    @property
    def owed(self) -> int:
        """How many pieces taken still need a receipt. Each frame costs an emulated guest a millisecond, so
        receipts go together, and along with other frames if that is soon enough."""
        return len(self._taken)

    def receipt(self) -> bytes:
        """The receipt to send now."""
        with self._lock:
            taken, self._taken = bytes(self._taken), []
        return taken

    def close(self) -> None:
        """The channel has ended."""
        with self._lock:
            self._closed = True
            lent, self._lent = list(self._lent), set()
        if self._exchange is not None:
            self._exchange.release_slots(lent)
            self._exchange.close()
