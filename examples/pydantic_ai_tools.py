"""A workspace as a Pydantic AI toolset: `python examples/pydantic_ai_tools.py`.

Needs `pydantic-ai-slim[openai]`, which reads OPENAI_API_KEY and OPENAI_BASE_URL; OPENAI_MODEL names the model.
"""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

from pydantic_ai import Agent, FunctionToolset, ModelRetry

from pyro_mcp import AsyncPyro, PyroError

P = ParamSpec("P")
R = TypeVar("R")

TASK = "Which version of git does the sandbox have? Write it into version.txt and tell me."


def workspace_toolset(pyro: AsyncPyro, workspace_id: str) -> FunctionToolset[Any]:
    """Run, read and write in one workspace."""

    async def run(command: str) -> dict[str, object]:
        """Run a line of shell in /workspace of a disposable Linux machine without a network."""
        result = await pyro.exec_workspace(workspace_id, command=command)
        return {"exit_code": result.exit_code, "stdout": result.stdout[-8000:], "stderr": result.stderr[-2000:]}

    async def read_file(path: str) -> str:
        """Read a text file of /workspace."""
        return (await pyro.read_workspace_file(workspace_id, path)).content

    async def write_file(path: str, text: str) -> str:
        """Write a text file of /workspace."""
        written = await pyro.write_workspace_file(workspace_id, path, text=text)
        return f"{written.bytes_written} bytes written"

    return FunctionToolset([refusing(verb) for verb in (run, read_file, write_file)], max_retries=5)


def refusing(verb: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """`verb`, with its refusals as answers that the model reads."""

    @functools.wraps(verb)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await verb(*args, **kwargs)
        except PyroError as error:
            raise ModelRetry(str(error)) from None

    return wrapped


async def main() -> None:
    """One run of an agent that has the workspace."""
    async with AsyncPyro() as pyro:
        workspace = await pyro.create_workspace(environment="debian:12")
        try:
            model = f"openai-chat:{os.environ.get('OPENAI_MODEL', 'gpt-5')}"
            agent = Agent(model, toolsets=[workspace_toolset(pyro, workspace.workspace_id)])
            print((await agent.run(TASK)).output)
            print((await pyro.diff_workspace(workspace.workspace_id)).patch, end="")
        finally:
            await pyro.delete_workspace(workspace.workspace_id)


if __name__ == "__main__":
    asyncio.run(main())
