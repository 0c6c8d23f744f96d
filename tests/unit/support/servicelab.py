"""A workspace on the host, and the service verbs as one line each."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fleetlab import CallRecorder, engine_at

from pyro_mcp.api import workspace
from pyro_mcp.engine.engine import Engine
from pyro_mcp.model.service import Service, StartedService

REF = "w"


def a_workspace(state_dir: Path, policy: str = "off", **options: Any) -> Engine:
    engine = engine_at(state_dir)
    workspace.create_workspace.function(
        CallRecorder(engine).call,
        environment="debian:12",
        name=REF,
        mem_mib=128,
        allow_host_compat=True,
        network_policy=policy,
        **options,
    )
    return engine


def start(engine: Engine, command: str | list[str], name: str = "web", **given: Any) -> StartedService:
    options: dict[str, Any] = {
        "cwd": "/workspace",
        "readiness": None,
        "ready_timeout_seconds": 20,
        "ready_interval_ms": 50,
        "restart": "off",
        "secret_env": None,
        "published_ports": None,
    }
    call = given.pop("call", None) or CallRecorder(engine).call
    return engine.services.start(call, REF, name, command=command, **{**options, **given})


def stop(engine: Engine, name: str = "web") -> Service:
    return engine.services.stop(REF, name)


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.01)
