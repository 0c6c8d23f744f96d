"""`AsyncPyro` against a peer on a real socket: awaited, many at once, cancelled, under asyncio and trio."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anyio
import pytest
from peerlab import Handler, Peer

from pyro_mcp import AsyncPyro, NotFound, Pyro, PyroError
from pyro_mcp.errors import Cancelled
from pyro_mcp.protocol.channel import Stream
from pyro_mcp.settings import Settings
from pyro_mcp.surfaces import async_sdk
from pyro_mcp.surfaces.client import Client

RESULT = {
    "vm_id": "vm-1",
    "environment": "debian:12",
    "command": "x",
    "stdout": "",
    "stderr": "",
    "exit_code": 0,
    "duration_ms": 1,
    "cwd": "/root",
    "execution_mode": "guest",
    "isolation": "emulated",
    "cleanup": {"deleted": True, "reason": "done"},
}
CANCELLED = Cancelled("cannot finish the request: the caller cancelled it").to_wire()

Make = Callable[..., AsyncPyro]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """An `AsyncPyro` whose node answers with a handler."""
    peers: list[Peer] = []

    def made(handler: Handler, **callbacks: Any) -> AsyncPyro:
        peers.append(Peer(handler))
        pyro = AsyncPyro(state_dir=tmp_path, **callbacks)
        pyro._client = Client(Settings.load({}, state_dir=tmp_path), peers[-1].connect)
        return pyro

    yield made
    for peer in peers:
        peer.close()


@pytest.fixture(params=["asyncio", "trio"])
def on(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function to its end on each kind of event loop."""
    return lambda main: anyio.run(main, backend=request.param)


def until_cancelled(begun: threading.Event) -> tuple[Handler, threading.Event]:
    """A handler that answers nothing but a cancellation, and whether one came."""
    ended = threading.Event()

    def handler(stream: Stream) -> None:
        heard = threading.Event()
        stream.on_cancel(heard.set)
        begun.set()
        assert heard.wait(30)
        ended.set()
        stream.error(CANCELLED)

    return handler, ended


def public(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, callable) if not name.startswith("_")}


def test_it_has_every_method_with_its_signature_and_its_help() -> None:
    assert public(Pyro) - {"close"} == public(AsyncPyro) - {"aclose"}
    for name in public(Pyro) - {"close", "create_server"}:
        blocking, awaited = getattr(Pyro, name), getattr(AsyncPyro, name)
        assert inspect.iscoroutinefunction(awaited), name
        assert inspect.signature(awaited) == inspect.signature(blocking)
        assert inspect.getdoc(awaited) == inspect.getdoc(blocking)
        assert awaited.__qualname__ == f"AsyncPyro.{name}"


def test_a_call_is_awaited_and_typed(make: Make, on: Any) -> None:
    async def main() -> None:
        async with make(lambda stream: stream.result({**RESULT, "stdout": stream.params["environment"]})) as pyro:
            result = await pyro.run_in_vm("debian:12", command="true")
            assert result.stdout == result["stdout"] == "debian:12"
            assert result.cleanup.deleted
        with pytest.raises(PyroError, match="closed"):
            await pyro.run_in_vm("debian:12", command="true")

    on(main)


def test_errors_keep_their_kind_and_speak_python(make: Make, on: Any) -> None:
    gone = NotFound("cannot find it: gone", hint="<<create_vm>> makes one.")

    async def main() -> None:
        async with make(lambda stream: stream.error(gone.to_wire())) as pyro:
            with pytest.raises(NotFound, match="gone") as caught:
                await pyro.status_vm("vm-0123456789ab")
            assert caught.value.hint == "create_vm makes one."
            with pytest.raises(PyroError, match="vcpu_count"):
                await pyro.run_in_vm("debian:12", command="true", vcpu_count=0)
            with pytest.raises(TypeError):
                await pyro.run_in_vm("debian:12")  # type: ignore[call-arg]

    on(main)


def test_callbacks_come_on_the_event_loop_in_order(make: Make, on: Any) -> None:
    heard: list[Any] = []

    def handler(stream: Stream) -> None:
        stream.event({"progress": "booting", "fraction": 0.5})
        stream.event({"notice": "slow"})
        for number in range(100):
            stream.send(b"%d" % number, 1)
        stream.result(RESULT)

    def hear(*news: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        heard.append(news)

    async def main() -> None:
        async with make(handler, on_progress=hear, on_notice=hear, on_output=hear) as pyro:
            await pyro.run_in_vm("debian:12", command="true")

    on(main)
    assert heard == [("booting", 0.5), ("slow",), *((1, b"%d" % number) for number in range(100))]


def test_a_callback_that_fails_ends_the_command_and_is_raised(make: Make, on: Any) -> None:
    def handler(stream: Stream) -> None:
        heard = threading.Event()
        stream.on_cancel(heard.set)
        stream.send(b"x", 1)
        assert heard.wait(30)
        stream.error(CANCELLED)

    def fail(tag: int, data: bytes) -> None:
        raise ZeroDivisionError

    async def main() -> None:
        async with make(handler, on_output=fail) as pyro:
            with pytest.raises(ZeroDivisionError):
                await pyro.run_in_vm("debian:12", command="true")

    on(main)


def test_many_at_once_do_not_wait_for_each_other_nor_for_the_programs_threads(make: Make) -> None:
    together = threading.Barrier(100)
    free = threading.Event()

    def handler(stream: Stream) -> None:
        together.wait(30)
        stream.result(RESULT)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, free.wait)
        anyio.to_thread.current_default_thread_limiter().total_tokens = 1
        try:
            async with make(handler) as pyro:
                await asyncio.gather(*(pyro.run_in_vm("debian:12", command="true") for _ in range(100)))
        finally:
            free.set()
            await busy

    asyncio.run(main())


