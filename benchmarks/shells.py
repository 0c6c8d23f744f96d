"""Measures of shells, through the SDK: each yields (name, value, unit, bound, least?, raw, what raw is)."""

from __future__ import annotations

import queue
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from workspaces import Line, workspace

from pyro_mcp import Pyro
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.client import call_running_node

FLOOD = 10_000_000
ECHO_MS = 30


def measure(pyro: Pyro, runs: int) -> Iterator[Line]:
    """Every measure of shells."""
    with workspace(pyro) as made:
        yield from openings(pyro, made, runs)
        yield from echoes(pyro, made, runs * 3)
        yield from flood(pyro, made)


def openings(pyro: Pyro, workspace_id: str, runs: int) -> Iterator[Line]:
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        shell_id = pyro.open_shell(workspace_id).shell_id
        times.append(time.perf_counter() - begun)
        pyro.close_shell(workspace_id, shell_id)
    yield "shell open to its prompt", statistics.median(times) * 1e3, "ms", None, False, None, ""


def quiet_shell(pyro: Pyro, workspace_id: str, line: str) -> tuple[str, int]:
    """A shell that says nothing by itself and runs `line`; its id, and where its output begins."""
    shell_id = pyro.open_shell(workspace_id).shell_id
    pyro.write_shell(workspace_id, shell_id, input=f"PS1=; stty -echo -onlcr; {line}")
    at = pyro.read_shell(workspace_id, shell_id, wait_for_idle_ms=1000).next_cursor
    return shell_id, at


def echoes(pyro: Pyro, workspace_id: str, runs: int) -> Iterator[Line]:
    shell_id, at = quiet_shell(pyro, workspace_id, "stty echo raw; exec cat > /dev/null")
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        pyro.write_shell(workspace_id, shell_id, input="k", append_newline=False)
        at = pyro.read_shell(workspace_id, shell_id, cursor=at, wait_seconds=10).next_cursor
        times.append(time.perf_counter() - begun)
    yield "shell write to its echo, write and read", statistics.median(times) * 1e3, "ms", ECHO_MS, False, None, ""
    person = Person(pyro, workspace_id, shell_id)
    times = []
    for _ in range(runs):
        begun = time.perf_counter()
        person.type(b"k")
        times.append(time.perf_counter() - begun)
    person.leave()
    pyro.close_shell(workspace_id, shell_id)
    yield "shell key to its echo, attached", statistics.median(times) * 1e3, "ms", ECHO_MS, False, None, ""


def flood(pyro: Pyro, workspace_id: str) -> Iterator[Line]:
    line = f"read go; head -c {FLOOD} /dev/zero | tr '\\0' Z; exit"
    shell_id, _ = quiet_shell(pyro, workspace_id, line)
    before = node_kib(pyro)
    person = Person(pyro, workspace_id, shell_id)
    person.marks = 0
    begun = time.perf_counter()
    person.send(b"go\r")
    person.thread.join()
    elapsed = time.perf_counter() - begun
    require(person.marks == FLOOD, f"{FLOOD - person.marks} bytes were lost")
    yield "shell output of 10 MB, attached, nothing lost", FLOOD / 1e6 / elapsed, "MB/s", None, True, None, ""
    shell_id, at = quiet_shell(pyro, workspace_id, line)
    pyro.write_shell(workspace_id, shell_id, input="go")
    begun, seen, missed = time.perf_counter(), 0, 0
    while True:
        read = pyro.read_shell(workspace_id, shell_id, cursor=at, max_chars=1_048_576, wait_seconds=10)
        at, seen, missed = read.next_cursor, seen + read.output.count("Z"), missed + read.missed_bytes
        if read.state != "running" and not read.more:
            break
    elapsed = time.perf_counter() - begun
    require(seen + missed >= FLOOD, "bytes were lost without a word")
    yield "the same by reads", FLOOD / 1e6 / elapsed, "MB/s", None, True, None, ""
    yield "bytes that these reads were told they missed", missed / 1e6, "MB", None, False, None, ""
    yield "node's memory grown by both", (node_kib(pyro) - before) / 1024, "MiB", None, False, None, ""


class Person:
    """Somebody attached to a shell, whose output is waited for."""

    def __init__(self, pyro: Pyro, workspace_id: str, shell_id: str) -> None:
        self.marks = 0
        self._heard = 0
        self._news = threading.Condition()
        self._keys: queue.Queue[bytes | None] = queue.Queue()
        settings = pyro._client.settings
        self._pyro = Pyro(state_dir=settings.state_dir, cache_dir=settings.cache_dir, on_output=self._hear)
        self.thread = threading.Thread(
            target=lambda: self._pyro.attach_shell(workspace_id, shell_id, stdin=iter(self._keys.get, None))
        )
        self.thread.start()
        time.sleep(1)

    def send(self, keys: bytes) -> None:
        self._keys.put(keys)

    def type(self, keys: bytes) -> None:
        """Send and wait for the echo."""
        with self._news:
            heard = self._heard
            self._keys.put(keys)
            self._news.wait_for(lambda: self._heard > heard, 30)

    def leave(self) -> None:
        self._keys.put(None)
        self.thread.join()
        self._pyro.close()

    def _hear(self, _tag: int, data: bytes) -> None:
        with self._news:
            self._heard += len(data)
            self.marks += data.count(b"Z")
            self._news.notify_all()


def node_kib(pyro: Pyro) -> int:
    """The node's resident memory."""
    settings: Settings = pyro._client.settings
    status = call_running_node(settings, "node_status") or {}
    for line in Path(f"/proc/{status['pid']}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("the node has no VmRSS")


def require(held: bool, words: str) -> None:
    if not held:
        raise RuntimeError(words)
