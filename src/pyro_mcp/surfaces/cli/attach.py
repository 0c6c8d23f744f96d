"""`pyro workspace shell attach`: a person's own terminal as the terminal of a shell in a workspace.

Keys go in as they are typed, but for the one that leaves; output comes out as the guest says it, but for what would act
on the terminal beyond its screen. The terminal is put back however this ends; only after `kill -9` must `reset` do it.

The shell lives in the machine and not in the node. So when a node dies the next one is asked for the same shell, from
the last byte that was shown; once, and once more whenever the person has typed since.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from typing import Any

from pyro_mcp.errors import InvalidArgument, NodeUnavailable, PyroError
from pyro_mcp.operations.operation import Operation
from pyro_mcp.surfaces import catalog
from pyro_mcp.surfaces.cli.interactive import InteractiveFilter
from pyro_mcp.surfaces.cli.invoke import arguments, settings_of
from pyro_mcp.surfaces.cli.keyboard import DETACH_KEY, KEY_RULE, Keyboard, parse_key
from pyro_mcp.surfaces.cli.output import STDERR, STDOUT, Output, is_terminal, write_all
from pyro_mcp.surfaces.client import Callbacks, Client, Request, noop

STDIN = 0
SIDE_MAX = 1000
USUAL_SIZE = 80, 24
RESIZED, REDRAW = b"x", b"r"


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
    output: Output = namespace.output
    params, _ = arguments(namespace.operation, namespace)
    _require_terminal(params)
    with contextlib.closing(Client(settings_of(namespace))) as client:
        session = _Session(client, output, params, key, raw_escapes=namespace.raw_escapes)
        answer = session.run(namespace.operation)
    return _emit(output, params, answer)


def _require_terminal(params: dict[str, Any]) -> None:
    lacking = [name for name, fd in (("input", STDIN), ("output", STDOUT)) if not is_terminal(fd)]
    if lacking:
        which = f"standard {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not a terminal"
        shell = shlex.join([params["workspace_id"], params.get("shell_id", "SHELL")])
        raise InvalidArgument(
            f"cannot attach to a shell: {which}",
            hint=f"Run it in a terminal, or type with `pyro workspace shell write {shell} --input TEXT` and look with"
            f" `pyro workspace shell read {shell} --plain`; `pyro workspace shell open` opens one.",
        )


_KILLED = frozenset(128 + number for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGKILL))
"""What a shell ends with that did not end by itself: the person has typed nothing that explains it."""


class _Session:
    """One terminal at one shell. `params` gets the id of the shell once it is known."""

    def __init__(
        self, client: Client, output: Output, params: dict[str, Any], key: bytes | None, *, raw_escapes: bool
    ) -> None:
        self._client = client
        self._output = output
        self._params = params
        self._keyboard = Keyboard(STDIN, key)
        self._cursor: int | None = None
        self._since, self._repeated = 0, 0
        self._filter = None if raw_escapes else InteractiveFilter()
        self._lost = False
        self._sizes_read, self._sizes_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._verbs = {operation.name: operation for operation in catalog.operations("shell")}

    def run(self, operation: Operation[Any, Any]) -> dict[str, Any]:
        """The encoded answer of the attachment. Raises `PyroError`."""
        fresh = "shell_id" not in self._params
        if fresh:
            opened = self._call("open_shell", workspace_id=self._params["workspace_id"], **_size())
            self._params["shell_id"] = opened["shell_id"]
        operation.validate(self._params)
        self._output.finish()
        threading.Thread(target=self._follow_size, name="resize", daemon=True).start()
        with _errors_on_their_own_line(), self._raw_terminal():
            attached = self._begin(operation, redraw=not fresh)
            while True:
                try:
                    return attached.wait(
                        Callbacks(progress=noop, notice=noop, output=self._show, position=self._reached)
                    )
                except NodeUnavailable as error:
                    attached = self._again(operation, error)

    def _begin(self, operation: Operation[Any, Any], *, redraw: bool) -> Request:
        request = self._client.begin(operation.name, {**self._params, "stdin": True}, {"stdin": self._keyboard.turn()})
        os.write(self._sizes_write, REDRAW if redraw else RESIZED)
        return request

    def _again(self, operation: Operation[Any, Any], error: NodeUnavailable) -> Request:
        """Attach once more where the lost attachment stood. Raises `error`, with how to do that by hand."""
        if self._cursor is None:
            raise error
        lasting = self._keyboard.typed or not self._lost
        self._lost, self._keyboard.typed = True, False
        if lasting:
            self._say("the node was lost; attaching again")
            self._params["cursor"], self._repeated, self._since = self._cursor, self._since, 0
            with contextlib.suppress(NodeUnavailable):
                return self._begin(operation, redraw=True)
        raise NodeUnavailable(error.message, hint=f"The shell goes on. Attach again with: {_command(self._params)}")

    # -- both ways

    def _reached(self, cursor: int) -> None:
        self._cursor, self._since, self._repeated = cursor, 0, 0

    def _say(self, text: str) -> None:
        with contextlib.suppress(OSError):
            write_all(STDERR, f"\r\n[pyro: {text}]\r\n".encode())

    def _show(self, _tag: int, data: bytes) -> None:
        """Show it, but for what a lost attachment has shown already after its last position."""
        self._since += len(data)
        known = min(self._repeated, len(data))
        self._repeated, data = self._repeated - known, data[known:]
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
            os.write(self._sizes_write, RESIZED)

    def _follow_size(self) -> None:
        """Tell the shell each new size; one that is not quite right first makes a full-screen program draw anew."""
        os.set_blocking(self._sizes_read, True)
        while reported := os.read(self._sizes_read, 4096):
            size = _size()
            if REDRAW in reported:
                self._resize({**size, "rows": size["rows"] - 1 or 2})
            self._resize(size)

    def _resize(self, size: dict[str, int]) -> None:
        # One that has ended has no size any more, and the attachment reports what became of it.
        with contextlib.suppress(PyroError):
            self._call("resize_shell", **{name: self._params[name] for name in ("workspace_id", "shell_id")}, **size)

    def _call(self, verb: str, **params: Any) -> dict[str, Any]:
        operation = self._verbs[verb]
        operation.validate(params)
        return self._client.call(operation, params, None, self._output.callbacks())


@contextlib.contextmanager
def _errors_on_their_own_line() -> Iterator[None]:
    """What the shell said last, a prompt as a rule, is not the beginning of an error."""
    try:
        yield
    except PyroError:
        sys.stdout.write("\n")
        raise


def _size(terminal: int = STDOUT) -> dict[str, int]:
    """The terminal's size, within what a shell may have. One that does not know it says 0, and gets the usual one."""
    size = shutil.get_terminal_size((120, 30)) if not is_terminal(terminal) else os.get_terminal_size(terminal)
    columns, lines = (size.columns, size.lines) if size.columns and size.lines else USUAL_SIZE
    return {"cols": min(columns, SIDE_MAX), "rows": min(lines, SIDE_MAX)}


def _command(params: dict[str, Any]) -> str:
    """What brings a person back."""
    return shlex.join(["pyro", "workspace", "shell", "attach", params["workspace_id"], params["shell_id"]])


def _emit(output: Output, params: dict[str, Any], answer: dict[str, Any]) -> int:
    """Say how it ended."""
    if output.as_json:
        output.document(answer)
    elif answer["detached"]:
        sys.stdout.write("\n")
        output.notice(f"detached; the shell goes on. Come back with: {_command(params)}")
    elif answer["state"] == "closed":
        output.notice("the shell was closed")
    elif answer["exit_code"] in _KILLED:
        sys.stdout.write("\n")
        output.notice(f"the shell has ended with code {answer['exit_code']}, as when its workspace is stopped")
    return 0 if answer["detached"] else int(answer["exit_code"] or 0)
