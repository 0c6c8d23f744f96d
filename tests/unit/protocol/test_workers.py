"""Workers: threads for handlers, and none that outlives its channel."""

from __future__ import annotations

import threading

from pyro_mcp.protocol.workers import Workers


def test_each_ends_after_stop_busy_idle_or_only_just_wanted() -> None:
    before = set(threading.enumerate())
    workers = Workers(ready=2)
    busy, go_on = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        go_on.wait(30)

    workers.submit(work)
    assert busy.wait(30)
    workers.stop()
    workers.submit(lambda: None)
    workers.submit(lambda: None)
    go_on.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()
