"""Record: one entry for what is equal, nothing lost while the disk is full, nothing unbounded."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from pyro_mcp.errors import Capacity, DiskFull
from pyro_mcp.network import record
from pyro_mcp.network.policy import Refusal
from pyro_mcp.network.record import Batch, Ledger, Recorder

NO = Refusal("it is private", "--allow-address 10.0.0.1")


class Keeper:
    """Keeps batches, unless it is full."""

    def __init__(self) -> None:
        self.full = False
        self.batches: list[Batch] = []

    def write(self, batch: Batch) -> None:
        if self.full:
            raise DiskFull("cannot write: full")
        self.batches.append(batch)


def test_equal_refusals_become_one() -> None:
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    ledger = Ledger("vm-1", recorder)
    for _ in range(1000):
        ledger.refused("a.test", "10.0.0.1", 80, NO)
    ledger.refused("a.test", "10.0.0.1", 81, NO)
    recorder.flush()
    counts = [entry.count for batch in keeper.batches for entry in batch.counted.values()]
    assert sum(counts) == 1001
    assert len(counts) <= 2 * len(keeper.batches)


def test_what_cannot_be_written_waits() -> None:
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    ledger = Ledger("vm-1", recorder)
    keeper.full = True
    entry = ledger.begun(None, "8.8.8.8", 80)
    ledger.refused("a.test", "10.0.0.1", 80, NO)
    with pytest.raises(DiskFull):
        recorder.flush()
    entry.bytes_in = 5
    ledger.ended(entry)
    ledger.refused("a.test", "10.0.0.1", 80, NO)
    keeper.full = False
    recorder.flush()
    recorder.close()
    begun = [one for batch in keeper.batches for one in batch.begun.values()]
    assert [one.bytes_in for one in begun] == [5]
    assert [one for batch in keeper.batches for one in batch.ended] == []
    assert sum(one.count for batch in keeper.batches for one in batch.counted.values()) == 2


def test_a_host_without_a_thread_for_it_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(work: object, name: str) -> None:
        raise Capacity("cannot start a thread: there is none")

    written = threading.Event()
    keeper = Keeper()

    def write(batch: Batch) -> None:
        keeper.write(batch)
        written.set()

    ledger = Ledger("vm-1", Recorder(write))
    with monkeypatch.context() as patch:
        patch.setattr(record, "begin", lacking)
        ledger.refused("a.test", "10.0.0.1", 80, NO)
    ledger.refused("a.test", "10.0.0.1", 81, NO)
    assert written.wait(30)
    assert [len(batch.counted) for batch in keeper.batches] == [2]


def test_an_end_after_the_begin_was_written_is_told_apart() -> None:
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    ledger = Ledger("vm-1", recorder)
    entry = ledger.begun(None, "8.8.8.8", 80)
    recorder.flush()
    ledger.ended(entry)
    recorder.flush()
    assert [list(batch.begun.values()) for batch in keeper.batches if batch.begun] == [[entry]]
    assert [batch.ended for batch in keeper.batches if batch.ended] == [[entry]]


def test_one_moment_holds_so_much_of_each_machine_and_counts_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that knocks on every door hides neither where it has been nor what its neighbours did."""
    monkeypatch.setattr(record, "PENDING_MAX", 10)
    monkeypatch.setattr(record, "MOMENT_SECONDS", 60)
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    loud, quiet = Ledger("vm-1", recorder), Ledger("vm-2", recorder)
    for port in range(1, 31):
        loud.refused(None, "10.0.0.1", port, NO)
        loud.failed(None, "8.8.8.8", port, "timed out")
    opened = [loud.begun(None, "8.8.8.8", port) for port in range(1, 14)]
    quiet.refused(None, "10.0.0.2", 1, NO)
    quiet.ended(quiet.begun(None, "8.8.4.4", 443))
    for entry in opened:
        entry.bytes_in, entry.bytes_out = 7, 2
        for _ in range(2):
            loud.ended(entry)
    recorder.flush()
    (batch,) = keeper.batches
    assert sorted(Counter(one.machine_id for one in batch.counted.values()).items()) == [("vm-1", 10), ("vm-2", 1)]
    assert sorted(Counter(one.machine_id for one in batch.begun.values()).items()) == [("vm-1", 10), ("vm-2", 1)]
    assert batch.ended == []
    overflow = {"refused": 25, "failed": 25, "allowed": 3, "forgotten": 53, "bytes_in": 21, "bytes_out": 6}
    assert batch.overflow == {"vm-1": overflow}
    opened[-1].bytes_in += 5
    loud.ended(opened[-1])
    recorder.flush()
    assert keeper.batches[1].overflow == {"vm-1": {"bytes_in": 5, "bytes_out": 0}}


