"""A person's terminal with `pyro workspace shell attach` in it, seen through another terminal emulator."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import time
from typing import Any

import pexpect
import pyte

PYRO = [sys.executable, "-m", "pyro_mcp"]
ROWS, COLS = 24, 80
PROMPT = r"root@[\w-]+:/workspace# "


def pyro(environ: dict[str, str], *words: str) -> dict[str, Any]:
    done = subprocess.run([*PYRO, *words, "--json"], env=environ, capture_output=True, timeout=300, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Terminal:
    """A person's terminal with `pyro workspace shell attach` in it."""

    def __init__(self, environ: dict[str, str], *words: str) -> None:
        argv = [*PYRO[1:], "workspace", "shell", "attach", *words]
        self.child = pexpect.spawn(PYRO[0], argv, env=environ, timeout=60, dimensions=(ROWS, COLS))  # type: ignore[arg-type]
        self.modes = termios.tcgetattr(self.child.child_fd)
        self.screen = pyte.Screen(COLS, ROWS)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""

    def see(self, pattern: str, seconds: float = 60) -> None:
        """Wait until the screen shows `pattern`."""
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert time.monotonic() < deadline, self.text
            self._take(0.2)

    def hear(self, words: bytes, seconds: float = 60) -> None:
        """Wait until `words` have come, which may have left the screen since."""
        deadline = time.monotonic() + seconds
        while words not in self.raw:
            assert time.monotonic() < deadline, self.raw
            self._take(0.2)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def _take(self, seconds: float) -> bool:
        try:
            piece = self.child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True

    def type(self, text: str) -> None:
        self.child.send(text)

    def resize(self, rows: int, columns: int) -> None:
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def leave(self, code: int) -> None:
        """Wait for the end; the terminal must be as it was."""
        deadline = time.monotonic() + 60
        while self._take(0.2):
            assert time.monotonic() < deadline, self.text
        assert termios.tcgetattr(self.child.child_fd) == self.modes
        self.child.close()
        assert self.child.exitstatus == code, self.text


def kill_node(environ: dict[str, str]) -> None:
    os.kill(pyro(environ, "node", "status")["pid"], signal.SIGKILL)
