"""The workspace's exec verbs: run a command, wait for it or not, follow it, end it, list the history."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from pyro_mcp.engine.commands.capture import CAPTURE_BYTES
from pyro_mcp.engine.commands.checkpoint import Checkpoint, checkpoint_path
from pyro_mcp.engine.commands.hint import hint_of
from pyro_mcp.engine.commands.job import UNATTENDED, Job
from pyro_mcp.engine.commands.journal import Journal, Reading, offsets_left, read_digest, read_gone, read_page
from pyro_mcp.engine.commands.retention import Retention
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.fleet.networks import Networks
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.redact import Masks
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.session import Sessions
from pyro_mcp.errors import Cancelled, Capacity, Conflict, InvalidArgument, NotFound, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.command import display_text
from pyro_mcp.model.network import NetworkRefusal
from pyro_mcp.model.paths import absolute
from pyro_mcp.model.process import ExecutionMode, Isolation
from pyro_mcp.model.refusals import changed_meanwhile
from pyro_mcp.model.text import whole_characters
from pyro_mcp.model.workspace_exec import CommandEntry, CommandOutput, Until, WorkspaceExec, WorkspaceLogs
from pyro_mcp.operations.call import STDERR, STDOUT, Call
from pyro_mcp.store.commands import CommandRow, Tally
from pyro_mcp.store.commands import CommandTable as Table
from pyro_mcp.store.database import Database
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.atomic import disk_errors, make_directory
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.threads import begin

_log = logging.getLogger(__name__)
RUNNING_MAX = 64
JOIN_SECONDS = 10.0
END_SECONDS = 10.0
DONE_SECONDS = 30
LOGS_BYTES = 2 * 1024 * 1024
ENTRY_BYTES, ENTRY_MIN = 64 * 1024, 1024
FOLLOW_PIECE = 64 * 1024
START = "0:0"

Key = tuple[str, int, int]


class CommandManager:
    """The commands of all workspaces."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        sessions: Sessions,
        fleet: Fleet,
        secrets: SecretManager,
        networks: Networks,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._fleet = fleet
        self._secrets = secrets
        self._networks = networks
        self._clock = clock
        self._faults = faults
        self._table = Table(database)
        self._retention = Retention(self._table, self._journals, faults)
        self._jobs: dict[Key, Job] = {}
        self._lock = threading.Lock()

    # -- the verbs

    def exec(
        self,
        call: Call[Any],
        ref: str,
        *,
        command: str | list[str],
        timeout_seconds: int,
        wait_seconds: int | None,
        stdin: bytes | Iterable[bytes] | None,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        secret_env: Mapping[str, str] | Sequence[str] | None = None,
    ) -> WorkspaceExec:
        """Run `command`. Without `wait_seconds` it ends with the caller; with it, it goes on by itself."""
        if wait_seconds is not None and stdin is not None:
            raise InvalidArgument(
                "cannot run the command: its input ends with the caller, and it is to go on without",
                hint="Leave out <<exec_workspace.wait_seconds>>, or write the input to a file and give it by `< file`",
            )
        workspace = self._registry.find(ref)
        requested = self._secrets.requested(workspace.workspace_id, secret_env, env)
        cwd = absolute(cwd)
        machine = self._sessions.machine(call, workspace)
        self._secrets.deliver(workspace.workspace_id, machine, set(requested.values()))
        job = self._begin(workspace, machine, command, cwd, None if wait_seconds is None else timeout_seconds)
        run = partial(job.run, command, timeout_seconds=timeout_seconds, cwd=cwd, env=env or {}, secret_env=requested)
        if wait_seconds is None:
            self._supervise(call, job, partial(run, stdin=stdin, live=call.output))
        else:
            self._detach(job, run)
            self._watch(call, job, wait_seconds)
        # One that somebody ended, that was quicker, or that the next node goes on with, has an answer.
        unanswered = job.row.state in ("lost", "not_started", "ended") and not isinstance(job.error, Cancelled)
        if job.error is not None and job.done and unanswered:
            raise job.error
        output = self._hinted(workspace, self._followed(job.row, None, CAPTURE_BYTES, done=job.done))
        return WorkspaceExec(workspace_id=workspace.workspace_id, **dict(output.items()))

    def logs(
        self,
        call: Call[Any],
        ref: str,
        *,
        sequence: int | None,
        cursor: str | None,
        wait_seconds: int | None,
        end: bool,
        limit: int,
        until: Until = "output",
        max_bytes: int = CAPTURE_BYTES,
    ) -> WorkspaceLogs:
        """The history, or one command of it, from `cursor` on at most `max_bytes`."""
        workspace = self._registry.find(ref)
        if sequence is None:
            if cursor is not None or wait_seconds is not None or end or until == "done":
                raise InvalidArgument(
                    "cannot follow or end a command: no sequence given",
                    hint="Name one command with <<logs_workspace.sequence>>",
                )
            return self._history(workspace, limit)
        # In this order: a command without a job has its outcome in the row by then.
        job = self._jobs.get((workspace.workspace_id, workspace.generation, sequence))
        row = self._row(workspace, sequence)
        if job is not None and end:
            job.end()
            job.join(END_SECONDS)
        elif job is not None:
            seconds = (DONE_SECONDS if until == "done" else 0) if wait_seconds is None else wait_seconds
            # Without a cursor all that is kept is shown, and no page is ever full.
            enough = {"output": 1, "page": max_bytes if cursor else math.inf, "done": math.inf}[until]
            self._gather(call, job, cursor or START, seconds, enough)
        max_ = CAPTURE_BYTES if cursor is None else max_bytes
        entry = self._followed(job.row if job else row, cursor, max_, done=job is None or job.done)
        entry = self._hinted(workspace, entry)
        count = self._table.count(workspace.workspace_id, workspace.generation)
        return WorkspaceLogs(workspace_id=workspace.workspace_id, count=1, command_count=count, entries=[entry])

    # -- for the other verbs

    def count(self, workspace: WorkspaceRow) -> int:
        return self._table.count(workspace.workspace_id, workspace.generation)

    def last(self, workspace: WorkspaceRow) -> CommandEntry | None:
        """The command that was started last."""
        found = self._table.latest(workspace.workspace_id, workspace.generation, 1)
        return CommandEntry(**self._fields(found[0])) if found else None

    def recent(self, workspace: WorkspaceRow, limit: int) -> list[CommandEntry]:
        """The last `limit` commands, the latest first."""
        found = self._table.latest(workspace.workspace_id, workspace.generation, limit)
        return [CommandEntry(**self._fields(row)) for row in reversed(found)]

    def tally(self, workspace: WorkspaceRow) -> Tally:
        return self._table.tally(workspace.workspace_id, workspace.generation)

    def failures(self, workspace: WorkspaceRow, limit: int) -> list[tuple[CommandEntry, str, str]]:
        """The last `limit` commands that failed, the latest first, each with some of both streams."""
        reported = []
        for row in self._table.failures(workspace.workspace_id, workspace.generation, limit):
            row, reading = self._read(row, None, ENTRY_MIN, done=True)
            streams = reading.streams
            reported.append((CommandEntry(**self._fields(row)), streams[STDOUT].text, streams[STDERR].text))
        return reported

    def running(self, workspace_id: str) -> int:
        """How many commands are under way."""
        return sum(key[0] == workspace_id and job.row.state == "running" for key, job in list(self._jobs.items()))

    def join(self, workspace_id: str | None = None) -> None:
        """Wait until the commands of a workspace, or of all, have noticed that their machine is gone."""
        deadline = time.monotonic() + JOIN_SECONDS
        for key, job in list(self._jobs.items()):
            if workspace_id in (None, key[0]):
                job.join(max(0.0, deadline - time.monotonic()))

    def forget_history(self, workspace: WorkspaceRow) -> None:
        """Remove the output of commands from before the last reset."""
        for old in (self._registry.directory(workspace.workspace_id) / "journal").glob("*"):
            if old.name != str(workspace.generation):
                shutil.rmtree(old, ignore_errors=True)

    def detach(self) -> None:
        """This node is about to leave its machines: what goes on by itself goes on."""
        for job in list(self._jobs.values()):
            job.detach()

    def recover(self) -> None:
        """A node has come: it watches again what goes on of its predecessor's commands; the rest is lost."""
        for row in self._table.running():
            self._take_up(row)
        for workspace in self._registry.rows():
            history = workspace.workspace_id, workspace.generation
            self._retention.sweep(*history, {key[2] for key in self._jobs if key[:2] == history})

    # -- running

    def _begin(
        self, workspace: WorkspaceRow, machine: Machine, command: str | list[str], cwd: str, alone_seconds: int | None
    ) -> Job:
        """Record the command; with `alone_seconds` as one that goes on by itself for at most so long."""
        masks = self._secrets.masks(workspace.workspace_id)
        reported = masks.text(command) if isinstance(command, str) else [masks.text(word) for word in command]
        with self._lock:
            if self.running(workspace.workspace_id) >= RUNNING_MAX:
                raise Capacity(
                    f"cannot run another command in {workspace.workspace_id}: {RUNNING_MAX} are running",
                    hint="Wait for some, or end some with <<logs_workspace>> and <<logs_workspace.end>>",
                )
            row = self._table.begin(
                workspace_id=workspace.workspace_id,
                generation=workspace.generation,
                command=masks.text(display_text(reported)),
                cwd=masks.text(whole_characters(cwd)),
                execution_mode=machine.capabilities.execution_mode,
                isolation=machine.capabilities.isolation,
                started_at=self._clock.wall(),
            )
            if row is None:
                raise changed_meanwhile("run the command", workspace.workspace_id)
            checkpoint = None if alone_seconds is None else self._checkpoint(row, alone_seconds)
            journal = Journal(*self._location(row), None if checkpoint is None else checkpoint.offsets)
            job = self._job(row, machine, journal, masks, checkpoint)
            self._jobs[_key(row)] = job
        self._faults("command recorded")
        return job

    def _job(
        self, row: CommandRow, machine: Machine, journal: Journal, masks: Masks, checkpoint: Checkpoint | None
    ) -> Job:
        refused = self._networks.watch(machine.machine_id)
        return Job(self._table, self._clock, self._faults, row, machine, journal, masks, refused, checkpoint)

    def _checkpoint(self, row: CommandRow, seconds: int) -> Checkpoint | None:
        """A checkpoint for a command that is about to start. Without room for one it ends with this node."""
        try:
            make_directory(self._location(row)[0])
            return Checkpoint.create(checkpoint_path(*self._location(row)), self._clock.boot_ns(), seconds)
        except OSError as error:
            _log.warning(f"cannot write a checkpoint for command {row.sequence} of {row.workspace_id}: {error}")
            return None

    def _supervise(self, call: Call[Any], job: Job, run: Callable[[], None]) -> None:
        """Run it here; the caller's going away ends it. Raises `Cancelled` then."""
        forget = call.on_cancel(job.end)
        try:
            run()
        finally:
            forget()
            self._done(job)
        call.check()

    def _detach(self, job: Job, run: Callable[[], None]) -> None:
        """Run it on a thread of its own."""

        def work() -> None:
            try:
                run()
            finally:
                self._done(job)

        try:
            begin(work, f"exec-{job.row.sequence}")
        except Capacity as error:
            job.refuse(error)
            self._done(job)

    def _done(self, job: Job) -> None:
        self._jobs.pop(_key(job.row), None)
        self._retention.trim(job.row)

    # -- what an earlier node had running

    def _take_up(self, row: CommandRow) -> None:
        """Watch it again, or record that it is lost."""
        checkpoint = None
        try:
            with disk_errors(f"read the checkpoint of command {row.sequence}"):
                checkpoint = Checkpoint.load(checkpoint_path(*self._location(row)))
            if checkpoint is None:
                raise Conflict(f"{UNATTENDED}, and it was ended")
            machine = self._fleet.live(self._registry.find(row.workspace_id).machine_id)
            masks = self._secrets.masks(row.workspace_id)
        except PyroError as error:
            self._lose(row, checkpoint, error.message)
            return
        job = self._job(row, machine, Journal(*self._location(row), checkpoint.offsets), masks, checkpoint)
        self._jobs[_key(row)] = job
        self._detach(job, job.resume)

    def _lose(self, row: CommandRow, checkpoint: Checkpoint | None, reason: str) -> None:
        """Record that nobody knows how it ended. Its output up to the checkpoint stays readable."""
        journal = Journal(
            *self._location(row), checkpoint.offsets if checkpoint else offsets_left(*self._location(row))
        )
        dropped, kept = journal.finish(), journal.kept
        if checkpoint is not None:
            checkpoint.close()
        self._table.lose(
            replace(
                row,
                reason=reason[:500],
                stdout_dropped=dropped[STDOUT],
                stderr_dropped=dropped[STDERR],
                stdout_kept=kept[STDOUT],
                stderr_kept=kept[STDERR],
            )
        )

    def _watch(self, call: Call[Any], job: Job, seconds: float) -> None:
        """Pass on what the journal gets for so long. The caller's going away changes nothing for the command."""
        deadline, cursor = time.monotonic() + seconds, START
        forget = call.on_cancel(job.journal.wake)
        try:
            while not call.cancelled:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not job.journal.wait(cursor, remaining, lambda: call.cancelled):
                    break
                done = job.done
                page = read_page(*self._location(job.row), cursor, FOLLOW_PIECE, done=done)
                for tag, stream in page.streams.items():
                    if stream.text:
                        call.output(tag, stream.text.encode())
                if done and page.empty:
                    break
                if page.next_cursor == cursor:
                    # The pipes are closed and the outcome is about to be written.
                    job.join(max(0.0, min(remaining, 0.05)))
                cursor = page.next_cursor
        finally:
            forget()

    def _gather(self, call: Call[Any], job: Job, cursor: str, seconds: float, enough: float) -> None:
        """Wait until the journal has `enough` past the cursor, or the command's end is recorded."""
        deadline = time.monotonic() + seconds
        forget = call.on_cancel(job.journal.wake)
        try:
            job.journal.wait(cursor, seconds, lambda: call.cancelled, enough=enough)
        finally:
            forget()
        if job.journal.finished:
            job.join(max(0.0, deadline - time.monotonic()))

    # -- telling

    def _row(self, workspace: WorkspaceRow, sequence: int) -> CommandRow:
        row = self._table.get(workspace.workspace_id, workspace.generation, sequence)
        if row is None:
            history = workspace.workspace_id, workspace.generation
            first, last = self._table.first(*history), self._table.count(*history)
            there = f"It has the commands {first} to {last}" if last else "Nothing was run in it since the last reset"
            cause = "it is so old that it is no longer kept" if 0 < sequence < first else "no such sequence"
            raise NotFound(f"cannot find command {sequence} of {workspace.workspace_id}: {cause}", hint=there)
        return row

    def _history(self, workspace: WorkspaceRow, limit: int) -> WorkspaceLogs:
        rows = self._table.latest(workspace.workspace_id, workspace.generation, limit)
        each = max(ENTRY_MIN, min(ENTRY_BYTES, LOGS_BYTES // (2 * max(1, len(rows)))))
        entries = [self._output(*self._read(row, None, each, done=row.state != "running")) for row in rows]
        return WorkspaceLogs(
            workspace_id=workspace.workspace_id,
            count=len(entries),
            command_count=self._table.count(workspace.workspace_id, workspace.generation),
            entries=entries,
        )

    def _followed(self, row: CommandRow, cursor: str | None, limit: int, *, done: bool) -> CommandOutput:
        return self._output(*self._read(row, cursor, limit, done=done))

    def _read(self, row: CommandRow, cursor: str | None, limit: int, *, done: bool) -> tuple[CommandRow, Reading]:
        """Both ends of each stream, or what follows `cursor`; and `row`, or what it is since its output is gone."""
        if cursor is None:
            reading = read_digest(*self._location(row), limit, done=done)
        else:
            reading = read_page(*self._location(row), cursor, limit, done=done)
        # In this order: output dropped during the read is reported as gone.
        now = self._table.get(*_key(row)) if done else None
        if now is not None and now.output_gone:
            row = now
            reading = read_gone({STDOUT: row.stdout_dropped, STDERR: row.stderr_dropped}, cursor)
        return row, reading

    def _output(self, row: CommandRow, reading: Reading) -> CommandOutput:
        out, err = reading.streams[STDOUT], reading.streams[STDERR]
        dropped = (out.dropped_bytes + row.stdout_dropped, err.dropped_bytes + row.stderr_dropped)
        return CommandOutput(
            **self._fields(row),
            next_cursor=reading.next_cursor,
            more=reading.more,
            truncated=any(dropped),
            stdout_dropped_bytes=dropped[0],
            stderr_dropped_bytes=dropped[1],
            encoding_lossy=out.lossy or err.lossy,
            stdout=out.text,
            stderr=err.text,
            network_refusals=self._refusals(row),
        )

    def _hinted(self, workspace: WorkspaceRow, output: CommandOutput) -> CommandOutput:
        """With what may help, where it failed in a machine that can be told about."""
        if output.exit_code is None or output.execution_mode != "guest":
            return output
        with contextlib.suppress(NotFound):
            machine = self._sessions.machine_row(workspace)
            way_out = None if machine.network else "create one that has with <<create_workspace.network_policy=egress>>"
            said = output.exit_code, output.stdout, output.stderr
            return replace(output, hint=hint_of(*said, environment=machine.environment, way_out=way_out))
        return output

    def _refusals(self, row: CommandRow) -> list[NetworkRefusal]:
        job = self._jobs.get(_key(row))
        return [NetworkRefusal(**one) for one in row.network_refusals] if job is None else job.network_refusals

    def _fields(self, row: CommandRow) -> dict[str, Any]:
        job = self._jobs.get(_key(row))
        if row.duration_ms is None and job is not None:
            row = replace(row, duration_ms=(self._clock.boot_ns() - job.begun_ns) // 1_000_000)
        return {
            "sequence": row.sequence,
            "command": row.command,
            "cwd": row.cwd,
            "state": row.state,
            "exit_code": row.exit_code,
            "duration_ms": row.duration_ms or 0,
            "execution_mode": cast(ExecutionMode, row.execution_mode),
            "isolation": cast(Isolation, row.isolation),
            "recorded_at": datetime.fromtimestamp(row.started_at, UTC),
            "signal": row.signal,
            "timed_out": row.timed_out,
            "reason": row.reason,
        }

    def _location(self, row: CommandRow) -> tuple[Path, int]:
        return self._journals(row.workspace_id, row.generation), row.sequence

    def _journals(self, workspace_id: str, generation: int) -> Path:
        return self._registry.directory(workspace_id) / "journal" / str(generation)


def _key(row: CommandRow) -> Key:
    return row.workspace_id, row.generation, row.sequence
