"""Exec: one command in a live machine, its output streamed and captured in bounds.

The agent is the guest's, so nothing it answers is believed: numbers are checked, time is the host's, silence ends.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.commands.capture import Capture
from pyro_mcp.engine.commands.limit import Limit, guest_limit
from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.command import agent_request, display_text
from pyro_mcp.model.text import whole_characters
from pyro_mcp.operations.call import STDERR, STDOUT, Call
from pyro_mcp.protocol.channel import Data, Stream, StreamResult

_SIGNAL = re.compile(r"SIG[A-Z0-9+]{1,12}")
PATH_MAX = 4096


Output = Callable[[int, bytes], None]
"""Takes a command's output as it comes: tag 1 is stdout, 2 stderr. May raise `Cancelled`."""


def run_command(
    call: Call[Any],
    machine: Machine,
    command: str | list[str],
    *,
    timeout_seconds: float,
    stdin: bytes | Iterable[bytes] | None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run `command` in `machine`, its output passed on to `call`; the fields of a `CommandResult`, and `cwd`.

    Raises what `execute` raises.
    """
    captures = {STDOUT: Capture(), STDERR: Capture()}

    def on_data(tag: int, data: bytes) -> None:
        captures[tag].add(data)
        call.output(tag, data)

    done = execute(call, machine, command, on_data, timeout_seconds=timeout_seconds, stdin=stdin, cwd=cwd, env=env)
    return {**done, **_captured(captures)}


def execute(
    call: Call[Any],
    machine: Machine,
    command: str | list[str],
    on_data: Output,
    *,
    timeout_seconds: float,
    stdin: bytes | Iterable[bytes] | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    secret_env: Mapping[str, str] | None = None,
    job: str | None = None,
) -> dict[str, Any]:
    """Run `command` in `machine` and hand its output to `on_data`; the fields of a `CommandResult` without the streams,
    and `cwd`, where it ran: a relative one is seen from where the agent starts commands.

    As a `job` it does not end with the machine's channel: `resume_command` goes on with it.

    Raises `Cancelled` when the caller went away (the command has been ended then), `MachineFailed` when the machine
    ended or its agent broke the rules, and what the agent refuses, such as `InvalidArgument`.
    """
    begun = time.monotonic()
    params = agent_request(command, cwd=cwd, env=env, secret_env=secret_env)
    params |= {"timeout_seconds": guest_limit(timeout_seconds), "stdin": stdin is not None, "time_ns": time.time_ns()}
    params |= {"job": job} if job else {}
    answer = _run(call, machine, command, ("exec", params), on_data, timeout_seconds, stdin)
    return {
        "command": display_text(command),
        "duration_ms": int((time.monotonic() - begun) * 1000),
        "execution_mode": machine.capabilities.execution_mode,
        "isolation": machine.capabilities.isolation,
        **_checked(answer),
    }


def resume_command(
    call: Call[Any],
    machine: Machine,
    command: str,
    job: str,
    offsets: Mapping[int, int],
    on_data: Output,
    *,
    timeout_seconds: float,
) -> dict[str, Any]:
    """Go on with a job from `offsets` of its streams; the outcome, with `ran_ms` as far as the agent reports it.

    Raises what `execute` raises, and `NotFound` when the machine does not know the job.
    """
    params = {"job": job, "stdout_offset": offsets[STDOUT], "stderr_offset": offsets[STDERR]}
    machine.channel.standstill.wait()
    answer = _run(call, machine, command, ("exec_resume", params), on_data, timeout_seconds, None)
    ran = answer.get("duration_ms")
    return {**_checked(answer), "ran_ms": ran if type(ran) is int and ran >= 0 else None}


def forget_job(machine: Machine, job: str) -> None:
    """Tell the machine that the job's outcome is recorded."""
    AgentClient(machine).notify("exec_forget", {"job": job})


def _run(
    call: Call[Any],
    machine: Machine,
    command: str | list[str],
    request: tuple[str, dict[str, Any]],
    on_data: Output,
    seconds: float,
    stdin: bytes | Iterable[bytes] | None,
) -> dict[str, Any]:
    """The agent's answer to `request` for a command that may run for so many seconds."""
    purpose, hint = f"finish `{_first_line(command)}`", partial(_after_death, machine)
    with AgentClient(machine).exchange(call, *request, send=stdin, purpose=purpose, hint=hint) as exchange:
        return _follow(exchange.stream, on_data, Limit(machine, exchange.stream, seconds))


def _follow(stream: Stream, on_data: Output, limit: Limit) -> dict[str, Any]:
    """Pass output on until the result."""
    while True:
        if not limit.remaining:
            limit.act()
        try:
            message = stream.receive(limit.remaining)
        except TimeoutError:
            continue
        if isinstance(message, StreamResult):
            return message.value
        if isinstance(message, Data) and message.tag in (STDOUT, STDERR):
            begun = time.monotonic()
            on_data(message.tag, bytes(message.data))
            limit.stalled(time.monotonic() - begun)


def _checked(answer: dict[str, Any]) -> dict[str, Any]:
    code, signal, timed_out = answer.get("exit_code"), answer.get("signal"), answer.get("timed_out")
    named = signal is None or (isinstance(signal, str) and _SIGNAL.fullmatch(signal) is not None)
    if type(code) is not int or not 0 <= code <= 255 or not named or not isinstance(timed_out, bool):
        raise MachineFailed("cannot read the command's outcome: the guest's agent broke the protocol")
    where = whole_characters(str(answer.get("cwd", ""))[:PATH_MAX])
    return {"exit_code": code, "signal": signal, "timed_out": timed_out, "cwd": where}


def _captured(captures: dict[int, Capture]) -> dict[str, Any]:
    out, err = captures[STDOUT].finish(), captures[STDERR].finish()
    return {
        "stdout": out.text,
        "stderr": err.text,
        "stdout_dropped_bytes": out.dropped_bytes,
        "stderr_dropped_bytes": err.dropped_bytes,
        "truncated": bool(out.dropped_bytes or err.dropped_bytes),
        "encoding_lossy": out.lossy or err.lossy,
    }


def _first_line(command: str | list[str]) -> str:
    return display_text(command).splitlines()[0][:80]


def _after_death(machine: Machine) -> str:
    said = machine.console_tail().strip().splitlines()[-3:]
    return f"The machine's console ends with: {' / '.join(said)[-600:]}" if said else "Try again in a new machine"
