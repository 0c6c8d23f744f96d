"""`pyro workspace shell attach`: a person's own terminal as the terminal of a shell in a workspace.

Keys go in as they are typed, but for the one that leaves; output comes out as the guest says it, but for what would act
on the terminal beyond its screen. The terminal is put back however this ends; only after `kill -9` must `reset` do it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

from pyro_mcp.errors import InvalidArgument, PyroError
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.interactive import InteractiveFilter
from pyro_mcp.surfaces.cli.invoke import arguments, settings_of
from pyro_mcp.surfaces.cli.output import STDOUT, Output, is_terminal, write_all
from pyro_mcp.surfaces.client import Client, Listener, deaf

STDIN = 0
DETACH_KEY = "ctrl-]"
KEY_RULE = "ctrl- and one of a-z [ \\ ] ^ _, or none"
SIDE_MAX = 1000


def configure(parser: argparse.ArgumentParser) -> None:
    """Let the shell be left out, and add what only a terminal needs."""
    for action in parser._actions:
        if action.dest == "param_shell_id":
            action.nargs, action.required, action.default = "?", False, argparse.SUPPRESS
            action.help = "id of the shell; a new one is opened if none is given"
    parser.add_argument(
        "--detach-key",
        default=DETACH_KEY,
        metavar="KEY",
        help=f"leave, and let the shell go on: {KEY_RULE} (default {DETACH_KEY})",
    )
    parser.add_argument(
        "--raw-escapes",
        action="store_true",
        help="pass on every escape sequence, also those that set the clipboard, the title, or make the terminal answer",
    )
    parser.set_defaults(handler=attach)


def attach(namespace: argparse.Namespace) -> int:
    """Be at the shell until it ends or the person leaves. Returns the shell's exit code, 0 when it goes on."""
    key = parse_key(namespace.detach_key)
    if not (is_terminal(STDIN) and is_terminal(STDOUT)):
        raise InvalidArgument(
            "cannot attach to a shell: standard input and output are not a terminal",
            hint="Without one use `pyro workspace shell read` and `write`.",
        )
    output: Output = namespace.output
    params, _ = arguments(namespace.operation, namespace)
    with contextlib.closing(Client(settings_of(namespace))) as client:
        session = _Session(client, output, params, key, raw_escapes=namespace.raw_escapes)
        answer = session.run(namespace.operation)
    return _tell(output, params, answer)


def parse_key(text: str) -> bytes | None:
    """The byte that a key such as `ctrl-]` sends; None for `none`. Raises `InvalidArgument`."""
    name = text.lower()
    if name == "none":
        return None
    last = name.removeprefix("ctrl-").upper()
    if not name.startswith("ctrl-") or len(last) != 1 or not "A" <= last <= "_":
        raise InvalidArgument(f"cannot use {text[:32]!r} as the key to detach with", hint=f"It is {KEY_RULE}.")
    return bytes((ord(last) - 64,))


class _Session:
    """One terminal at one shell. `params` gets the id of the shell once it is known."""

    def __init__(
        self, client: Client, output: Output, params: dict[str, Any], key: bytes | None, *, raw_escapes: bool
    ) -> None:
        self._client = client
        self._output = output
        self._params = params
        self._key = key
        self._filter = None if raw_escapes else InteractiveFilter()
        self._resized_read, self._resized_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._verbs = {operation.name: operation for operation in catalog.operations("shell")}

    def run(self, operation: Operation[Any, Any]) -> dict[str, Any]:
        """The encoded answer of the attachment. Raises `PyroError`."""
        fresh = "shell_id" not in self._params
        if fresh:
            opened = self._call("open_shell", workspace_id=self._params["workspace_id"], **_size())
            self._params["shell_id"] = opened["shell_id"]
        operation.validate(self._params)
        self._output.finish()
        with self._raw_terminal():
            request = self._client.begin(operation.name, {**self._params, "stdin": True}, {"stdin": self._keys()})
            threading.Thread(target=self._follow_size, args=(not fresh,), name="resize", daemon=True).start()
            return request.wait(Listener(progress=deaf, notice=deaf, output=self._show))

    # -- both ways

    def _keys(self) -> Iterator[bytes]:
        """What is typed, until the key that leaves or until the terminal is gone."""
        while data := os.read(STDIN, 4096):
            at = -1 if self._key is None else data.find(self._key)
            if at >= 0:
                if at:
                    yield data[:at]
                return
            yield data

    def _show(self, _tag: int, data: bytes) -> None:
        write_all(STDOUT, data if self._filter is None else self._filter.feed(data).encode())

    # -- the terminal

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        """While inside every key is ours; afterwards the terminal is as it was."""
        modes = termios.tcgetattr(STDIN)
        before = signal.signal(signal.SIGWINCH, self._resized)
        try:
            tty.setraw(STDIN, termios.TCSADRAIN)
            yield
        finally:
            # A second request to end must not come in between.
            held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP, signal.SIGINT))
            try:
                with contextlib.suppress(OSError):
                    if self._filter is not None:
                        write_all(STDOUT, self._filter.finish().encode())
            finally:
                with contextlib.suppress(termios.error):
                    termios.tcsetattr(STDIN, termios.TCSADRAIN, modes)
                signal.signal(signal.SIGWINCH, before)
                signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def _resized(self, _number: int, _frame: object) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._resized_write, b"x")

    def _follow_size(self, redraw: bool) -> None:
        """Tell the shell each new size. At first `redraw` makes a full-screen program in it draw itself anew."""
        os.set_blocking(self._resized_read, True)
        size = _size()
        if redraw:
            self._resize({**size, "rows": max(1, size["rows"] - 1)})
            self._resize(size)
        while os.read(self._resized_read, 4096):
            self._resize(_size())

    def _resize(self, size: dict[str, int]) -> None:
        # One that has ended has no size any more, and the attachment tells what became of it.
        with contextlib.suppress(PyroError):
            self._call("resize_shell", **{name: self._params[name] for name in ("workspace_id", "shell_id")}, **size)

    def _call(self, verb: str, **params: Any) -> dict[str, Any]:
        operation = self._verbs[verb]
        operation.validate(params)
        return self._client.call(operation, params, None, self._output.listener())


def _size() -> dict[str, int]:
    """The terminal's size, within what a shell may have."""
    size = shutil.get_terminal_size((120, 30)) if not is_terminal(STDOUT) else os.get_terminal_size(STDOUT)
    return {"cols": min(max(1, size.columns), SIDE_MAX), "rows": min(max(1, size.lines), SIDE_MAX)}


def _tell(output: Output, params: dict[str, Any], answer: dict[str, Any]) -> int:
    """Say how it ended."""
    if output.as_json:
        output.document(answer)
    elif answer["detached"]:
        sys.stdout.write("\n")
        again = f"pyro workspace shell attach {params['workspace_id']} {answer['shell_id']}"
        output.notice(f"detached; the shell goes on. Come back with: {again}")
    elif answer["state"] == "closed":
        output.notice("the shell was closed")
    return 0 if answer["detached"] else int(answer["exit_code"] or 0)
