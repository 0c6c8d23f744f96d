"""services: the named long-running processes of a workspace.

They belong to the agent and not to the connection that started them: a node that goes away leaves them running, and the
next one finds them with `service_watch`, which reports every change as it happens. Only a service that is still
starting ends with its request, because nobody has been told yet that it exists.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pyro_mcp.guest import params as read
from pyro_mcp.guest.dispatch import Verb
from pyro_mcp.guest.errors import AgentError, invalid
from pyro_mcp.guest.exec.command import command, require_directory
from pyro_mcp.guest.exec.secrets import AgentSecrets
from pyro_mcp.guest.services.poller import Poller
from pyro_mcp.guest.services.readiness import answers_already
from pyro_mcp.guest.services.service_group import Groups
from pyro_mcp.guest.services.service_log import segment_size
from pyro_mcp.guest.services.service_run import ServicePlan, ServiceRun
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.protocol.readiness import Readiness, parse

ALIVE_MAX, KEPT_MAX = 64, 64
TAIL_BYTES = 16 * 1024
GRACE_MAX = 60.0
LAST_GRACE_SECONDS = 3.0
"""How long services may take to end by themselves when the machine is switched off."""
LAST_WORDS_SECONDS = 2.0
"""How long their killing and the telling of it may each take then."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_RUN = re.compile(r"[a-z0-9]{1,32}")


