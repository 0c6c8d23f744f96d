"""Many commands at once from one event loop, and one that is cancelled: `python examples/python_async.py`."""

import asyncio

from pyro_mcp import AsyncPyro


async def main() -> None:
    """Twelve commands in one workspace, all under way together."""
    async with AsyncPyro() as pyro:
        workspace = await pyro.create_workspace(environment="debian:12")
        name = workspace.workspace_id
        try:
            lines = [f"sleep 0.2; echo $(({number} * {number}))" for number in range(12)]
            results = await asyncio.gather(*(pyro.exec_workspace(name, command=line) for line in lines))
            print([int(result.stdout) for result in results])

            # When the time is up, the command is dead in the guest before this goes on.
            try:
                async with asyncio.timeout(1):
                    await pyro.exec_workspace(name, command="sleep 1000", timeout_seconds=1000)
            except TimeoutError:
                print("timed out")
        finally:
            await pyro.delete_workspace(name)


asyncio.run(main())
