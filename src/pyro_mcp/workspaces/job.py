"""Job: one command of a workspace under way, recorded before it starts and when it has ended.

It belongs to the node and not to the caller: whoever waits for it may go away, and anybody may look at it or end it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyro_mcp.errors import Cancelled, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.operations.call import STDERR, STDOUT, Call
from pyro_mcp.store.commands import CommandRow, Commands
from pyro_mcp.workspaces.exec import Output, attend_command
from pyro_mcp.workspaces.journal import Journal
from pyro_mcp.workspaces.redact import Masks, masked_output

if TYPE_CHECKING:
    from pyro_mcp.workspaces.engine import Engine

ENDED_EXIT = 137


class Job:
    """A command that `run` runs once. `error` is why it was lost, or why it could not be started."""

    def __init__(
        self,
        engine: Engine,
        row: CommandRow,
        machine: Machine,
        journal: Journal,
        masks: Masks,
        secret_env: dict[str, str],
    ) -> None:
        self.row = row
        self.journal = journal
        self.error: PyroError | None = None
        self.begun_ns = engine.clock.boot_ns()
        self._engine = engine
        self._machine = machine
        self._masks = masks
        self._secret_env = secret_env
        self._call: Call[Engine] = Call(engine, engine.settings)
        self._over = threading.Event()

    def end(self) -> None:
        """End the command with everything it has started. Idempotent; its row says `ended` unless it was quicker."""
        self._call.cancel()

    def join(self, seconds: float) -> bool:
        """Wait until the outcome is recorded; False when that takes longer."""
        return self._over.wait(seconds)

    @property
    def over(self) -> bool:
        return self._over.is_set()

    def run(
        self,
        command: str | list[str],
        *,
        timeout_seconds: float,
        stdin: bytes | Iterable[bytes] | None = None,
        live: Output | None = None,
    ) -> None:
        """Run `command`, tell `live` its output too, and record how it ended. Never raises for the command's fate."""

        def take(tag: int, data: bytes) -> None:
            self.journal.add(tag, data)
            if live is not None:
                live(tag, data)

        outcome: dict[str, Any]
        hear, hear_rest = masked_output(self._masks, take)
        try:
            done = attend_command(
                self._call,
                self._machine,
                command,
                hear,
                timeout_seconds=timeout_seconds,
                stdin=stdin,
                cwd=self.row.cwd,
                secret_env=self._secret_env,
            )
            outcome = {"state": "finished"} | {
                name: done[name] for name in ("exit_code", "signal", "timed_out", "duration_ms")
            }
        except Cancelled as error:
            self.error = error
            outcome = {"state": "ended", "exit_code": ENDED_EXIT, "signal": "SIGKILL", "reason": "it was ended"}
        except PyroError as error:
            self.error = self._masks.error(error)
            outcome = {"state": "lost", "reason": self.error.message[:500]}
        finally:
            # Also when a bug ends it, nobody must wait for ever.
            with contextlib.suppress(Cancelled):
                hear_rest()
            self.journal.close()
        self._engine.faults("command ran")
        self._record(outcome)

    def _record(self, outcome: dict[str, Any]) -> None:
        try:
            dropped = self.journal.finish()
            spent = {"duration_ms": (self._engine.clock.boot_ns() - self.begun_ns) // 1_000_000}
            drops = {"stdout_dropped": dropped[STDOUT], "stderr_dropped": dropped[STDERR]}
            self.row = replace(self.row, **{**spent, **drops, **outcome})
            Commands(self._engine.database).finish(self.row, self._engine.clock.wall())
            self._engine.faults("outcome recorded")
        except PyroError as error:
            self.error = error
        finally:
            self._over.set()
