"""Call: what a running verb knows about the caller, and nothing about the wire.

The node builds one per request from the stream it arrived on; a verb that runs in the caller's own process
(`doctor`) gets one built by the surface. A verb reports, streams and listens for cancellation through it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pyro_mcp.errors import Cancelled

EngineT = TypeVar("EngineT")

STDIN, STDOUT, STDERR = 0, 1, 2


def _noop(*_: Any) -> None:
    """The default callback: does nothing."""


@dataclass(slots=True)
class Call(Generic[EngineT]):
    """One request under way. Every method may be called from any thread.

    `engine` is the owner of the machines, `settings` what the process was started with, `given` the parameters that the
    caller named, as against those that have their defaults. The remaining fields are
    the caller's callbacks; each one left out does nothing.
    """

    engine: EngineT
    settings: Any = None
    report: Callable[[str, float | None], None] = _noop
    emit: Callable[[str], None] = _noop
    write: Callable[[int, bytes], None] = _noop
    read: Callable[[], Iterable[bytes]] = tuple
    emit_position: Callable[[int], None] = _noop
    given: frozenset[str] = frozenset()
    _cancelled: threading.Event = field(default_factory=threading.Event)
    _callbacks: list[Callable[[], None]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Say what is being done; `fraction` is 0 to 1, or None where the end is not known."""
        self.report(message, fraction)

    def notice(self, text: str) -> None:
        """Send the person one line that is neither progress nor result, such as a fallback that was taken."""
        self.emit(text)

    def output(self, tag: int, data: bytes) -> None:
        """Pass on live output: tag 1 is stdout, 2 is stderr."""
        self.write(tag, data)

    def position(self, cursor: int) -> None:
        """Say how far live output has come: from there a caller that was cut off may ask for it again."""
        self.emit_position(cursor)

    def input(self) -> Iterator[bytes]:
        """The caller's standard input, piece by piece, until its end."""
        return iter(self.read())

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def on_cancel(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when the caller cancels or goes away; at once if that has happened. Returns its removal."""
        with self._lock:
            fire = self._cancelled.is_set()
            if not fire:
                self._callbacks.append(callback)
        if fire:
            callback()
        return lambda: self._forget(callback)

    def cancel(self) -> None:
        """Called by whoever built the call: the caller is no longer interested."""
        with self._lock:
            if self._cancelled.is_set():
                return
            self._cancelled.set()
            callbacks, self._callbacks = list(self._callbacks), []
        for callback in callbacks:
            callback()

    @contextlib.contextmanager
    def within(self) -> Iterator[Call[EngineT]]:
        """A call of another verb as a step of this one: it is cancelled with it, and its live output is not passed
        on."""
        inner = Call(self.engine, self.settings, self.report, self.emit)
        forget = self.on_cancel(inner.cancel)
        try:
            yield inner
        finally:
            forget()

    def check(self) -> None:
        """Raises `Cancelled` once the caller has cancelled; for use between the steps of a long verb."""
        if self.cancelled:
            raise Cancelled("cannot finish the request: the caller cancelled it")

    def _forget(self, callback: Callable[[], None]) -> None:
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)
