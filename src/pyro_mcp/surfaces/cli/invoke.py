"""Invoke: run an operation for the command line and show its answer."""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import stat
from typing import Any

from pyro_mcp.errors import InvalidArgument
from pyro_mcp.operations.operation import Operation
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces.cli import render
from pyro_mcp.surfaces.cli.output import Output
from pyro_mcp.surfaces.client import Client
from pyro_mcp.surfaces.wording import CLI

STDIN_FD = 0


def settings_of(namespace: argparse.Namespace) -> Settings:
    """The settings with this command line's flags on top."""
    return Settings.load(state_dir=namespace.state_dir, cache_dir=namespace.cache_dir)


def run_operation(namespace: argparse.Namespace) -> int:
    """The handler of every command that is an operation. Returns the exit code; raises `PyroError`."""
    operation: Operation[Any, Any] = namespace.operation
    output: Output = namespace.output
    params, inputs = arguments(operation, namespace)
    operation.validate(params)
    params = operation.localized(params)
    client = Client(settings_of(namespace))
    try:
        payload = CLI.result(client.call(operation, params, inputs, output.callbacks()))
    finally:
        output.finish()
        client.close()
    if any(field.param.cli == "stdin" and not inputs for field in operation.fields) and _input_waits():
        output.notice("what came on standard input was not passed on; --stdin does that")
    if operation.id_field and namespace.id_only:
        print(payload[operation.id_field])
    elif operation.text_field and namespace.text_only:
        output.verbatim(payload[operation.text_field])
    elif output.as_json:
        output.document(payload)
    else:
        render.show(operation.name, operation.result(payload), output)
    return exit_code(operation.name, payload)


def _input_waits() -> bool:
    """Whether standard input is a pipe or a file that holds something. Takes nothing of it, and waits for nothing;
    asked once the command is done, so that whoever writes into the pipe has done so."""
    try:
        about = os.fstat(STDIN_FD)
        if fcntl.fcntl(STDIN_FD, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return False
        if stat.S_ISREG(about.st_mode):
            return os.lseek(STDIN_FD, 0, os.SEEK_CUR) < about.st_size
        waiting = select.poll()
        waiting.register(STDIN_FD, select.POLLIN)
        return stat.S_ISFIFO(about.st_mode) and any(event & select.POLLIN for _, event in waiting.poll(0))
    except OSError:
        return False


def arguments(operation: Operation[Any, Any], namespace: argparse.Namespace) -> tuple[dict[str, Any], dict[str, int]]:
    """The parameters and the streams that the command line gave."""
    params: dict[str, Any] = {}
    inputs: dict[str, int] = {}
    for field in operation.fields:
        if field.param.cli == "command":
            if not namespace.words:
                leaf = namespace.leaf
                raise InvalidArgument(
                    f"cannot read the command line: `{leaf.prog}` needs a command",
                    hint=f"Put it after --, as in `{leaf.prog} {leaf.example} -- git --version`.",
                )
            params[field.name] = namespace.words
        elif hasattr(namespace, field.dest):
            given = getattr(namespace, field.dest)
            params[field.name] = [] if field.param.empty and given == [""] else given
            if field.param.stream and params[field.name]:
                inputs[field.name] = STDIN_FD
    return params, inputs


NOT_DONE = 75
"""The command goes on: ask again later."""
_NOT_THE_COMMANDS = frozenset({"start_service", "status_service", "logs_service", "stop_service"})
"""Verbs that report the exit code of a command, which is not theirs."""


def exit_code(name: str, payload: dict[str, Any]) -> int:
    """A command's own code for the verbs that run one, 75 while it still runs; 1 when the doctor found this host not
    ready, a service did not start or a project's set-up failed; otherwise 0."""
    if name == "create_workspace":
        return 1 if (payload.get("project") or {}).get("setup_failed") else 0
    if name == "diagnose":
        return 0 if payload.get("ready") else 1
    if name in _NOT_THE_COMMANDS:
        return 1 if name == "start_service" and payload.get("state") == "failed" else 0
    if "shell_id" in payload:
        # The code in it is the shell's and not the verb's.
        return 0
    if payload.get("exit_code", 0) is None:
        return NOT_DONE
    code = payload.get("exit_code", 0)
    return code if isinstance(code, int) and 0 <= code <= 255 else 1
