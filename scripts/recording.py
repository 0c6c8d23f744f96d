#!/usr/bin/env python3
"""Write docs/quick-start.svg: a picture of the first commands, with what they really print on this machine."""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "quick-start.svg"
COLUMNS, ROWS = 92, 80
SECONDS = 300
STEPS = (
    "pyro run debian:12 -- uname -sr",
    "pyro workspace create debian:12-build --name fix --seed-path calc --id-only",
    "pyro workspace exec fix -- python3 -m unittest 2>&1 | tail -n 4",
    "pyro workspace exec fix -- sed -i 's|sum(prices) //|(sum(prices) + 1) //|' calc.py",
    "pyro workspace exec fix -- python3 -m unittest 2>&1 | tail -n 1",
    "pyro workspace diff fix",
    "pyro workspace delete fix",
)


def main() -> int:
    """Run the steps in a terminal of `COLUMNS` and draw it."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(screen)
    with tempfile.TemporaryDirectory(prefix="pyro-recording-") as directory:
        home = Path(directory)
        os.symlink(ROOT / "examples" / "use-cases" / "calc", home / "calc")
        environ = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TERM": "xterm-256color",
        }
        environ["PYRO_STATE_DIR"] = f"{directory}/state"
        try:
            # Once unseen: what happens only the first time is not what the picture is about.
            run("pyro run debian:12 -- true; pyro run debian:12-build -- true", home, environ)
            for command in STEPS:
                stream.feed(f"\x1b[1;32m$\x1b[0;1m {command}\x1b[0m\r\n")
                stream.feed(run(command, home, environ))
        finally:
            run("pyro node stop --force", home, environ)
    draw(screen).save_svg(str(TARGET), title="pyro")
    return 0


def draw(screen: pyte.Screen) -> Console:
    """What stands on `screen`, for a picture."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for row in range(screen.cursor.y):
        line = Text(no_wrap=True)
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            line.append(cell.data, Style(bold=cell.bold, color=None if cell.fg == "default" else cell.fg))
        line.rstrip()
        console.print(line)
    return console


def run(command: str, directory: Path, environ: dict[str, str]) -> str:
    """What `command` shows on a terminal; it must end well."""
    child = pexpect.spawn(
        "/bin/bash", ["-c", command], timeout=SECONDS, cwd=str(directory), env=environ, dimensions=(ROWS, COLUMNS)
    )
    text: str = child.read().decode()
    child.close()
    if child.exitstatus != 0:
        raise SystemExit(f"{command!r} ended with {child.exitstatus}:\n{text}")
    return text


if __name__ == "__main__":
    sys.exit(main())
