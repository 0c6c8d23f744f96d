"""Output: the one place that writes to the terminal.

stdout carries the answer: a command's own output as it comes, a table, or with `--json` exactly one document. stderr
carries everything else: progress, notices, errors.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import PyroError
from pyro_mcp.surfaces.cli.escapes import EscapeFilter, plain
from pyro_mcp.surfaces.client import Callbacks
from pyro_mcp.surfaces.wording import CLI

if TYPE_CHECKING:
    from pyro_mcp.surfaces.cli.progress import ProgressView

STDOUT, STDERR = 1, 2
UNFOLDED = 10_000
"""The width of what is no terminal: a line stays one for whoever cuts it."""


class Output:
    """What one command says. With `as_json`, live output is kept off stdout, because the document holds it."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._filters: dict[int, EscapeFilter | None] = {}
        self._view: ProgressView | None = None

    def callbacks(self) -> Callbacks:
        """Callbacks for a request: progress and notices to stderr, output to where it belongs."""
        return Callbacks(progress=self.progress, notice=self.notice, output=self.live)

    def progress(self, message: str, fraction: float | None) -> None:
        if self._view is None:
            from pyro_mcp.surfaces.cli.progress import ProgressView

            self._view = ProgressView(is_terminal(STDERR))
        self._view.update(plain(message), fraction)

    def notice(self, text: str) -> None:
        self._quiet()
        print(f"pyro: {plain(text)}", file=sys.stderr, flush=True)

    def live(self, tag: int, data: bytes) -> None:
        """A piece of the command's stdout (1) or stderr (2). Raises `BrokenPipeError` when nobody reads it."""
        if self.as_json or tag not in (STDOUT, STDERR):
            return
        self._quiet()
        if tag not in self._filters:
            self._filters[tag] = EscapeFilter() if is_terminal(tag) else None
        cleaner = self._filters[tag]
        write_all(tag, cleaner.feed(data).encode() if cleaner else data)

    def finish(self) -> None:
        """Close what is open on the terminal: a progress line, a colour."""
        self._quiet()
        for tag, cleaner in self._filters.items():
            if cleaner:
                write_all(tag, cleaner.finish().encode())
        self._filters.clear()

    def document(self, payload: dict[str, Any]) -> None:
        """The one JSON document."""
        self.finish()
        write_all(STDOUT, (json.dumps(payload, indent=2) + "\n").encode())

    def verbatim(self, text: str) -> None:
        """A text as it stands; a terminal is spared what it would obey."""
        self.as_json = False
        self.live(STDOUT, text.encode("utf-8", "surrogateescape"))
        self.finish()

    def text(self, draw: Callable[[Any], None]) -> None:
        """Human output: `draw` gets a rich console."""
        self.finish()
        from rich.console import Console

        width = None if is_terminal(STDOUT) else UNFOLDED
        console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=width)
        draw(console)
        sys.stdout.flush()

    def error(self, error: PyroError) -> None:
        """An error, with its hint; with `--json` as the document."""
        CLI.error(error)
        if self.as_json:
            self.document({"error": {**error.to_wire(), "exit_code": error.exit_code, "retryable": error.retryable}})
            return
        self.finish()
        print(f"pyro: {plain(error.message)}", file=sys.stderr)
        if error.hint:
            # A hint may have lines, such as those of a file; what a line holds of controls is still shown as such.
            print("  hint: " + "\n        ".join(plain(line) for line in error.hint.split("\n")), file=sys.stderr)
        sys.stderr.flush()

    def _quiet(self) -> None:
        if self._view is not None:
            self._view.stop()
            self._view = None


def is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def write_all(fd: int, data: bytes) -> None:
    """Every byte of `data`, past Python's own buffers, which are flushed first to keep the order."""
    (sys.stdout if fd == STDOUT else sys.stderr).flush()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            import select

            select.select([], [fd], [])
