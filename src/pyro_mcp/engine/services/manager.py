"""The service verbs: start a service and wait until it is ready, list services, read logs, stop a service.

A service belongs to its machine: callers and nodes come and go. The row is written before the machine is asked, and
from then on changed by the machine's events (`service_watch`), so a list needs no request.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from secrets import token_hex
from typing import Any

from pyro_mcp.engine.agent import AgentClient
from pyro_mcp.engine.faults import Faults
from pyro_mcp.engine.fleet.fleet import Fleet
from pyro_mcp.engine.registry import Registry
from pyro_mcp.engine.secrets.store import SecretManager
from pyro_mcp.engine.services.ports import check_policy, wanted_ports
from pyro_mcp.engine.services.view import service_facts, service_portrait
from pyro_mcp.engine.services.watcher import DIED, GONE, ServiceWatch
from pyro_mcp.engine.session import Sessions
from pyro_mcp.errors import Cancelled, Capacity, Conflict, InvalidArgument, MachineFailed, NotFound, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.command import display_text, words
from pyro_mcp.model.names import there_are
from pyro_mcp.model.paths import absolute
from pyro_mcp.model.refusals import changed_meanwhile
from pyro_mcp.model.service import (
    RestartPolicy,
    Service,
    ServiceList,
    ServiceLogs,
    StartedService,
)
from pyro_mcp.operations.call import STDERR, STDOUT, Call
from pyro_mcp.protocol.channel import Data, Event
from pyro_mcp.protocol.readiness import parse
from pyro_mcp.store.database import Database
from pyro_mcp.store.machines import Machines
from pyro_mcp.store.services import ServiceRow
from pyro_mcp.store.services import ServiceTable as Table
from pyro_mcp.store.workspaces import WorkspaceRow
from pyro_mcp.system.clock import Clock

ANSWER_SECONDS, PATIENCE_SECONDS = 60.0, 240.0
"""How much longer than the timeout an agent may take before it is asked whether it lives, and how long if it does."""
LOG_BYTES = 2 * 1024 * 1024


class ServiceManager:
    """The services of all workspaces. Every method may be called from any thread."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        sessions: Sessions,
        fleet: Fleet,
        secrets: SecretManager,
        clock: Clock,
        faults: Faults,
    ) -> None:
        self._registry = registry
        self._sessions = sessions
        self._fleet = fleet
        self._secrets = secrets
        self._clock = clock
        self._faults = faults
        self._machines = Machines(database)
        self._table = Table(database)
        # Each is held by its machine, for as long as that is there.
        self._watches: weakref.WeakValueDictionary[str, ServiceWatch] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    # -- the verbs

    def start(
        self,
        call: Call[Any],
        ref: str,
        name: str,
        *,
        command: str | list[str],
        cwd: str,
        readiness: Mapping[str, Any] | None,
        ready_timeout_seconds: int,
        ready_interval_ms: int,
        restart: RestartPolicy,
        secret_env: Mapping[str, str] | Sequence[str] | None,
        published_ports: Sequence[int | str] | None,
    ) -> StartedService:
        """Start a service and wait until it is ready, runs on, or has ended. One that nobody waits for is ended."""
        workspace = self._registry.find(ref)
        ports = wanted_ports(published_ports)
        check_policy(workspace, ports)
        _check_readiness(readiness)
        cwd = absolute(cwd)
        requested = self._secrets.requested(workspace.workspace_id, secret_env)
        machine = self._sessions.machine(call, workspace)
        self._secrets.deliver(workspace.workspace_id, machine, set(requested.values()))
        watch = self._watch(workspace.workspace_id, machine)
        row = self._begin(workspace, machine, name, command, cwd, readiness, restart)
        watch.expect(row.run)
        params = {
            "name": name,
            "run": row.run,
            "argv": words(command),
            "cwd": cwd,
            "secret_env": requested,
            "readiness": None if readiness is None else dict(readiness),
            "ready_timeout_seconds": ready_timeout_seconds,
            "ready_interval_ms": ready_interval_ms,
            "restart": restart == "on-failure",
        }
        with self._refusable(watch, row):
            if ports:
                row = replace(row, published_ports=watch.ports.open(row.run, ports))
                self._table.update(row)
            self._faults("service ports open")
            call.progress(f"waiting for {name} to be {'running' if readiness is None else 'ready'}", None)
            answer = self._request(call, machine, "service_start", params, ready_timeout_seconds + ANSWER_SECONDS)
        self._faults("service started")
        watch.take(answer)
        return self._started(call, row.run, watch, answer)

    def listing(self, ref: str) -> ServiceList:
        workspace = self._current(ref)
        found = [service_portrait(row) for row in self._table.latest(workspace.workspace_id, workspace.generation)]
        return ServiceList(workspace_id=workspace.workspace_id, count=len(found), services=found)

    def status(self, ref: str, name: str) -> Service:
        return service_portrait(self._row(self._current(ref), name))

    def logs(self, call: Call[Any], ref: str, name: str, *, tail_lines: int, everything: bool) -> ServiceLogs:
        """What it said, from the machine while that runs, else what was kept."""
        workspace = self._current(ref)
        row = self._row(workspace, name)
        lines = None if everything else tail_lines
        watch = self._live_watch(row)
        try:
            out, err, cut = _kept(row, lines) if watch is None else self._read_log(call, watch.machine, row, lines)
        except NotFound:
            out, err, cut = _kept(row, lines)
        return ServiceLogs(**service_facts(row), stdout=out, stderr=err, tail_lines=lines, truncated=cut)

    def stop(self, ref: str, name: str) -> Service:
        """End a service with everything it has started, whether or not the caller waits. One that is over stays as it
        is."""
        row = self._row(self._current(ref), name)
        if row.alive and (watch := self._live_watch(row)) is not None:
            self._stop(row.run, watch)
        return service_portrait(self._table.get(row.run) or row)

    # -- for the other verbs

    def latest(self, workspace: WorkspaceRow) -> list[Service]:
        """The last service of each name."""
        return [service_portrait(row) for row in self._table.latest(workspace.workspace_id, workspace.generation)]

    def ended(self, workspace: WorkspaceRow) -> list[Service]:
        """All that are over, the latest first."""
        return [service_portrait(row) for row in self._table.ended(workspace.workspace_id, workspace.generation)]

    def counts(self, workspace: WorkspaceRow) -> tuple[int, int]:
        """How many there are, and how many of them are alive."""
        rows = self._table.latest(workspace.workspace_id, workspace.generation)
        return len(rows), sum(row.alive for row in rows)

    # -- life

    def recover(self) -> None:
        """A node has come: find again what runs, and record the end of what does not."""
        alive = self._table.alive()
        for machine_id in {row.machine_id for row in alive}:
            rows = [row for row in alive if row.machine_id == machine_id]
            try:
                machine = self._fleet.live(machine_id)
            except PyroError:
                for row in rows:
                    self._end(row, "its machine ended while no node watched it")
            else:
                self._watch(rows[0].workspace_id, machine, {row.run for row in rows})

    def machine_ended(self, machine_id: str) -> None:
        """Whoever has stopped the machine wants it recorded before going on."""
        with self._lock:
            watch = self._watches.pop(machine_id, None)
        if watch is not None:
            watch.machine_ended()

    def detach(self) -> None:
        """The node goes: the ports close, the services stay."""
        with self._lock:
            watches, self._watches = list(self._watches.values()), weakref.WeakValueDictionary()
        for watch in watches:
            watch.detach()

    # -- parts

    def _stop(self, run: str, watch: ServiceWatch) -> None:
        """Of no caller's, who could only break off the waiting, and with it the machine's channel."""
        try:
            watch.take(self._request(Call(None), watch.machine, "service_stop", {"run": run}, ANSWER_SECONDS))
        except NotFound:
            watch.done(run, GONE)  # Or not there yet: once it is, `watch` ends it.

    def _begin(
        self,
        workspace: WorkspaceRow,
        machine: Machine,
        name: str,
        command: str | list[str],
        cwd: str,
        readiness: Mapping[str, Any] | None,
        restart: RestartPolicy,
    ) -> ServiceRow:
        masks = self._secrets.masks(workspace.workspace_id)
        row = ServiceRow(
            run=token_hex(8),
            workspace_id=workspace.workspace_id,
            generation=workspace.generation,
            machine_id=machine.machine_id,
            service_name=name,
            state="starting",
            command=masks.text(display_text(command)),
            cwd=cwd,
            readiness=None if readiness is None else {kind: _masked(masks, value) for kind, value in readiness.items()},
            restart=restart,
            execution_mode=machine.capabilities.execution_mode,
            isolation=machine.capabilities.isolation,
            started_at=self._clock.wall(),
        )
        begun = self._table.begin(row)
        if begun is False:
            raise changed_meanwhile(f"start {name}", workspace.workspace_id)
        if isinstance(begun, ServiceRow):
            raise Conflict(
                f"cannot start {name}: a service of that name is {begun.state} already",
                hint="Stop it with <<stop_service>> first, or choose another name",
            )
        self._faults("service recorded")
        return row

    @contextlib.contextmanager
    def _refusable(self, watch: ServiceWatch, row: ServiceRow) -> Iterator[None]:
        """While inside, an error means that there is no service: its row and its ports go."""
        try:
            yield
        except PyroError as error:
            watch.ports.end(row.run)
            if isinstance(error, MachineFailed):
                watch.done(row.run, DIED)
            elif isinstance(error, Cancelled):
                watch.done(row.run, "its start was cancelled")
            else:
                self._table.forget(row.run)
            raise

    def _request(
        self, call: Call[Any], machine: Machine, verb: str, params: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """One answer about a service. Raises `Cancelled`, `MachineFailed`, and what the agent refuses."""
        answer = AgentClient(machine).request(
            call, verb, dict(params), dict[str, Any], seconds=seconds, patience=seconds + PATIENCE_SECONDS
        )
        if not isinstance(answer.get("service"), dict):
            raise MachineFailed(f"cannot read the answer of {machine.machine_id}: its agent broke the protocol")
        return answer

    def _read_log(self, call: Call[Any], machine: Machine, row: ServiceRow, lines: int | None) -> tuple[str, str, bool]:
        """Both streams as the machine has them, masked."""
        params = {"run": row.run} | ({} if lines is None else {"tail_lines": lines})
        streams = {STDOUT: bytearray(), STDERR: bytearray()}

        def take(message: Data | Event) -> None:
            if isinstance(message, Data) and message.tag in streams:
                streams[message.tag] += message.data
            if sum(map(len, streams.values())) > LOG_BYTES:
                raise MachineFailed("cannot read the log: the machine's agent sends too much")

        with AgentClient(machine).exchange(call, "service_logs", params) as exchange:
            answer = exchange.answer(take, ANSWER_SECONDS, PATIENCE_SECONDS)
        masks = self._secrets.masks(row.workspace_id)
        out, err = (masks.data(bytes(streams[tag])).decode("utf-8", "replace") for tag in (STDOUT, STDERR))
        return out, err, answer.get("truncated") is True

    def _started(self, call: Call[Any], run: str, watch: ServiceWatch, answer: Mapping[str, Any]) -> StartedService:
        if call.cancelled:  # The answer has crossed it.
            self._stop(run, watch)
            call.check()
        row = self._table.get(run)
        if row is None:
            raise NotFound("cannot tell what became of the service: its workspace was reset or deleted")
        out, err = (row.stdout, row.stderr) if not row.alive else watch.tails(run)
        return StartedService(**service_facts(row), stdout=out, stderr=err, truncated=answer.get("truncated") is True)

    def _watch(self, workspace_id: str, machine: Machine, runs: set[str] | None = None) -> ServiceWatch:
        with self._lock:
            watch = self._watches.get(machine.machine_id)
            fresh = watch is None or watch.machine is not machine
            if watch is None or fresh:
                watch = self._watches[machine.machine_id] = self._new_watch(workspace_id, machine, runs or set())
        if fresh:
            try:
                watch.begin()
            except Capacity:
                with self._lock:
                    self._watches.pop(machine.machine_id, None)
                raise
        return watch

    def _new_watch(self, workspace_id: str, machine: Machine, runs: set[str]) -> ServiceWatch:
        return ServiceWatch(
            self._table, self._machines, self._secrets, self._clock, self._faults, workspace_id, machine, runs
        )

    def _live_watch(self, row: ServiceRow) -> ServiceWatch | None:
        """The watch on the machine in which `row` is or was, if that still runs."""
        with self._lock:
            watch = self._watches.get(row.machine_id)
        try:
            return watch if watch and self._fleet.live(row.machine_id) is watch.machine else None
        except PyroError:
            return None

    def _current(self, ref: str) -> WorkspaceRow:
        """The workspace, once the events that its machine has kept since an adoption are recorded."""
        workspace = self._registry.find(ref)
        with self._lock:
            watch = self._watches.get(workspace.machine_id)
        if watch is not None:
            watch.wait()
        return workspace

    def _row(self, workspace: WorkspaceRow, name: str) -> ServiceRow:
        rows = self._table.latest(workspace.workspace_id, workspace.generation)
        found = next((row for row in rows if row.service_name == name), None)
        if found is None:
            known = [row.service_name for row in rows]
            raise NotFound(
                f"cannot find the service {name!r} of {workspace.workspace_id}: it does not exist",
                hint=there_are(known, "There are none; start one first"),
            )
        return found

    def _end(self, row: ServiceRow, reason: str) -> None:
        now = self._clock.wall()
        self._table.end(replace(row, state="stopped", stop_reason=reason, ended_at=now, pid=None))


def _check_readiness(readiness: Mapping[str, Any] | None) -> None:
    if readiness is not None:
        try:
            parse(dict(readiness))
        except ValueError as error:
            raise InvalidArgument(
                f"cannot start the service: {error}", hint='Give for example {"tcp": "127.0.0.1:8000"}'
            ) from None


def _masked(masks: Any, requested: Any) -> Any:
    return [masks.text(one) for one in requested] if isinstance(requested, list) else masks.text(requested)


def _kept(row: ServiceRow, lines: int | None) -> tuple[str, str, bool]:
    """The end of both streams as it was kept when the service ended. More may have been said."""
    last = slice(-lines if lines else None, None)
    out, err = ("".join(text.splitlines(keepends=True)[last]) for text in (row.stdout, row.stderr))
    return out, err, True