class AgentServices:
    """The services of one agent. `directory` maps a path of the user to one of this agent, for the working directory
    and for files that show readiness."""

    def __init__(
        self,
        defaults: dict[bytes, bytes],
        secrets: AgentSecrets,
        groups: Groups,
        real_path: Callable[[str], bytes] = lambda path: path.encode("utf-8", "surrogateescape"),
    ) -> None:
        self._defaults = defaults
        self._secrets = secrets
        self._groups = groups
        self._real_path = real_path
        self._poller = Poller("services")
        self._lock = threading.Lock()
        self._runs: dict[str, ServiceRun] = {}
        self._unwatched = threading.Condition(self._lock)
        self._watchers: tuple[threading.Event, ...] = ()
        self._closing = self._closed = False
        self._segment = segment_size(ALIVE_MAX + KEPT_MAX)

    def verbs(self, ready: Callable[[str], None]) -> dict[str, Verb]:
        """The verbs; `ready(verb)` raises while there is no workspace."""
        table: dict[str, Callable[[Stream], dict[str, Any]]] = {
            "service_start": self.start,
            "service_stop": self.stop,
            "service_logs": self.logs,
            "service_watch": self.watch,
        }

        def guarded(verb: Callable[[Stream], dict[str, Any]]) -> Verb:
            def checked(stream: Stream) -> dict[str, Any]:
                ready(stream.verb)
                return verb(stream)

            return checked

        return {name: guarded(verb) for name, verb in table.items()}

    # -- the verbs

    def start(self, stream: Stream) -> dict[str, Any]:
        """name, run, argv, shell, cwd, env, secret_env, readiness, ready_timeout_seconds, ready_interval_ms, restart →
        its record, once it is ready, runs on, or has ended. Cancelled before that, it is ended."""
        plan = self._plan(stream.params)
        if plan.readiness is not None and answers_already(plan.readiness):
            port = plan.readiness.addresses[0][2]
            raise AgentError(
                "conflict",
                f"cannot start {plan.name}: something answers on port {port} already, so nothing would show that the"
                " service is ready",
                "Stop what listens there, or use another port.",
            )
        service = self._admit(plan)
        self._poller.post(service.begin)
        stream.on_cancel(
            lambda: self._poller.post(
                lambda: None if service.settled.is_set() else service.stop("stopped", "its start was cancelled", 0.5)
            )
        )
        service.settled.wait()
        stream.on_cancel(None)
        return self._answer(service, tails=True)

    def stop(self, stream: Stream) -> dict[str, Any]:
        """run, grace_seconds → its record, once everything it has started is gone. One that is over stays as it is."""
        grace = read.seconds(stream.params, "grace_seconds", max_=GRACE_MAX) or 5.0
        service = self._find(stream.params)
        self._poller.post(lambda: service.stop("stopped", "it was stopped", grace))
        service.done.wait()
        return self._answer(service, tails=True)

    def logs(self, stream: Stream) -> dict[str, Any]:
        """run, tail_lines (absent: all there is) → DATA 1, DATA 2; the record and whether there was more."""
        service = self._find(stream.params)
        requested = stream.params.get("tail_lines")
        lines = None if requested is None else read.integer(stream.params, "tail_lines", min_=1, max_=1_000_000)
        truncated = False
        for tag, log in service.log.items():
            data, cut = log.tail(lines)
            truncated = truncated or cut
            stream.send(data, tag)
        return {**self._answer(service, tails=False), "truncated": truncated}

    def watch(self, stream: Stream) -> dict[str, Any]:
        """→ an EVENT with the record and the last output of each service that there is, one with `complete`, and then
        one for every change, until cancelled or the machine is switched off."""
        news = threading.Event()
        seen: dict[str, int] = {}
        with self._lock:
            self._watchers += (news,)
        stream.on_cancel(news.set)
        complete = False
        try:
            while not stream.cancelled:
                news.clear()
                last = self._closed
                for service in self._changed_since(seen):
                    stream.event(self._answer(service, tails=True))
                if not complete:
                    stream.event({"complete": True})
                    complete = True
                if last:
                    break
                news.wait()
        finally:
            with self._lock:
                self._watchers = tuple(other for other in self._watchers if other is not news)
                self._unwatched.notify_all()
        return {}

    # -- the end of the machine

    def close(self) -> None:
        """End every service, for good, and send watchers its last events. Takes some seconds at most."""
        with self._lock:
            self._closing = True
            alive = [one for one in self._runs.values() if not one.done.is_set()]
        for one in alive:
            self._poller.post(partial(one.stop, "stopped", "its machine was stopped", LAST_GRACE_SECONDS))
        deadline = time.monotonic() + LAST_GRACE_SECONDS + LAST_WORDS_SECONDS
        for one in alive:
            one.done.wait(max(0.0, deadline - time.monotonic()))
        self._closed = True
        self._notify()
        with self._unwatched:
            self._unwatched.wait_for(lambda: not self._watchers, LAST_WORDS_SECONDS)

    # -- parts

    def _plan(self, params: dict[str, Any]) -> ServicePlan:
        name, run = params.get("name"), params.get("run")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise invalid(f"name must match {_NAME.pattern}")
        if not isinstance(run, str) or not _RUN.fullmatch(run):
            raise invalid(f"run must match {_RUN.pattern}")
        directory = self._real_path(os.fsdecode(read.directory(params, "cwd", b"/workspace")))
        require_directory(f"start {name}", directory)
        variables = {**self._defaults, **read.variables(params, "env"), **self._secrets.environment(params)}
        return ServicePlan(
            name=name,
            run=run,
            argv=command(params),
            directory=directory,
            environment=variables,
            readiness=_readiness(params.get("readiness")),
            ready_seconds=read.seconds(params, "ready_timeout_seconds", max_=86400) or 30.0,
            interval_seconds=read.integer(params, "ready_interval_ms", min_=10, max_=60_000) / 1000
            if "ready_interval_ms" in params
            else 0.5,
            restart=read.flag(params, "restart"),
            real_path=self._real_path,
        )

    def _admit(self, plan: ServicePlan) -> ServiceRun:
        with self._lock:
            if self._closing:
                raise AgentError("conflict", f"cannot start {plan.name}: the machine is being stopped")
            alive = [one for one in self._runs.values() if not one.done.is_set()]
            if any(one.plan.name == plan.name for one in alive):
                raise AgentError("conflict", f"cannot start {plan.name}: it runs already", "Stop it first.")
            if len(alive) >= ALIVE_MAX:
                raise AgentError(
                    "capacity", f"cannot start {plan.name}: {ALIVE_MAX} services are running", "Stop some first."
                )
            if plan.run in self._runs:
                raise AgentError("conflict", f"cannot start {plan.name}: run {plan.run} exists")
            ended = [run for run, one in self._runs.items() if one.done.is_set()]
            for run in ended[: len(ended) - KEPT_MAX + 1]:
                del self._runs[run]
            service = ServiceRun(plan, self._poller, self._groups, self._segment, self._notify)
            self._runs[plan.run] = service
            return service

    def _find(self, params: dict[str, Any]) -> ServiceRun:
        run = params.get("run")
        with self._lock:
            service = self._runs.get(run) if isinstance(run, str) else None
        if service is None:
            raise AgentError("not_found", "cannot find that run of a service: this machine does not know it")
        return service

    def _changed_since(self, seen: dict[str, int]) -> list[ServiceRun]:
        with self._lock:
            found = [one for run, one in self._runs.items() if seen.get(run) != one.version]
            for run in set(seen) - set(self._runs):
                del seen[run]
        for one in found:
            seen[one.plan.run] = one.version
        return found

    def _notify(self) -> None:
        # Called under no lock by the poller, and by a run's constructor under ours: so no lock is taken here.
        for watcher in self._watchers:
            watcher.set()

    @staticmethod
    def _answer(service: ServiceRun, *, tails: bool) -> dict[str, Any]:
        record, now = dict(service.record), time.monotonic()
        for moment in ("ready", "ended"):
            at = record.pop(f"{moment}_at")
            record[f"{moment}_ago_ms"] = None if at is None else round((now - at) * 1000)
        answer: dict[str, Any] = {"service": record}
        if tails:
            for name, tag in (("stdout", 1), ("stderr", 2)):
                data, cut = service.log[tag].tail(None, TAIL_BYTES)
                answer[name] = data.decode("utf-8", "replace")
                answer["truncated"] = answer.get("truncated", False) or cut
        return answer


def _readiness(value: Any) -> Readiness | None:
    if value is None:
        return None
    try:
        return parse(value)
    except ValueError as error:
        raise invalid(str(error)) from None