def test_what_is_over_waits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "PENDING_MAX", 2)
    keeper = Keeper()
    keeper.full = True
    recorder = Recorder(keeper.write)
    ledger = Ledger("vm-1", recorder)
    for first in (0, 10):
        for port in range(first, first + 3):
            ledger.refused(None, "10.0.0.1", port + 1, NO)
            ledger.ended(ledger.begun(None, "8.8.8.8", port + 1))
        with pytest.raises(DiskFull):
            recorder.flush()
    keeper.full = False
    recorder.flush()
    totals: Counter[str] = Counter()
    for batch in keeper.batches:
        totals.update(batch.overflow["vm-1"])
        totals.update(one.verdict for one in (*batch.begun.values(), *batch.counted.values()))
    assert (totals["refused"], totals["allowed"], totals["forgotten"]) == (6, 6, 8)


def test_a_watch_sees_what_happens_while_it_looks() -> None:
    ledger = Ledger("vm-1", None)
    ledger.refused("before.test", None, 0, NO)
    watch = ledger.watch()
    for _ in range(3):
        ledger.refused("a.test", "10.0.0.1", 80, NO)
    for number in range(50):
        ledger.refused(f"{number}.test", None, 0, NO)
    watch.close()
    ledger.refused("after.test", None, 0, NO)
    seen = watch.seen()
    assert len(seen) == record.WATCHED_MAX
    assert (seen[0].name, seen[0].address, seen[0].port, seen[0].count) == ("a.test", "10.0.0.1", 80, 3)
    assert (seen[0].reason, seen[0].hint) == (NO.reason, NO.hint)
    assert not {"before.test", "after.test"} & {one.name for one in seen}


def test_after_the_close_nothing_is_written() -> None:
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    recorder.close()
    Ledger("vm-1", recorder).refused("late.test", None, 0, NO)
    recorder.flush()
    assert keeper.batches == []


def test_look_ups_of_one_name_in_a_burst_are_one() -> None:
    """Resolvers ask for both kinds of address and ask again; what somebody wanted was one thing."""
    now = [0.0]
    keeper = Keeper()
    recorder = Recorder(keeper.write)
    ledger = Ledger("vm-1", recorder, clock=lambda: now[0])
    first = ledger.watch()
    for _ in range(4):
        now[0] += record.BURST_SECONDS - 1
        ledger.refused("a.test", None, 0, NO)
    second = ledger.watch()
    ledger.refused("a.test", None, 0, NO)
    ledger.refused("b.test", None, 0, NO)
    now[0] += record.BURST_SECONDS
    ledger.refused("a.test", None, 0, NO)
    for _ in range(2):
        ledger.refused("a.test", "10.0.0.1", 80, NO)
    recorder.flush()
    assert [(one.name, one.port, one.count) for one in first.seen()] == [
        ("a.test", 0, 2),
        ("b.test", 0, 1),
        ("a.test", 80, 2),
    ]
    assert [one.count for one in second.seen()] == [2, 1, 2], "who looks later is told too"
    assert sum(one.count for batch in keeper.batches for one in batch.counted.values()) == 5


def test_bursts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "BURSTS_MAX", 10)
    ledger = Ledger("vm-1", None, clock=lambda: 0.0)
    for _ in range(2):
        watch = ledger.watch()
        for number in range(11):
            ledger.refused(f"{number}.test", None, 0, NO)
        watch.close()
        assert [one.count for one in watch.seen()] == [1] * 11
    watch = ledger.watch()
    for name in ("0.test", "10.test", "0.test", "10.test"):
        ledger.refused(name, None, 0, NO)
    assert [one.count for one in watch.seen()] == [1, 1]
    assert len(ledger._bursts) == 10
