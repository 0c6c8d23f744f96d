"""Service watch: the node's subscription to the service events of one machine.

The agent sends every change as it happens, so rows are right and ports are closed without a request. On
adoption the first report is everything there is: what the agent does not know any more is over.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.services.ports import PublishedPorts
from pyro_mcp.engine.services.record import applied, run_of, tails_of, version_of
from pyro_mcp.errors import DiskFull, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.protocol.channel import ChannelClosed, Event, RemoteError, Stream
from pyro_mcp.store.machines import Machines
from pyro_mcp.store.services import ServiceRow
from pyro_mcp.store.services import ServiceTable as Table
from pyro_mcp.system.clock import Clock
from pyro_mcp.system.threads import begin

_log = logging.getLogger(__name__)

SYNC_SECONDS, AGAIN_SECONDS = 5.0, 5.0
LOST = "it was gone when the node came back"
GONE = "it was stopped"
DIED = "its machine ended unexpectedly"
STOPPED = "the workspace was stopped"


class ServiceWatch:
    """The services of one machine, in one life of it. Begun with the runs that are alive as far as the rows say."""

    def __init__(
        self,
        table: Table,
        machines: Machines,
        secrets: SecretManager,
        clock: Clock,
        faults: Faults,
        workspace_id: str,
        machine: Machine,
        runs: set[str],
    ) -> None:
        self.machine = machine
        self.ports = PublishedPorts(machine)
        self._machines = machines
        self._secrets = secrets
        self._clock = clock
        self._faults = faults
        self._workspace_id = workspace_id
        self._table = table
        self._lock = threading.Lock()
        self._versions: dict[str, int] = {}
        self._tails: dict[str, tuple[str, str]] = {}
        self._left = runs
        self._synced = threading.Event()
        self._leaving = False
        self._stream: Stream | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Start to listen. Raises `Capacity`."""
        self._thread = begin(self._listen, f"services-{self._workspace_id}")
        self.machine.on_exit(self.machine_ended)

    def wait(self) -> None:
        """Wait for the agent's first list of its services, if it is still to come; a moment at most."""
        self._synced.wait(SYNC_SECONDS)

    def detach(self) -> None:
        """The node goes; the services stay. Their ports close."""
        self._leaving = True
        self.ports.close()
        if self._stream is not None:
            self._stream.cancel()

    # -- events

    def take(self, answer: Mapping[str, Any]) -> ServiceRow | None:
        """Record what the agent says of a run, unless something later is known; the row as it is then.

        Raises `MachineFailed` when the agent breaks the rules.
        """
        run = run_of(answer)
        row = None if run is None else self._table.get(run)
        if row is None or run is None or row.workspace_id != self._workspace_id:
            return None
        masks = self._secrets.masks(self._workspace_id)
        changed = applied(row, answer, self._clock.wall(), masks)
        tails = tails_of(answer, masks)
        if not changed.alive:
            # Before it is recorded, so that whoever reads of the end finds the ports free.
            self.ports.end(run)
        if not row.alive:
            if changed.alive:
                self._end(run)
            return row
        with self._lock:
            version = version_of(answer)
            if version < self._versions.get(run, 0):
                return row
            if version == self._versions.get(run):
                self._tails[run] = tails
                return row
            if not changed.alive:
                changed = replace(changed, stdout=tails[0], stderr=tails[1])
                if self._stopping():
                    # Whatever the agent calls it: it ended because its machine was asked to stop.
                    changed = replace(changed, state="stopped", stop_reason=STOPPED)
            recorded = self._table.update(changed, only_alive=True)
            # Only now: an event that could not be recorded is sent again.
            self._versions.pop(run, None)
            self._tails.pop(run, None)
            if changed.alive:
                self._versions[run], self._tails[run] = version, tails
        if not changed.alive:
            self._faults("service over")
        elif not recorded:
            self._end(run)
        return changed

    def tails(self, run: str) -> tuple[str, str]:
        """The last record of the run."""
        with self._lock:
            return self._tails.get(run, ("", ""))

    def done(self, run: str, reason: str) -> None:
        """End the run's record, if the agent has not."""
        self.ports.end(run)
        row = self._table.get(run)
        if row is None or not row.alive:
            return
        out, err = self.tails(run)
        now = self._clock.wall()
        done = replace(row, state="stopped", stop_reason=reason, ended_at=now, pid=None, stdout=out, stderr=err)
        self._table.end(done)

    def machine_ended(self) -> None:
        """Nothing of it is left. Runs on the machine's watcher's thread, and again for whoever stopped the machine."""
        if self._leaving:
            return
        self.ports.close()
        # The agent's last event may arrive after its machine's end.
        if self._thread is not None:
            self._thread.join(SYNC_SECONDS)
        try:
            stopping = self._stopping()
            for row in self._table.alive():
                if row.machine_id == self.machine.machine_id and row.run in self._left | set(self._versions):
                    self.done(row.run, STOPPED if stopping else DIED)
        except PyroError as error:
            _log.warning(f"cannot record the end of the services of {self._workspace_id}: {error}")

    def _stopping(self) -> bool:
        """Whether somebody wants the machine to end."""
        machine = self._machines.get(self.machine.machine_id)
        return machine is None or machine.state in ("stopping", "stopped", "deleting")

    def _end(self, run: str) -> None:
        """It runs, but is over here: a stop was there before its start. Its end is reported like any other."""
        with contextlib.suppress(ChannelClosed, RemoteError):
            self.machine.channel.open("service_stop", {"run": run}).leave()

    # -- listening

    def expect(self, run: str) -> None:
        """A run that is about to be started."""
        with self._lock:
            self._versions.setdefault(run, 0)

    def _listen(self) -> None:
        """Until the machine ends or the node leaves. After a lack of room, here or there, all events are sent again."""
        try:
            while not self._leaving:
                try:
                    self._follow()
                    return
                except (DiskFull, RemoteError) as error:
                    _log.warning(f"cannot watch the services of {self._workspace_id} for now: {error}")
                self._synced.set()
                time.sleep(AGAIN_SECONDS)
        except ChannelClosed as error:
            if not self._leaving and not self._stopping() and self.machine.alive():
                _log.warning(f"cannot watch the services of {self._workspace_id}: {error}")
        except PyroError as error:
            _log.warning(f"cannot watch the services of {self._workspace_id}: {error}")
        finally:
            self._synced.set()

    def _follow(self) -> None:
        self._stream = stream = self.machine.channel.open("service_watch")
        try:
            for message in stream.messages():
                if isinstance(message, Event):
                    self._on_event(message.value)
        finally:
            stream.cancel()
            stream.leave()

    def _on_event(self, event: Mapping[str, Any]) -> None:
        if event.get("complete") is True:
            for run in self._left:
                self.done(run, LOST)
            self._left = set()
            self._synced.set()
            return
        row = self.take(event)
        if row is not None and row.run in self._left:
            self._left.discard(row.run)
            if row.alive and row.published_ports:
                again = self.ports.reopen(row.run, row.published_ports)
                if not self._table.update(replace(row, published_ports=again), only_alive=True):
                    self.ports.end(row.run)
