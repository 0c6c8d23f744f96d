"""Checked by mypy, not run: the SDK's methods carry the verbs' own static types."""

from __future__ import annotations

from typing import assert_type

from pyro_mcp import (
    CreatedWorkspace,
    Environment,
    EnvironmentList,
    Pyro,
    PyroError,
    RunResult,
    StartedService,
    Vm,
    VmDeleted,
    create_server,
)


def uses(pyro: Pyro) -> None:
    result = pyro.run_in_vm("debian:12", command=["git", "--version"], timeout_seconds=5)
    assert_type(result, RunResult)
    assert_type(result.exit_code, int)
    assert_type(result.cleanup.deleted, bool)
    assert_type(pyro.create_vm(environment="debian:12", mem_mib=512), Vm)
    assert_type(pyro.exec_vm("vm-0123456789ab", command="true", stdin=b"x"), RunResult)
    assert_type(pyro.exec_vm("vm-0123456789ab", command="true", stdin="x"), RunResult)
    assert_type(pyro.delete_vm("vm-0123456789ab"), VmDeleted)
    assert_type(pyro.list_environments(), EnvironmentList)
    assert_type(pyro.inspect_environment("debian:12"), Environment)
    assert_type(pyro.create_workspace(environment="debian:12"), CreatedWorkspace)
    assert_type(pyro.start_service("ws", "web", command="true"), StartedService)
    assert_type(PyroError("cannot").exit_code, int)
    assert create_server("vm-run")

    pyro.run_in_vm("debian:12")  # type: ignore[call-arg]
    pyro.run_in_vm("debian:12", "true")  # type: ignore[call-arg]
    pyro.run_in_vm("debian:12", command="true", vcpu_count="two")  # type: ignore[arg-type]
    pyro.run_in_vm("debian:12", command="true", colour="red")  # type: ignore[call-arg]
    pyro.status_vm()  # type: ignore[call-arg]
