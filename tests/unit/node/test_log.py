"""The node's log: bounded, each line with its time and level, and never a reason to fail."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyro_mcp.node.log import BoundedLog, Lines

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d (INFO|WARNING|ERROR) ([\w.]+): (.*)")


@pytest.fixture
def log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[logging.Logger]:
    kept = [os.dup(number) for number in (1, 2)]
    handler = BoundedLog(tmp_path / "node.log", limit=400)
    handler.setFormatter(Lines())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    yield logger
    for number, descriptor in zip((1, 2), kept, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)


def test_it_keeps_at_most_twice_its_bound(log: logging.Logger, tmp_path: Path) -> None:
    for number in range(100):
        log.info(f"line {number}")
    assert (tmp_path / "node.log").read_text().endswith("line 99\n")
    assert all(0 < (tmp_path / name).stat().st_size <= 400 for name in ("node.log", "node.log.1"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOSPC])
def test_one_that_cannot_begin_anew_drops_lines_and_goes_on_later(
    log: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        for count in range(50):
            log.info(f"line {count}")
    assert (tmp_path / "node.log.1").stat().st_size <= 400
    log.info("back")
    assert (tmp_path / "node.log").read_text().endswith("back\n")


def lines_of(tmp_path: Path, source: str) -> list[tuple[str, ...]]:
    """Level, who, and text of each line in the log of a process that runs `source`."""
    begin = "import logging, sys, threading, warnings, pathlib\nfrom pyro_mcp.node.log import BoundedLog\n"
    begin += "from pyro_mcp.errors import Conflict\nBoundedLog(pathlib.Path(sys.argv[1])).install()\n"
    path = tmp_path / "node.log"
    done = subprocess.run([sys.executable, "-c", begin + source, str(path)], capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"", b"")
    found = [LINE.fullmatch(line) for line in path.read_text().splitlines()]
    assert all(found), path.read_text()
    return [match.groups() for match in found if match]


def test_each_line_has_its_level_and_who_said_it(tmp_path: Path) -> None:
    source = """
logging.getLogger("pyro_mcp.node.reap").info("100% done")
logging.getLogger("pyro_mcp.node.adopt").warning("its guest said\\n2026-11-27T00:00:00 INFO forged: line")
logging.getLogger("pyro_mcp.node.adopt").debug("too fine")
"""
    assert lines_of(tmp_path, source) == [
        ("INFO", "pyro_mcp.node.reap", "100% done"),
        ("WARNING", "pyro_mcp.node.adopt", "its guest said"),
        ("WARNING", "pyro_mcp.node.adopt", "2026-11-27T00:00:00 INFO forged: line"),
    ]


def test_a_hint_names_operations_as_the_command_line_does(tmp_path: Path) -> None:
    hint = "<<start_workspace>> it, with <<create_workspace.allow_hosts=a>>, or run <<diagnose>>"
    source = f"logging.warning('cannot reap it: ' + str(Conflict('cannot use it: stopped', hint={hint!r})))"
    worded = "`pyro workspace start` it, with --allow-host a, or run `pyro doctor`"
    told = f"cannot reap it: cannot use it: stopped. {worded}"
    assert lines_of(tmp_path, source) == [("WARNING", "root", told)]


def test_what_is_printed_or_warned_or_not_caught_is_logged_too(tmp_path: Path) -> None:
    source = """
print("ha", end="")
print("lf", end="", flush=True)
print("a line")
warnings.warn("old", UserWarning)
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise Conflict("cannot go on", hint="Run <<diagnose>>")
"""
    found = lines_of(tmp_path, source)
    assert found[:2] == [("ERROR", "stderr", "half"), ("ERROR", "stderr", "a line")]
    assert [text for _, who, text in found if who == "py.warnings" and "UserWarning: old" in text]
    assert [text for _, who, text in found if who == "stderr" and "ZeroDivisionError" in text]
    assert found[-1] == ("ERROR", "stderr", "pyro_mcp.errors.Conflict: cannot go on. Run `pyro doctor`")
