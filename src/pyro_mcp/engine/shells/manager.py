"""The shell verbs: open a shell, type into it, read its output, attach to it, close it.

Shells live in the workspace's machine only: its agent keeps them and their output, so they outlive the node and end
with the machine. The manager checks, masks and counts what the agent reports.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from msgspec import Meta

from pyro_mcp.engine.agent import checked
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.session import Session, Sessions
from pyro_mcp.engine.shells.output import LiveMask, Page, page, reach
from pyro_mcp.engine.shells.screen import render
from pyro_mcp.errors import Cancelled, InvalidArgument, NotFound, ProtocolError
from pyro_mcp.model.paths import absolute
from pyro_mcp.model.shell import (
    SIDE_MAX,
    SIGNALS,
    Shell,
    ShellAttached,
    ShellClosed,
    ShellList,
    ShellRead,
    ShellSignalled,
    ShellState,
    ShellWritten,
)
from pyro_mcp.operations.call import STDOUT, Call
from pyro_mcp.protocol.channel import Data, Stream, StreamResult

WAIT_SECONDS = 30
PLAIN_BYTES = 128 * 1024
"""A page to be shown plain is at most so long: to render it costs up to a second."""
CONTEXT_BYTES = 32 * 1024
"""What stood on the screen before a plain page is taken from so much output."""
REPLAY_BYTES = 16 * 1024
"""How much of what was said before a person gets to see when attaching."""
PAGE_MIN = 4
QUIET_SECONDS = 0.1
SHELLS_ENDED = "Start the workspace again; /workspace is kept, its shells are not"
MIB = 1024 * 1024

Offset = Annotated[int, Meta(ge=0, le=1 << 62)]
Moment = Annotated[int, Meta(ge=0, le=253_402_300_799_000)]
Side = Annotated[int, Meta(ge=1, le=SIDE_MAX)]


@dataclass(frozen=True)
class ShellFields:
    """What the agent says of a shell."""

    shell_id: Annotated[str, Meta(max_length=64)]
    cwd: Annotated[str, Meta(max_length=4096)]
    cols: Side
    rows: Side
    state: ShellState
    started_ms: Moment
    ended_ms: Moment | None
    exit_code: Annotated[int, Meta(ge=0, le=255)] | None
    oldest: Offset
    end: Offset


@dataclass(frozen=True)
class _Read(ShellFields):
    cursor: Offset
    start: Offset


@dataclass(frozen=True)
class _Attached(ShellFields):
    missed: Offset
    detached: bool


@dataclass(frozen=True)
class _Closed(ShellFields):
    already: bool


@dataclass(frozen=True)
class _Listing:
    shells: Annotated[list[ShellFields], Meta(max_length=1024)]


class ShellManager:
    """The shells of all workspaces."""

    def __init__(self, registry: Registry, sessions: Sessions, secrets: SecretManager) -> None:
        self._registry = registry
        self._sessions = sessions
        self._secrets = secrets

    def open(
        self,
        call: Call[Any],
        ref: str,
        *,
        cwd: str,
        cols: int,
        rows: int,
        env: Mapping[str, str] | None,
        secret_env: Mapping[str, str] | Sequence[str] | None,
    ) -> Shell:
        session = self._used(call, ref)
        requested = self._secrets.requested(session.workspace_id, secret_env, env)
        self._secrets.deliver(session.workspace_id, session.machine, set(requested.values()))
        shell_id = f"sh-{secrets.token_hex(6)}"
        params = {"shell_id": shell_id, "cwd": absolute(cwd), "cols": cols, "rows": rows}
        params |= {"env": dict(env or {}), "secret_env": requested}
        try:
            fields = session.agent.request(call, "shell_open", params, ShellFields)
        except Cancelled:
            # The answer may have crossed it, and then nobody knows the shell.
            with contextlib.suppress(NotFound):
                self._end(session, shell_id)
            raise
        session.note("shell_opened", {"shell_id": fields.shell_id})
        return Shell(**_fields(session, fields))

    def listing(self, call: Call[Any], ref: str) -> ShellList:
        """None for a workspace that does not run: they have ended with its machine."""
        row = self._registry.find(ref)
        found = []
        if self._sessions.machine_row(row).state == "running":
            session = self._sessions.open(call, row.workspace_id)
            reported = session.agent.request(call, "shell_list", {}, _Listing)
            found = [Shell(**_fields(session, fields)) for fields in reported.shells]
        return ShellList(workspace_id=row.workspace_id, count=len(found), shells=found)

    def read(
        self,
        call: Call[Any],
        ref: str,
        shell_id: str,
        *,
        cursor: int,
        max_chars: int,
        plain: bool,
        wait_for_idle_ms: int | None,
        wait_seconds: int | None,
    ) -> ShellRead:
        """What the shell said from `cursor` on; plain, as a person sees it who has seen all before."""
        session = self._sessions.open(call, ref)
        waiting = {} if wait_for_idle_ms is None else {"idle_ms": wait_for_idle_ms}
        seconds = (0 if wait_for_idle_ms is None else WAIT_SECONDS) if wait_seconds is None else wait_seconds
        max_ = max(PAGE_MIN, min(max_chars, PLAIN_BYTES) if plain else max_chars)
        fields, found = self._page(
            call, session, shell_id, cursor, max_, CONTEXT_BYTES if plain else 0, {"wait_ms": seconds * 1000, **waiting}
        )
        text, lossy = _decoded(found.new)
        if plain:
            seen = _from_a_line(found.before, max(fields.start, cursor - CONTEXT_BYTES))
            text = render(_decoded(seen)[0], text, fields.cols, fields.rows)
        missed = max(0, fields.oldest - cursor)
        more = cursor + missed + max_ < fields.end
        return ShellRead(
            **_fields(session, fields),
            cursor=cursor,
            next_cursor=found.end,
            plain=plain,
            wait_for_idle_ms=wait_for_idle_ms,
            truncated=bool(missed or more),
            missed_bytes=missed,
            more=more,
            encoding_lossy=lossy,
            output=text,
        )

    def write(self, call: Call[Any], ref: str, shell_id: str, *, text: str, append_newline: bool) -> ShellWritten:
        """Type `text`; the newline is what the Return key sends."""
        session = self._used(call, ref)
        typed = text + "\r" if append_newline else text
        if not typed:
            raise InvalidArgument(f"cannot write to the shell {shell_id}: there is nothing to write")
        try:
            data = typed.encode("utf-8")
        except UnicodeEncodeError:
            raise InvalidArgument(f"cannot write to the shell {shell_id}: the input is not valid Unicode") from None
        fields = session.agent.request(call, "shell_write", {"shell_id": shell_id}, ShellFields, send=data)
        return ShellWritten(**_fields(session, fields), input_length=len(typed), append_newline=append_newline)

    def signal(self, call: Call[Any], ref: str, shell_id: str, *, signal_name: str) -> ShellSignalled:
        name = signal_name.upper().removeprefix("SIG")
        if name not in SIGNALS:
            raise InvalidArgument(
                f"cannot signal the shell {shell_id}: there is no signal {signal_name[:32]!r}",
                hint=f"Signals: {', '.join(SIGNALS)}",
            )
        session = self._used(call, ref)
        fields = session.agent.request(call, "shell_signal", {"shell_id": shell_id, "signal": name}, ShellFields)
        return ShellSignalled(**_fields(session, fields), signal_name=name)

    def resize(self, call: Call[Any], ref: str, shell_id: str, *, cols: int, rows: int) -> Shell:
        session = self._sessions.open(call, ref)
        params = {"shell_id": shell_id, "cols": cols, "rows": rows}
        return Shell(**_fields(session, session.agent.request(call, "shell_resize", params, ShellFields)))

    def close(self, call: Call[Any], ref: str, shell_id: str) -> ShellClosed:
        session = self._used(call, ref)
        fields = self._end(session, shell_id)
        return ShellClosed(**_fields(session, fields), closed=True, already_closed=fields.already)

    def attach(
        self,
        call: Call[Any],
        ref: str,
        shell_id: str,
        *,
        cursor: int | None,
        stdin: bytes | Iterable[bytes] | None,
    ) -> ShellAttached:
        """Pass keys in and output out until either side has enough. The earlier output comes first.

        After each piece the caller gets its position, to go on from there when a node has died.
        """
        session = self._used(call, ref)
        begin = -REPLAY_BYTES if cursor is None else cursor
        fields, found = self._page(call, session, shell_id, begin, MIB, 0, {})
        call.output(STDOUT, _from_a_line(found.new, fields.cursor) if cursor is None else found.new)
        call.position(found.end)
        mask = LiveMask(self._secrets.masks(session.workspace_id).needles)
        answer = _attach(call, session, {"shell_id": shell_id, "cursor": found.end}, mask, stdin)
        missed = answer.missed + max(0, fields.oldest - fields.cursor)
        return ShellAttached(**_fields(session, answer), detached=answer.detached, missed_bytes=missed)

    # -- parts

    def _end(self, session: Session, shell_id: str) -> _Closed:
        """Of no caller's: it is seen through, however many processes there are to end."""
        return session.agent.request(Call(None), "shell_close", {"shell_id": shell_id}, _Closed)

    def _used(self, call: Call[Any], ref: str) -> Session:
        """The workspace, which is being used now."""
        session = self._sessions.open(call, ref)
        self._registry.touch(session.workspace_id)
        return session

    def _page(
        self,
        call: Call[Any],
        session: Session,
        shell_id: str,
        cursor: int,
        max_: int,
        context: int,
        waiting: dict[str, int],
    ) -> tuple[_Read, Page]:
        """One page of raw output, masked. A negative cursor counts from the end."""
        masks: Masks = self._secrets.masks(session.workspace_id)
        ahead, taken = reach(masks.needles), bytearray()
        back = max(ahead, context)

        def on_data(data: bytes) -> None:
            taken.extend(data)
            if len(taken) > back + max_ + ahead:
                raise ProtocolError("cannot read the shell: its agent sends more than was asked for")

        params = {"shell_id": shell_id, "cursor": cursor, "max_bytes": max_ + ahead, "back": back}
        reported = session.agent.request(call, "shell_read", params | waiting, _Read, on_data=on_data)
        if not reported.start <= max(reported.cursor, reported.oldest) <= reported.start + len(taken) <= reported.end:
            raise ProtocolError("cannot read the shell: its agent's answer contradicts itself")
        return reported, page(
            masks.needles,
            bytes(taken),
            reported.start,
            max(reported.cursor, reported.oldest),
            max_,
            done=reported.state != "running" and reported.start + len(taken) == reported.end,
            lost=reported.start == reported.oldest > 0,
            context=context,
        )


