"""Service record: the agent's record of a service run, checked before use.

The host keeps its own times: a record tells how long ago something was, which is held between the start and now.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.errors import MachineFailed
from pyro_mcp.store.services import ServiceRow

STATES = frozenset({"starting", "ready", "running", "failed", "exited", "stopped"})
REASON_MAX = 500
TAIL_MAX = 64 * 1024
_SIGNAL = re.compile(r"SIG[A-Z0-9+]{1,12}")
_INT = 1 << 53


def run_of(answer: Mapping[str, Any]) -> str | None:
    """The run that an agent's answer is about."""
    record = answer.get("service")
    run = record.get("run") if isinstance(record, dict) else None
    return run if isinstance(run, str) else None


def version_of(answer: Mapping[str, Any]) -> int:
    """How many states the run had before: of two answers the one with the higher is the later. Raises
    `MachineFailed`."""
    version = answer["service"].get("version")
    if not _is_count(version):
        raise _broken()
    return int(version)


def applied(row: ServiceRow, answer: Mapping[str, Any], now: float, masks: Masks) -> ServiceRow:
    """`row` as `answer` says it is now. Raises `MachineFailed` when the agent breaks the rules."""
    record: dict[str, Any] = answer["service"]
    code, signal, pid, reason = (record.get(name) for name in ("exit_code", "signal", "pid", "reason"))
    good = (
        isinstance(record.get("state"), str)
        and record["state"] in STATES
        and (code is None or (_is_count(code) and code <= 255))
        and (signal is None or (isinstance(signal, str) and _SIGNAL.fullmatch(signal)))
        and (pid is None or _is_count(pid))
        and (reason is None or isinstance(reason, str))
        and _is_count(record.get("restart_count"))
    )
    if not good:
        raise _broken()
    # Reckoned once: how long the next answer was under way is no news.
    ready_at = row.ready_at if record["restart_count"] == row.restart_count else None
    return replace(
        row,
        state=record["state"],
        exit_code=code,
        signal=signal,
        pid=pid,
        stop_reason=None if reason is None else masks.text(_printable(reason)),
        restart_count=record["restart_count"],
        ready_at=_moment(row, record.get("ready_ago_ms"), now, ready_at),
        ended_at=_moment(row, record.get("ended_ago_ms"), now),
    )


def tails_of(answer: Mapping[str, Any], masks: Masks) -> tuple[str, str]:
    """The end of both streams, masked."""
    out, err = (answer.get(name) for name in ("stdout", "stderr"))
    if not isinstance(out, str) or not isinstance(err, str):
        raise _broken()
    return masks.text(out[-TAIL_MAX:]), masks.text(err[-TAIL_MAX:])


def _moment(row: ServiceRow, ago_ms: Any, now: float, known: float | None = None) -> float | None:
    if ago_ms is None:
        return None
    if not _is_count(ago_ms):
        raise _broken()
    return max(row.started_at, now - float(ago_ms) / 1000) if known is None else known


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _INT


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text[:REASON_MAX])


def _broken() -> MachineFailed:
    return MachineFailed("cannot read the state of a service: the machine's agent broke the protocol")
