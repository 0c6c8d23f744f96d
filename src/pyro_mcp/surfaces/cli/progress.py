"""Progress: what a long command is doing, on stderr; a live line on a terminal, plain lines elsewhere.

Nothing is shown in the first moments, so that a quick command says nothing and need not import rich.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from typing import Any

LIVE_AFTER = 0.4
LINES_AFTER = 1.0
LINE_SECONDS = 2.0
AGAIN_SECONDS = 60.0
"""After so long one more line says what is still going on."""


class ProgressView:
    """Shows the latest message until stopped. `update` and `stop` may be called from any thread."""

    def __init__(self, live: bool) -> None:
        self._live = live
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._message = ""
        self._fraction: float | None = None
        self._stopped = False
        self._bar: Any = None
        self._task: Any = None
        self._last_line = ("", 0.0)
        self._timer = threading.Timer(LIVE_AFTER if live else LINES_AFTER, self._tick)
        self._timer.daemon = True
        self._timer.start()

    def update(self, message: str, fraction: float | None) -> None:
        with self._lock:
            self._message, self._fraction = message, fraction
            self._show()

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._stopped = True
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def _tick(self) -> None:
        with self._lock:
            self._show()

    def _show(self) -> None:
        waited = time.monotonic() - self._began
        if self._stopped or not self._message or waited < (LIVE_AFTER if self._live else LINES_AFTER):
            return
        if self._live:
            self._draw()
        else:
            self._line()

    def _line(self) -> None:
        last, when = self._last_line
        now = time.monotonic()
        if self._message == last:
            return
        same = _without_seconds(self._message) == _without_seconds(last)
        if now - when >= (AGAIN_SECONDS if same else 0.0 if self._fraction is None else LINE_SECONDS):
            self._last_line = (self._message, now)
            share = "" if self._fraction is None else f" ({self._fraction:.0%})"
            print(f"pyro: {self._message}{share}", file=sys.stderr, flush=True)

    def _draw(self) -> None:
        if self._bar is None:
            self._bar, self._task = _bar()
        total = None if self._fraction is None else 1.0
        self._bar.update(self._task, description=self._message, completed=self._fraction or 0.0, total=total)


def _without_seconds(message: str) -> str:
    """What goes on, without for how long."""
    return re.sub(r" \(\d+ s\)$", "", message)


def _bar() -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    bar.start()
    return bar, bar.add_task("", total=None)
