"""Checked by mypy, not run: the methods of `AsyncPyro` carry the verbs' own static types, awaited."""

from __future__ import annotations

import asyncio
from typing import assert_type

from pyro_mcp import AsyncPyro, CreatedWorkspace, EnvironmentList, RunResult, StartedService, Vm, Workspace


async def uses() -> None:
    async with AsyncPyro(on_output=lambda tag, data: None) as pyro:
        result = await pyro.run_in_vm("debian:12", command=["git", "--version"], timeout_seconds=5)
        assert_type(result, RunResult)
        assert_type(result.exit_code, int)
        assert_type(await pyro.create_vm(environment="debian:12", mem_mib=512), Vm)
        assert_type(await pyro.list_environments(), EnvironmentList)
        assert_type(await pyro.create_workspace(environment="debian:12"), CreatedWorkspace)
        assert_type(await pyro.start_service("ws", "web", command="true"), StartedService)
        both = await asyncio.gather(pyro.status_vm("vm-0123456789ab"), pyro.status_workspace("ws"))
        assert_type(both, tuple[Vm, Workspace])

        await pyro.run_in_vm("debian:12")  # type: ignore[call-arg]
        await pyro.run_in_vm("debian:12", "true")  # type: ignore[call-arg]
        await pyro.run_in_vm("debian:12", command="true", vcpu_count="two")  # type: ignore[arg-type]
        pyro.run_in_vm("debian:12", command="true")  # type: ignore[unused-coroutine]
