"""What the measures share: a row, a driver with a state directory of its own, and how to time and repeat."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_mcp.machines.driver import GuestRuntime, Image, MachineSpec
from pyro_mcp.machines.qemu.driver import QemuDriver, QemuMachine
from pyro_mcp.model.size import MachineSize
from pyro_mcp.protocol.channel import Channel, Data, StreamResult
from pyro_mcp.settings import Settings
from pyro_mcp.system.progress import silent

PYRO = str(Path(sys.executable).with_name("pyro"))


@dataclass
class Row:
    """One measured line. `bound` is the most (or with `least`, the least) that is acceptable."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    raw: float | None = None
    raw_is: str = ""
    least: bool = False

    @property
    def verdict(self) -> str:
        if self.bound is None:
            return "reported"
        met = self.value >= self.bound if self.least else self.value <= self.bound
        return "met" if met else "MISSED"


@dataclass
class Bench:
    """What the measures share: images, a driver, a state directory of its own, and how often to repeat."""

    settings: Settings
    runtime: GuestRuntime
    environment: Image
    runs: int
    nodes: list[Path] = field(default_factory=list)
    """State directories besides that of `settings` in which a node was started."""

    @contextlib.contextmanager
    def spec(self) -> Iterator[MachineSpec]:
        with tempfile.TemporaryDirectory(prefix="pyro-bench-", dir=self.settings.state_dir) as name:
            yield MachineSpec(
                f"vm-{uuid.uuid4().hex[:12]}", Path(name), self.environment, self.runtime, MachineSize(1, 1024, 8192)
            )

    @property
    def driver(self) -> QemuDriver:
        return QemuDriver(self.settings.cache_dir, accelerator="tcg")

    @contextlib.contextmanager
    def guest(self) -> Iterator[QemuMachine]:
        with self.spec() as spec:
            machine = self.driver.launch(spec, silent)
            try:
                yield machine
            finally:
                machine.terminate()

    def median(self, measure: Callable[[], float], runs: int | None = None) -> float:
        return statistics.median(measure() for _ in range(runs or self.runs))


def node_status(state_dir: Path) -> dict:
    environ = {**os.environ, "PYRO_STATE_DIR": str(state_dir)}
    shown = subprocess.run([PYRO, "node", "status", "--json"], check=True, capture_output=True, env=environ)
    return json.loads(shown.stdout)


def timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def run(channel: Channel, argv: list[str], feed: Iterator[bytes] | None = None) -> int:
    """Run `argv` in the guest; the number of bytes it printed."""
    params = {"argv": argv, "env": {}, "timeout_seconds": 300, "stdin": feed is not None}
    received, result = ask(channel, "exec", params, feed)
    if result["exit_code"] != 0:
        raise RuntimeError(f"{argv} ended with {result}")
    return received


def ask(
    channel: Channel, verb: str, params: dict[str, Any], feed: Iterator[bytes] | None = None
) -> tuple[int, dict[str, Any]]:
    """One request to the agent; how many bytes it sent, and its answer."""
    stream = channel.open(verb, params)
    if feed is not None:

        def push() -> None:
            for piece in feed:
                stream.send(piece)
            stream.end()

        threading.Thread(target=push, daemon=True).start()
    received = 0
    for message in stream.messages():
        if isinstance(message, Data):
            received += len(message.data)
        elif isinstance(message, StreamResult):
            return received, message.value
    raise AssertionError("a stream ends with its result")


def interleave(one: Callable[[], float], two: Callable[[], float], runs: int) -> tuple[float, float]:
    """Medians of two measures taken in turn, so that drift of the machine hits both."""
    pairs = [(one(), two()) for _ in range(runs)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)
