"""`AsyncPyro` with real guests: many commands at once, and a cancelled task whose command is dead when it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from pyro_mcp import AsyncPyro

pytestmark = pytest.mark.guest

TOGETHER = 20
MEET = f'mkdir -p /tmp/here; touch "/tmp/here/$1"; until [ "$(ls /tmp/here | wc -l)" = {TOGETHER} ]; do sleep 0.1; done'
SLEEPER = "sleep 1000 & echo $! > pid; echo running; wait"


@asynccontextmanager
async def workspace(environ: dict[str, str], **callbacks: Any) -> AsyncIterator[tuple[AsyncPyro, str]]:
    places = {"state_dir": environ["PYRO_STATE_DIR"], "cache_dir": environ["PYRO_CACHE_DIR"]}
    async with AsyncPyro(**places, **callbacks) as pyro:
        made = await pyro.create_workspace(environment="debian:12")
        try:
            yield pyro, made.workspace_id
        finally:
            await pyro.delete_workspace(made.workspace_id)


@pytest.fixture(params=["asyncio", "trio"])
def on(request: pytest.FixtureRequest) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], None]:
    return lambda main: anyio.run(main, backend=request.param)


async def lives(pyro: AsyncPyro, workspace_id: str) -> bool:
    """Whether the command runs; a dead one may not have been collected yet."""
    asked = await pyro.exec_workspace(workspace_id, command='grep State "/proc/$(cat pid)/status"')
    return asked.exit_code == 0 and "zombie" not in asked.stdout


def test_twenty_commands_that_wait_for_each_other(environ: dict[str, str]) -> None:
    async def main() -> None:
        async with workspace(environ) as (pyro, workspace_id):
            commands = [["sh", "-c", MEET, "sh", str(number)] for number in range(TOGETHER)]
            calls = (pyro.exec_workspace(workspace_id, command=one, timeout_seconds=120) for one in commands)
            results = await asyncio.gather(*calls)
            assert [result.exit_code for result in results] == [0] * TOGETHER

    asyncio.run(main())


def test_a_cancelled_task_leaves_no_command_behind(environ: dict[str, str], on: Any) -> None:
    async def main() -> None:
        running = anyio.Event()
        async with workspace(environ, on_output=lambda tag, data: running.set()) as (pyro, workspace_id):
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: pyro.exec_workspace(workspace_id, command=SLEEPER, timeout_seconds=600))
                await running.wait()
                assert await lives(pyro, workspace_id)
                group.cancel_scope.cancel()
            assert not await lives(pyro, workspace_id)

    on(main)


def test_a_cancelled_creation_leaves_no_workspace(environ: dict[str, str]) -> None:
    async def main() -> None:
        places = {"state_dir": environ["PYRO_STATE_DIR"], "cache_dir": environ["PYRO_CACHE_DIR"]}
        reached = asyncio.Event()
        async with AsyncPyro(**places, on_progress=lambda message, fraction: reached.set()) as pyro:
            before = await pyro.list_workspaces()
            task = asyncio.create_task(pyro.create_workspace(environment="debian:12"))
            told = asyncio.create_task(reached.wait())
            await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
            assert told.done(), "a creation tells what it does"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await pyro.list_workspaces()).count == before.count

    asyncio.run(main())
