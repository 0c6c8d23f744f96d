"""Pool: machines started ahead of demand, for each kind used lately, so that the next request gets one at once.

They are nobody's, and hold only memory that nobody else asks for: admission counts them and ends them first. They are
made while nobody waits for a machine. The store knows nothing of them: they end with their node, and what one that was
killed has left below `state_dir/pool` the next one removes. Decision 14.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pyro_mcp.engine.faults import Faults
from pyro_mcp.errors import Capacity, PyroError
from pyro_mcp.machines.driver import Ahead, Driver, Machine, MachineSpec, Preparer
from pyro_mcp.settings import Settings
from pyro_mcp.store.machines import MachineRow
from pyro_mcp.system.atomic import disk_errors
from pyro_mcp.system.memory import available_mib
from pyro_mcp.system.threads import begin

log = logging.getLogger(__name__)

AMPLE_MIB = 4096
"""With less memory free than this, nothing is made ahead unless it was asked for."""
KINDS_MAX = 4
UNUSED_SECONDS = 600.0
REST_SECONDS = 0.25
"""How long no machine may come, go or change before one is made ahead: who has one now is about to use it."""

JOIN_SECONDS = 2.0
"""How long one that is being made is waited for: it has a start on any other, unless something is wrong with it."""


def size_of(settings: Settings) -> int:
    """How many machines of each kind are to wait."""
    if settings.pool_size is not None:
        return settings.pool_size
    return 1 if available_mib() >= AMPLE_MIB else 0


@dataclass
class Pooled:
    """A machine made ahead, from the moment that its memory counts."""

    kind: str
    environment: str
    spec: MachineSpec
    memory_mib: int
    """What it takes of the host, the machine's own process included."""
    ahead: Ahead | None = None
    up: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    """It is up, or nothing came of it."""
    claimed: bool = False
    """It is somebody's, or will be as soon as it is up."""

    def serves(self, row: MachineRow | None) -> bool:
        """Whether it may well become the machine `row`."""
        image = self.spec.environment
        return row is not None and (image and image.digest, self.spec.size) == (row.digest, row.size)


@dataclass
class _Use:
    """A kind that was used of late. `tried` says that there was no room for another of it."""

    kind: str
    environment: str
    preparer: Preparer
    spec: MachineSpec
    memory_mib: int
    at: float
    tried: bool = False