def test_what_is_too_much_at_once_waits_its_turn(make: Make, monkeypatch: pytest.MonkeyPatch, on: Any) -> None:
    monkeypatch.setattr(async_sdk, "MAX_CALLS", 3)
    lock = threading.Lock()
    now, most = 0, 0

    def handler(stream: Stream) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        stream.event({"notice": "begun"})
        with lock:
            now -= 1
        stream.result(RESULT)

    async def main() -> None:
        async with make(handler) as pyro, anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(lambda: pyro.run_in_vm("debian:12", command="true"))

    on(main)
    assert 1 <= most <= 3


def test_a_cancelled_task_ends_the_work_first(make: Make, on: Any) -> None:
    begun = threading.Event()
    handler, ended = until_cancelled(begun)

    async def main() -> None:
        async with make(handler) as pyro:
            with anyio.move_on_after(3600) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(lambda: pyro.run_in_vm("debian:12", command="sleep inf"))
                    assert await anyio.to_thread.run_sync(begun.wait, 30)
                    scope.cancel()
            assert scope.cancelled_caught
            assert ended.is_set()

    on(main)


def test_asyncios_own_cancellation_and_timeout(make: Make) -> None:
    begun = threading.Event()
    handler, ended = until_cancelled(begun)

    async def main() -> None:
        async with make(handler) as pyro:
            task = asyncio.create_task(pyro.run_in_vm("debian:12", command="sleep inf"))
            assert await asyncio.to_thread(begun.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended.is_set()
            ended.clear()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(pyro.run_in_vm("debian:12", command="sleep inf"), 0.2)
            assert ended.is_set()

    asyncio.run(main())


def test_a_peer_that_does_not_end_it_is_not_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch, on: Any) -> None:
    monkeypatch.setattr(async_sdk, "CANCEL_SECONDS", 0.05)
    begun, over = threading.Event(), threading.Event()

    def handler(stream: Stream) -> None:
        begun.set()
        assert over.wait(30)
        stream.result(RESULT)

    async def main() -> None:
        async with make(handler) as pyro:
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: pyro.run_in_vm("debian:12", command="sleep inf"))
                assert await anyio.to_thread.run_sync(begun.wait, 30)
                group.cancel_scope.cancel()
            over.set()

    on(main)


def test_one_that_is_cancelled_while_it_waits_for_its_turn_is_never_sent(
    make: Make, monkeypatch: pytest.MonkeyPatch, on: Any
) -> None:
    monkeypatch.setattr(async_sdk, "MAX_CALLS", 1)
    begun, over = threading.Event(), threading.Event()
    sent: list[str] = []

    def handler(stream: Stream) -> None:
        sent.append(stream.params["environment"])
        begun.set()
        assert over.wait(30)
        stream.result(RESULT)

    async def main() -> None:
        async with make(handler) as pyro, anyio.create_task_group() as group:
            group.start_soon(lambda: pyro.run_in_vm("debian:12", command="true"))
            assert await anyio.to_thread.run_sync(begun.wait, 30)
            with anyio.move_on_after(0.05):
                await pyro.run_in_vm("debian:12-base", command="true")
            over.set()

    on(main)
    assert sent == ["debian:12"]


def test_one_that_is_cancelled_before_it_is_sent_is_ended_when_it_is(tmp_path: Path, on: Any) -> None:
    begun = threading.Event()
    handler, ended = until_cancelled(begun)
    peer, connecting, go_on = Peer(handler), threading.Event(), threading.Event()

    def connect(settings: Settings) -> Any:
        connecting.set()
        assert go_on.wait(30)
        return peer.connect(settings)

    async def main() -> None:
        pyro = AsyncPyro(state_dir=tmp_path)
        pyro._client = Client(Settings.load({}, state_dir=tmp_path), connect)
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: pyro.run_in_vm("debian:12", command="sleep inf"))
            assert await anyio.to_thread.run_sync(connecting.wait, 30)
            group.cancel_scope.cancel()
            go_on.set()
        assert ended.is_set()
        await pyro.aclose()

    on(main)
    peer.close()


def test_a_server_is_made_too(make: Make, on: Any) -> None:
    async def main() -> None:
        async with make(lambda stream: stream.result({})) as pyro:
            assert (await pyro.create_server("vm-run")).name == "pyro"

    on(main)


def test_static_types_are_the_verbs_own() -> None:
    page = Path(__file__).with_name("typed_async_sdk.py")
    command = [sys.executable, "-m", "mypy", "--strict", "--warn-unused-ignores", str(page)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=page.parents[3])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_async_sdk_does_not_import_mcp_or_rich() -> None:
    code = (
        "import sys; from pyro_mcp import AsyncPyro; assert not {'mcp', 'rich', 'trio', 'sqlite3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
