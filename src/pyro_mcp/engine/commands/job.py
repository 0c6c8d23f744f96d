"""Job: one running command of a workspace, recorded before it starts and after it ends.

It belongs to the node and not to the caller: whoever waits for it may go away, and anybody may look at it or end it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pyro_mcp.engine.commands.checkpoint import Checkpoint
from pyro_mcp.engine.commands.journal import Journal
from pyro_mcp.engine.commands.run import Output, execute, forget_job, resume_command
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.secrets.redact import MaskedOutput, Masks
from pyro_mcp.errors import Cancelled, NotFound, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.network import NetworkRefusal
from pyro_mcp.network.record import Watch
from pyro_mcp.operations.call import STDERR, STDOUT, Call
from pyro_mcp.operations.encode import encode
from pyro_mcp.protocol.channel import Interrupted, RemoteError
from pyro_mcp.store.commands import CommandRow, CommandTable
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.clock import Clock

ENDED_EXIT = 137
UNATTENDED = "the node that watched it went away"


class Job:
    """A command that `run` runs once, or `resume` goes on with. `error` is why it has no outcome of its own.

    With a `checkpoint` it goes on by itself: it outlives this node, and the next one resumes it.
    """

    def __init__(
        self,
        table: CommandTable,
        clock: Clock,
        faults: Faults,
        row: CommandRow,
        machine: Machine,
        journal: Journal,
        masks: Masks,
        refused: Watch,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.row = row
        self.journal = journal
        self.error: PyroError | None = None
        self.begun_ns = clock.boot_ns() if checkpoint is None else checkpoint.begun_ns
        self._table = table
        self._clock = clock
        self._faults = faults
        self._machine = machine
        self._masks = masks
        self._checkpoint = checkpoint
        self._live: Output | None = None
        self._call: Call[None] = Call(None)
        self._refused = refused
        self._leaving = False
        self._done = threading.Event()

    @property
    def name(self) -> str:
        """What the machine calls it."""
        return f"{self.row.generation}.{self.row.sequence}"

    @property
    def network_refusals(self) -> list[NetworkRefusal]:
        """What the network policy has refused while it ran."""
        return self._refused.refusals()

    def end(self) -> None:
        """End the command with everything it has started. Idempotent; its row says `ended` unless it was quicker."""
        self._call.cancel()

    def detach(self) -> None:
        """The node is about to leave its machines: what can go on does, and stays recorded as running."""
        self._leaving = self._checkpoint is not None

    def join(self, seconds: float) -> bool:
        """Wait until the outcome is recorded; False when that takes longer."""
        return self._done.wait(seconds)

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def run(
        self,
        command: str | list[str],
        *,
        timeout_seconds: float,
        stdin: bytes | Iterable[bytes] | None = None,
        secret_env: dict[str, str] | None = None,
        live: Output | None = None,
    ) -> None:
        """Run `command`, pass its output to `live` too, and record how it ended. No outcome of it raises."""
        self._live = live
        self._finish(
            lambda on_data: execute(
                self._call,
                self._machine,
                command,
                on_data,
                timeout_seconds=timeout_seconds,
                stdin=stdin,
                cwd=self.row.cwd,
                secret_env=secret_env,
                job=self.name if self._checkpoint else None,
            )
        )

    def refuse(self, error: PyroError) -> None:
        """Record that it could not be run, or not be watched any more."""

        def refused(on_data: Output) -> dict[str, Any]:
            raise error

        self._finish(refused)

    def resume(self) -> None:
        """Go on from the checkpoint that another node has left, and record how the command ended, like `run`."""
        checkpoint = self._checkpoint
        assert checkpoint is not None
        self._finish(lambda on_data: self._resumed(checkpoint, on_data))

    def _resumed(self, checkpoint: Checkpoint, on_data: Output) -> dict[str, Any]:
        offsets = {tag: offset.offset for tag, offset in checkpoint.offsets.items()}
        left = max(0.0, checkpoint.timeout_seconds - self._spent_ms() / 1000)
        try:
            done = resume_command(
                self._call, self._machine, self.row.command, self.name, offsets, on_data, timeout_seconds=left
            )
        except NotFound:
            raise NotFound(f"{UNATTENDED}, and its machine knows nothing of it") from None
        ran = done["ran_ms"]
        return {**done, "duration_ms": self._spent_ms() if ran is None else min(ran, self._spent_ms())}

    def _finish(self, work: Callable[[Output], dict[str, Any]]) -> None:
        outcome: dict[str, Any]
        feed = _JournalFeed(self._masks, self._on_data, self._checkpoint, self._faults)
        try:
            done = work(feed.on_data)
            outcome = {"state": "finished"} | {
                name: done[name] for name in ("exit_code", "signal", "timed_out", "duration_ms")
            }
        except Cancelled as error:
            self.error = error
            outcome = {"state": "ended", "exit_code": ENDED_EXIT, "signal": "SIGKILL", "reason": "it was ended"}
        except PyroError as error:
            self.error = self._masks.error(error)
            if self._leaving:
                self._left()
                return
            outcome = _unfinished(error, self.error)
        finally:
            # Also when a bug ends it, nobody must wait for ever.
            if not self._done.is_set():
                with contextlib.suppress(Cancelled):
                    feed.finish()
            self.journal.close()
        self._faults("command ran")
        self._record(outcome)

    def _on_data(self, tag: int, data: bytes) -> None:
        self.journal.add(tag, data)
        if self._live is not None:
            self._live(tag, data)

    def _left(self) -> None:
        assert self._checkpoint is not None
        self.journal.leave()
        self._checkpoint.close()
        self._refused.close()
        self._done.set()

    def _record(self, outcome: dict[str, Any]) -> None:
        try:
            dropped = self.journal.finish()
            self._faults("journal finished")
            kept = self.journal.kept
            drops = {"stdout_dropped": dropped[STDOUT], "stderr_dropped": dropped[STDERR]}
            drops |= {"stdout_kept": kept[STDOUT], "stderr_kept": kept[STDERR]}
            refused = {"network_refusals": [encode(one) for one in self.network_refusals]}
            self.row = replace(self.row, **{"duration_ms": self._spent_ms(), **drops, **refused, **outcome})
            self._table.finish(self.row, self._clock.wall())
            self._faults("outcome recorded")
            with disk_errors(f"clear up after command {self.row.sequence}"):
                self.journal.settled()
                if self._checkpoint is not None:
                    self._checkpoint.remove()
            if self._checkpoint is not None:
                forget_job(self._machine, self.name)
        except PyroError as error:
            self.error = self.error or error
        finally:
            self._refused.close()
            self._done.set()

    def _spent_ms(self) -> int:
        return (self._clock.boot_ns() - self.begun_ns) // 1_000_000


def _unfinished(error: PyroError, shown: PyroError) -> dict[str, Any]:
    """What became of a command of which the machine has told no outcome. `shown` is `error` without secrets."""
    refusal = error.__cause__
    if isinstance(refusal, Interrupted):
        reason = f"{shown.code}: {shown.message[:400]}; it was ended"
        return {"state": "ended", "exit_code": ENDED_EXIT, "signal": "SIGKILL", "reason": reason}
    # An agent that fails may have started it; one that refuses has not.
    started = not isinstance(refusal, RemoteError) or error.code == PyroError.code
    return {"state": "lost" if started else "not_started", "reason": shown.message[:500]}


class _JournalFeed:
    """Masks a command's output on its way into the journal, and saves a checkpoint after each piece."""

    def __init__(self, masks: Masks, on_data: Output, checkpoint: Checkpoint | None, faults: Faults) -> None:
        offsets = {} if checkpoint is None else checkpoint.offsets
        covered = {tag: offset.covered for tag, offset in offsets.items()}
        self._output = MaskedOutput(masks, on_data, covered=covered)
        self._checkpoint = checkpoint
        self._faults = faults
        self._read = {tag: offset.offset for tag, offset in offsets.items()}

    def on_data(self, tag: int, data: bytes) -> None:
        stream = self._output.feed(tag, data)
        if self._checkpoint is not None:
            self._faults("output journalled")
            self._read[tag] += len(data)
            offset = self._checkpoint.offsets[tag]
            offset.offset, offset.covered = self._read[tag] - stream.held, stream.covered
            self._checkpoint.save()
            self._faults("output marked")

    def finish(self) -> None:
        self._output.finish()