def _attach(
    call: Call[Any],
    session: Session,
    params: dict[str, Any],
    mask: LiveMask,
    stdin: bytes | Iterable[bytes] | None,
) -> _Attached:
    """Serve a person until the agent answers."""
    with session.agent.exchange(call, "shell_attach", params, send=stdin, hint=lambda: SHELLS_ENDED) as exchange:
        answer = _follow(call, exchange.stream, mask, params["cursor"])
    return checked("shell_attach", answer, _Attached)


def _follow(call: Call[Any], stream: Stream, mask: LiveMask, start: int) -> dict[str, Any]:
    """Pass output, which is from `start` on, until the result."""
    while True:
        message, shown = None, b""
        try:
            message = stream.receive(QUIET_SECONDS if mask.holds else None)
        except TimeoutError:
            shown = mask.quiet()
        if isinstance(message, Data):
            shown = mask.feed(bytes(message.data))
        elif isinstance(message, StreamResult):
            shown = mask.finish()
        if shown:
            call.output(STDOUT, shown)
            call.position(start + mask.position)
        if isinstance(message, StreamResult):
            return message.value


def _fields(session: Session, fields: ShellFields) -> dict[str, Any]:
    """The fields that every answer about a shell has."""
    return {
        **session.stamp,
        "shell_id": fields.shell_id,
        "cwd": fields.cwd,
        "cols": fields.cols,
        "rows": fields.rows,
        "state": fields.state,
        "started_at": _time(fields.started_ms),
        "ended_at": None if fields.ended_ms is None else _time(fields.ended_ms),
        "exit_code": fields.exit_code,
    }


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _decoded(data: bytes) -> tuple[str, bool]:
    """`data` as text, and whether bytes had to be replaced."""
    try:
        return data.decode("utf-8"), False
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), True


def _from_a_line(data: bytes, start: int) -> bytes:
    """`data`, which is from `start` on, without the torn line it begins with, unless that is the shell's first."""
    return data[data.find(b"\n") + 1 :] if start > 0 else data