class Pool:
    """The machines ahead of one node. Every method may be called from any thread."""

    def __init__(
        self, settings: Settings, *, admitting: threading.Lock, free_mib: Callable[[], int], faults: Faults
    ) -> None:
        """`free_mib` says, under `admitting`, what memory the machines of users leave."""
        self.home = settings.state_dir / "pool"
        self._settings = settings
        self._admitting = admitting
        self._free_mib = free_mib
        self._faults = faults
        self._changed = threading.Condition()
        self._pooled: list[Pooled] = []
        self._uses: dict[str, _Use] = {}
        self._launches = 0
        self._quiet_at = 0.0
        self._thread: threading.Thread | None = None
        self._closed = False

    # -- looking

    def waiting(self) -> list[Pooled]:
        """Those that wait for somebody."""
        with self._changed:
            return [pooled for pooled in self._pooled if pooled.up and not pooled.claimed]

    # -- handing out

    def launch(self, driver: Driver, spec: MachineSpec, environment: str, otherwise: Callable[[], Machine]) -> Machine:
        """The machine of `spec`: one that waits, moved to its directory, or what `otherwise` makes."""
        preparer = driver.preparer
        if preparer is None or self._settings.pool_size == 0 or any(spec.directory.iterdir()):
            with self._first(None):
                return otherwise()
        with self._first(preparer.kind(spec)) as pooled:
            machine = None if pooled is None else self._hand_out(preparer, pooled, spec)
            machine = machine or otherwise()
        plain = replace(spec, seed=None, workspace=None, network=None)
        self._used(preparer, plain, spec.size.mem_mib + driver.capabilities.overhead_mib, environment)
        return machine

    @contextlib.contextmanager
    def _first(self, kind: str | None) -> Iterator[Pooled | None]:
        """Nothing is made ahead while somebody waits; one of `kind` that is under way is his, and another is ended."""
        with self._changed:
            self._launches += 1
            mine = next((pooled for pooled in self._pooled if pooled.kind == kind and not pooled.claimed), None)
            if mine is not None:
                mine.claimed = True
            others = [pooled for pooled in self._pooled if not pooled.up and not pooled.claimed]
        try:
            for pooled in others:
                self._discard(pooled)
            yield mine
        finally:
            with self._changed:
                self._launches -= 1
            self.disturb()

    def _hand_out(self, preparer: Preparer, pooled: Pooled, spec: MachineSpec) -> Machine | None:
        if not pooled.done.wait(JOIN_SECONDS):
            self._discard(pooled)
        with self._changed:
            if pooled not in self._pooled or pooled.ahead is None:
                return None
            self._pooled.remove(pooled)
        try:
            with disk_errors(f"hand out {pooled.spec.machine_id}"):
                os.rename(pooled.spec.directory, spec.directory)
                self._faults("pool moved")
                machine = preparer.hand_out(pooled.ahead, spec)
            self._faults("pool handed out")
            return machine
        except PyroError as error:
            log.warning(f"{spec.machine_id} is made anew: {error.message}")
            self._end(pooled)
            _erase(pooled.spec.directory)
            with disk_errors(f"make the machine {spec.machine_id}"):
                shutil.rmtree(spec.directory)
                spec.directory.mkdir(mode=0o700)
            return None

    # -- giving way

    def fit(self, free_mib: int, row: MachineRow | None = None) -> None:
        """End machines until the rest fit into what is free once `row` has its memory, which the one that may become
        it brings along. The caller holds `admitting`."""
        with self._changed:
            rest = [pooled for pooled in self._pooled if not pooled.claimed]
            rest.sort(key=lambda pooled: (pooled.serves(row), self._used_at(pooled)))
            victims = []
            while rest and _memory(rest, row) > free_mib:
                victims.append(rest.pop(0))
        for pooled in victims:
            self._discard(pooled)
            self._faults("pool evicted")

    def empty(self) -> None:
        """End all, and make none before one of its kind is used again."""
        with self._changed:
            self._uses.clear()
            all_pooled = [pooled for pooled in self._pooled if not pooled.claimed]
        for pooled in all_pooled:
            self._discard(pooled)

    def disturb(self) -> None:
        """Somebody's machine comes, goes or changes."""
        with self._changed:
            self._quiet_at = time.monotonic() + REST_SECONDS
            for use in self._uses.values():
                use.tried = False
            self._changed.notify_all()

    def close(self) -> None:
        """End all for good."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.empty()
        if self._thread is not None:
            self._thread.join()
        self.empty()
        shutil.rmtree(self.home, ignore_errors=True)

    # -- making them

    def _used(self, preparer: Preparer, spec: MachineSpec, memory_mib: int, environment: str) -> None:
        spec = replace(spec, directory=self.home / "none")
        kind = preparer.kind(spec)
        with self._changed:
            if kind is None or self._closed:
                return
            self._uses.pop(kind, None)
            self._uses[kind] = _Use(kind, environment, preparer, spec, memory_mib, time.monotonic())
            while len(self._uses) > KINDS_MAX:
                self._uses.pop(next(iter(self._uses)))
            if self._thread is None:
                try:
                    self._thread = begin(self._run, "pool")
                except Capacity as error:
                    log.warning(f"nothing is made ahead: {error.message}")
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (seconds := self._pause()) != 0:
                    self._changed.wait(seconds)
                if self._closed:
                    return
            try:
                with disk_errors("make a machine ahead"):
                    self._work()
            except PyroError as error:
                # Nothing is tried again before somebody asks for another machine.
                log.warning(error.message)
                with self._changed:
                    self._uses.clear()

    def _work(self) -> None:
        self._tidy()
        with self._changed:
            use = self._next()
        pooled = None if use is None else self._reserve(use)
        if use is not None and pooled is not None:
            self._fill(use.preparer, pooled)

    def _pause(self) -> float | None:
        """Seconds until there is something to do, None until something changes."""
        now = time.monotonic()
        due = [use.at + UNUSED_SECONDS for use in self._uses.values()]
        if self._next() is not None and not self._launches:
            due.append(self._quiet_at)
        return max(0.0, min(due) - now) if due else None

    def _next(self) -> _Use | None:
        """The kind that is short of machines, the one used last if there are several."""
        long_ago = time.monotonic() - UNUSED_SECONDS
        requested = [use for use in self._uses.values() if not use.tried and use.at > long_ago]
        max_ = 1 if self._settings.pool_size is None else self._settings.pool_size
        return next((use for use in reversed(requested) if self._count(use.kind) < max_), None)

    def _count(self, kind: str) -> int:
        return sum(pooled.kind == kind for pooled in self._pooled)

    def _tidy(self) -> None:
        """End what nobody has asked for in a while, and what is of a template that is gone."""
        long_ago = time.monotonic() - UNUSED_SECONDS
        with self._changed:
            self._uses = {kind: use for kind, use in self._uses.items() if use.at > long_ago}
            uses = list(self._uses.values())
        stale = [use.kind for use in uses if use.preparer.kind(use.spec) != use.kind]
        with self._changed:
            for kind in stale:
                self._uses.pop(kind, None)
            all_pooled = [pooled for pooled in self._pooled if pooled.kind not in self._uses and not pooled.claimed]
        for pooled in all_pooled:
            self._discard(pooled)

    def _fill(self, preparer: Preparer, pooled: Pooled) -> None:
        try:
            pooled.spec.directory.mkdir(mode=0o700, parents=True)
            self._faults("pool directory made")
            ahead = preparer.prepare(pooled.spec, pooled.kind)
            with self._changed:
                pooled.ahead, requested = ahead, pooled in self._pooled
            self._faults("pool spawned")
            if ahead is None or not requested:
                return
            ahead.warm(lambda: pooled.claimed)
            self._faults("pool warmed")
            pooled.up = True
            ahead.on_exit(lambda: self._discard(pooled))
        except (PyroError, OSError):
            # One that was ended meanwhile could not but fail.
            if pooled in self._pooled:
                raise
        finally:
            self._finish_fill(pooled)

    def _reserve(self, use: _Use) -> Pooled | None:
        """A place whose memory is counted from now on, if that leaves what users have been promised."""
        room, machine_id = size_of(self._settings), f"ahead-{secrets.token_hex(6)}"
        spec = replace(use.spec, machine_id=machine_id, directory=self.home / machine_id)
        with self._admitting, self._changed:
            rest = [pooled for pooled in self._pooled if not pooled.claimed]
            full = self._count(use.kind) >= room or _memory(rest) + use.memory_mib > self._free_mib()
            if full or self._launches or self._closed:
                use.tried = full
                self._changed.notify_all()
                return None
            pooled = Pooled(use.kind, use.environment, spec, use.memory_mib)
            self._pooled.append(pooled)
            return pooled

    def _finish_fill(self, pooled: Pooled) -> None:
        """The making of it is over. If it is not up, or was ended meanwhile, nothing of it stays."""
        with self._changed:
            if not pooled.up and pooled in self._pooled:
                self._pooled.remove(pooled)
            gone = pooled not in self._pooled
            self._changed.notify_all()
        if gone:
            self._end(pooled)
            _erase(pooled.spec.directory)
        pooled.done.set()

    # -- ending them

    def _discard(self, pooled: Pooled) -> None:
        """End a machine that is nobody's and remove what it has. Idempotent."""
        with self._changed:
            if pooled not in self._pooled:
                return
            self._pooled.remove(pooled)
        self._end(pooled)
        _erase(pooled.spec.directory)
        with self._changed:
            self._changed.notify_all()

    def _end(self, pooled: Pooled) -> None:
        if pooled.ahead is not None:
            pooled.ahead.terminate()

    def _used_at(self, pooled: Pooled) -> float:
        use = self._uses.get(pooled.kind)
        return use.at if use else 0.0


def _memory(all_pooled: list[Pooled], row: MachineRow | None = None) -> int:
    """What these hold besides `row`, which one of them may become."""
    mine = next((pooled.memory_mib for pooled in all_pooled if pooled.serves(row)), 0)
    return sum(pooled.memory_mib for pooled in all_pooled) - mine


def _erase(directory: Path) -> None:
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning(f"cannot remove {directory}: {error.strerror}; the next node does")
