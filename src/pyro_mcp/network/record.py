"""Record: what became of every connection that guests asked for, reported to whoever keeps it.

Nothing here waits for a disk on a connection's way: what happened is collected and written a moment later, all that
happened in that moment as one. Equal refusals and failures become one entry with a count, so a guest that knocks on
the same door for ever fills no book; what one moment cannot hold is counted and not kept. That bound is each machine's,
and refusals have their own: a guest that makes a great many hides neither its connections nor those of others.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from pyro_mcp.errors import Capacity, PyroError
from pyro_mcp.model.network import Connection, Key, NetworkRefusal, Verdict, refusal_of
from pyro_mcp.network.policy import Refusal
from pyro_mcp.system.threads import begin

_log = logging.getLogger(__name__)

MOMENT_SECONDS = 0.25
PENDING_MAX = 1000
"""New connections, and as many refusals and failures that differ, of one machine in one moment."""
WATCHED_MAX = 32
BURST_SECONDS, BURSTS_MAX = 5.0, 256
"""A refused look-up within so long of the last for that name counts as the same: programs ask for both kinds of
address, and resolvers and downloaders ask again, all for one thing that somebody wanted."""


@dataclass
class Batch:
    """What one moment held. `begun` came about in it, `ended` came about earlier and ended in it; a connection that
    did both is in `begun`. `overflow` says per machine what the entries without a place add to its totals."""

    begun: dict[int, Connection] = field(default_factory=dict)
    ended: list[Connection] = field(default_factory=list)
    counted: dict[Key, Connection] = field(default_factory=dict)
    overflow: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    taken: Counter[tuple[str, bool]] = field(default_factory=Counter)

    def place(self, machine_id: str, *, counted: bool) -> bool:
        """Whether there is a place for one more; it is taken then."""
        key = (machine_id, counted)
        free = self.taken[key] < PENDING_MAX
        self.taken[key] += free
        return free

    def forget(self, connection: Connection) -> None:
        """Keep of an entry only what it adds to the totals."""
        self.overflow[connection.machine_id].update(
            {connection.verdict: connection.count, "forgotten": connection.count}
        )

    def weigh(self, connection: Connection) -> None:
        """Add the bytes of a connection that is not kept to the totals, those that are not in them yet."""
        overflow = self.overflow[connection.machine_id]
        overflow["bytes_in"] += connection.bytes_in - connection.kept_in
        overflow["bytes_out"] += connection.bytes_out - connection.kept_out
        connection.kept_in, connection.kept_out = connection.bytes_in, connection.bytes_out

    def __bool__(self) -> bool:
        return bool(self.begun or self.ended or self.counted or self.overflow)


class Recorder:
    """Hands batches to `write`, on a thread of its own that exists while there is something to write."""

    def __init__(self, write: Callable[[Batch], None]) -> None:
        self._write = write
        self._lock = threading.RLock()
        self._writing = threading.Lock()
        self._pending = Batch()
        self._scheduled = False
        self._closed = False

    def begun(self, connection: Connection) -> None:
        with self._lock:
            if self._pending.place(connection.machine_id, counted=False):
                self._pending.begun[id(connection)] = connection
            else:
                connection.kept = False
                self._pending.forget(connection)
                self._pending.weigh(connection)
        self._schedule()

    def ended(self, connection: Connection) -> None:
        """A connection that was `begun` has other numbers; perhaps its final ones."""
        with self._lock:
            if not connection.kept:
                self._pending.weigh(connection)
            elif id(connection) not in self._pending.begun:
                self._pending.ended.append(connection)
        self._schedule()

    def count(self, connection: Connection) -> None:
        """A refusal or failure happened, perhaps not for the first time."""
        with self._lock:
            known = self._pending.counted.get(connection.key)
            if known is not None:
                known.count += connection.count
                known.at = connection.at
            elif self._pending.place(connection.machine_id, counted=True):
                self._pending.counted[connection.key] = connection
            else:
                self._pending.forget(connection)
        self._schedule()

    def flush(self) -> None:
        """Write what there is, now. Raises what `write` raises; what could not be written is kept for the next time."""
        with self._writing:
            with self._lock:
                batch, self._pending = self._pending, Batch()
            if self._closed or not batch:
                return
            try:
                self._write(batch)
            except PyroError:
                self._take_back(batch)
                raise

    def close(self) -> None:
        """Write what there is, and nothing any more. Raises what `write` raises."""
        try:
            self.flush()
        finally:
            with self._writing:
                self._closed = True

    def _schedule(self) -> None:
        with self._lock:
            if self._scheduled:
                return
            self._scheduled = True
        try:
            begin(self._later, "record")
        except Capacity:
            # It is kept; the next entry, or whoever asks, has it written.
            self._scheduled = False

    def _later(self) -> None:
        time.sleep(MOMENT_SECONDS)
        with self._lock:
            self._scheduled = False
        try:
            self.flush()
        except PyroError as error:
            _log.warning(f"cannot record connections: {error}")

    def _take_back(self, batch: Batch) -> None:
        """A batch that could not be written goes before what has come since, as far as there is room."""
        with self._lock:
            newer, self._pending = self._pending, batch
            for machine_id, added in newer.overflow.items():
                batch.overflow[machine_id].update(added)
            for connection in newer.begun.values():
                self.begun(connection)
            for connection in newer.ended:
                self.ended(connection)
            for connection in newer.counted.values():
                self.count(connection)


class Watch:
    """The refusals of a machine until `close`, equal ones counted; the first `WATCHED_MAX` different ones."""

    def __init__(self, on_close: Callable[[Watch], None] | None = None) -> None:
        self._on_close = on_close
        self._lock = threading.Lock()
        self._seen: dict[Key, Connection] = {}

    def add(self, connection: Connection, *, again: bool) -> None:
        """`again`: it belongs to the same burst as one before, which may have been before this watch began."""
        with self._lock:
            known = self._seen.get(connection.key)
            if known is not None:
                known.count += 0 if again else 1
            elif len(self._seen) < WATCHED_MAX:
                self._seen[connection.key] = Connection(
                    connection.machine_id,
                    connection.at,
                    "refused",
                    connection.name,
                    connection.address,
                    connection.port,
                    connection.reason,
                    connection.hint,
                )

    def close(self) -> None:
        """Look no more; what was seen stays. Idempotent."""
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close(self)

    def seen(self) -> list[Connection]:
        with self._lock:
            return list(self._seen.values())

    def refusals(self) -> list[NetworkRefusal]:
        """The same as a result shows it."""
        return [refusal_of(vars(one)) for one in self.seen()]


class Ledger:
    """The entries of one machine. Without a `recorder` they are reported to those who watch, and then forgotten."""

    def __init__(
        self,
        machine_id: str,
        recorder: Recorder | None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._machine_id = machine_id
        self._recorder = recorder
        self._wall = wall
        self._clock = clock
        self._bursts: OrderedDict[Key, float] = OrderedDict()
        self._lock = threading.Lock()
        self._watches: list[Watch] = []

    def watch(self) -> Watch:
        """Begin to collect refusals."""
        made = Watch(self._unwatch)
        with self._lock:
            self._watches.append(made)
        return made

    def refused(self, name: str | None, address: str | None, port: int, refusal: Refusal) -> None:
        entry = self._entry("refused", name, address, port, refusal.reason)
        entry.hint = refusal.hint
        with self._lock:
            watches = list(self._watches)
            again = not port and self._in_burst(entry.key)
        for watch in watches:
            watch.add(entry, again=again)
        if not again:
            self._count(entry)

    def failed(self, name: str | None, address: str, port: int, reason: str) -> None:
        self._count(self._entry("failed", name, address, port, reason))

    def begun(self, name: str | None, address: str, port: int) -> Connection:
        """A connection has come about; its entry is filled in and `ended`."""
        entry = self._entry("allowed", name, address, port, "")
        if self._recorder is not None:
            self._recorder.begun(entry)
        return entry

    def ended(self, entry: Connection) -> None:
        if self._recorder is not None:
            self._recorder.ended(entry)

    def _in_burst(self, key: Key) -> bool:
        now, last = self._clock(), self._bursts.pop(key, None)
        self._bursts[key] = now
        if len(self._bursts) > BURSTS_MAX:
            self._bursts.popitem(last=False)
        return last is not None and now - last < BURST_SECONDS

    def _unwatch(self, watch: Watch) -> None:
        with self._lock:
            self._watches.remove(watch)

    def _count(self, entry: Connection) -> None:
        if self._recorder is not None:
            self._recorder.count(entry)

    def _entry(self, verdict: Verdict, name: str | None, address: str | None, port: int, reason: str) -> Connection:
        return Connection(self._machine_id, self._wall(), verdict, name or "", address or "", port, reason)
