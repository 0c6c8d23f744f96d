"""A workspace as LangChain tools: `python examples/langchain_tools.py`.

`workspace_tools` is the adapter, and needs `langchain-core`. The rest takes `langchain-openai`, which reads
OPENAI_API_KEY and OPENAI_API_BASE; OPENAI_MODEL names the model.
"""

import asyncio
import functools
import os
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_openai import ChatOpenAI

from pyro_mcp import AsyncPyro, PyroError

P = ParamSpec("P")
R = TypeVar("R")

TASK = "Which version of git does the sandbox have? Write it into version.txt and tell me."
ROUNDS = 20


def workspace_tools(pyro: AsyncPyro, workspace_id: str) -> list[BaseTool]:
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

    return [
        StructuredTool.from_function(coroutine=refusing(verb), handle_tool_error=True)
        for verb in (run, read_file, write_file)
    ]


def refusing(verb: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """`verb`, with its refusals as answers that the model reads."""

    @functools.wraps(verb)
    async def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await verb(*args, **kwargs)
        except PyroError as error:
            raise ToolException(str(error)) from None

    return wrapped


async def main() -> None:
    """Until the model answers without a call."""
    async with AsyncPyro() as pyro:
        workspace = await pyro.create_workspace(environment="debian:12")
        try:
            tools = {tool.name: tool for tool in workspace_tools(pyro, workspace.workspace_id)}
            model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-5")).bind_tools(list(tools.values()))
            messages: list[BaseMessage] = [HumanMessage(TASK)]
            for _ in range(ROUNDS):
                answer = await model.ainvoke(messages)
                messages.append(answer)
                if not answer.tool_calls:
                    print(answer.text)
                    break
                messages += [await tools[call["name"]].ainvoke(call) for call in answer.tool_calls]
            print((await pyro.diff_workspace(workspace.workspace_id)).patch, end="")
        finally:
            await pyro.delete_workspace(workspace.workspace_id)


if __name__ == "__main__":
    asyncio.run(main())
