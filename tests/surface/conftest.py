"""One way to speak to each surface, so that a scenario is written once and holds on all of them.

All run against a real node of their own and real guests; the images are shared with the user's cache.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any
from unittest import mock

import anyio.from_thread
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from pyro_mcp import Pyro, PyroError
from pyro_mcp.operations.encode import encode
from pyro_mcp.surfaces import catalog

sys.path.insert(0, str(Path(__file__).parent / "support"))
from short import Short

OPERATIONS = {operation.name: operation for operation in catalog.every_operation()}
PYRO = [sys.executable, "-m", "pyro_mcp"]


class Problem(Exception):
    """A refusal, as every surface tells it: `code` and `message`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code
        self.message = message


class SdkSurface:
    """The Python SDK."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._pyro = Pyro(state_dir=environ["PYRO_STATE_DIR"], cache_dir=environ["PYRO_CACHE_DIR"])

    def run(self, environment: str, command: list[str], **params: Any) -> dict[str, Any]:
        return self._call(lambda: self._pyro.run_in_vm(environment, command=command, **params))

    def environments(self) -> dict[str, Any]:
        return self._call(self._pyro.list_environments)

    def do(self, verb: str, **params: Any) -> dict[str, Any]:
        return self._call(lambda: getattr(self._pyro, verb)(**params))

    def close(self) -> None:
        self._pyro.close()

    @staticmethod
    def _call(call: Any) -> dict[str, Any]:
        try:
            return encode(call())
        except PyroError as error:
            raise Problem(error.code, error.message) from error


class CliSurface:
    """The command line, with `--json`."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ

    def run(self, environment: str, command: list[str], **params: Any) -> dict[str, Any]:
        flags: list[str] = []
        for name, value in params.items():
            flag = "--" + name.replace("_", "-")
            flags += [flag] if value is True else [flag, str(value)]
        return self._call("run", environment, *flags, "--json", "--", *command)

    def environments(self) -> dict[str, Any]:
        return self._call("env", "list", "--json")

    def do(self, verb: str, **params: Any) -> dict[str, Any]:
        operation = OPERATIONS[verb]
        words, flags, command, typed = list(operation.cli or ()), ["--json"], [], None
        for field in operation.fields:
            if field.name not in params:
                continue
            value = params[field.name]
            if field.param.cli == "command":
                command = ["--", *value]
            elif field.param.stream:
                flags, typed = [*flags, field.flag], value
            elif field.param.cli == "positional":
                words += map(str, value if isinstance(value, list) else [value])
            elif isinstance(value, bool):
                flags += [field.flag] if value != field.default else []
            else:
                given = [f"{key}={part}" for key, part in value.items()] if isinstance(value, dict) else value
                keys = {key: flag for key, flag, *_ in field.param.key_flags}
                if keys:
                    flags += [word for key, part in value.items() for word in (keys[key], str(part))]
                    continue
                for one in (given or [""]) if isinstance(given, list) else [given]:
                    flags += [field.flag, str(one)]
        return self._call(*words, *flags, *command, typed=typed)

    def close(self) -> None:
        """Nothing stays open."""

    def _call(self, *words: str, typed: str | None = None) -> dict[str, Any]:
        given: dict[str, Any] = {"input": typed} if typed is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run([*PYRO, *words], env=self._environ, capture_output=True, text=True, timeout=300, **given)
        answer: dict[str, Any] = json.loads(done.stdout)
        if "error" in answer:
            assert done.returncode == answer["error"]["exit_code"]
            raise Problem(answer["error"]["code"], answer["error"]["message"])
        if "exit_code" in answer and not {"service_name", "shell_id"} & set(answer):
            # 75: the command still runs.
            assert done.returncode == (75 if answer["exit_code"] is None else answer["exit_code"])
        return answer


class McpSurface:
    """The MCP server over stdio, in one protocol era."""

    def __init__(self, environ: dict[str, str], mode: str, *options: str) -> None:
        args = [
            *PYRO[1:],
            "mcp",
            "serve",
            "--profile",
            "workspace-full",
            "--host-path",
            tempfile.gettempdir(),
            "--no-project-source",
            *options,
        ]
        parameters = StdioServerParameters(command=PYRO[0], args=args, env=environ)
        self._portal_context = anyio.from_thread.start_blocking_portal()
        self._portal = self._portal_context.__enter__()
        self._leave: Future[None] | None = None
        self._client_context = self._portal.wrap_async_context_manager(
            Client(stdio_client(parameters), mode=mode)  # type: ignore[arg-type]
        )
        self._client = self._client_context.__enter__()

    def run(self, environment: str, command: list[str], **params: Any) -> dict[str, Any]:
        return self.call("vm_run", {"environment": environment, "command": command, **params})

    def environments(self) -> dict[str, Any]:
        return self.call("vm_list_environments", {})

    def do(self, verb: str, **params: Any) -> dict[str, Any]:
        if verb == "read_workspace_file":
            return self._read(**params)
        return self.call(OPERATIONS[verb].tool or verb, params)

    def _read(self, **params: Any) -> dict[str, Any]:
        """Models read by lines: a file as it stands is put together again from those."""
        read = self.call("workspace_file_read", params)
        end = "\r\n" if read.get("line_ends") == "crlf" else "\n"
        lines = read["content"].split("\n") if read.get("content") else []
        content = "".join(line.partition("→")[2] + end for line in lines)
        size = read.get("size_bytes", 0)
        read["content"] = content if len(content.encode()) <= size else content.removesuffix(end)
        return read

    def call(self, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
        result = self._portal.call(self._client.call_tool, tool, arguments)
        text = result.content[0].text
        if result.is_error:
            assert result.structured_content is None
            message, _, code = text.splitlines()[0].rpartition(" [")
            raise Problem(code.rstrip("]"), message)
        assert json.loads(text) == result.structured_content
        operation = next(one for one in OPERATIONS.values() if one.tool == tool)
        given = {field.name: field.default for field in operation.fields} | arguments
        return Short(result.structured_content, operation.result_type, given)

    def close(self) -> None:
        self._client_context.__exit__(None, None, None)
        self._portal_context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def environ(cache_dir: Path) -> Iterator[dict[str, str]]:
    """The variables of a state directory of these tests' own; its node ends with them."""
    with tempfile.TemporaryDirectory(prefix="pyro-surface-") as directory:
        values = {**os.environ, "PYRO_STATE_DIR": f"{directory}/state", "PYRO_CACHE_DIR": str(cache_dir)}
        yield values
        subprocess.run([*PYRO, "node", "stop", "--force"], env=values, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="session")
def hosted_environ(environ: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same for a host on which no guest is good enough, so that only `host_compat` is left."""
    report = subprocess.run([*PYRO, "doctor", "--json"], env=environ, capture_output=True, timeout=60)
    if json.loads(report.stdout)["isolation"] != "emulated":
        pytest.skip("KVM works here, so nothing ever falls back to host_compat")
    with tempfile.TemporaryDirectory(prefix="pyro-hosted-") as directory:
        values = {**environ, "PYRO_STATE_DIR": f"{directory}/state", "PYRO_REQUIRE_ISOLATION": "kvm"}
        yield values
        subprocess.run([*PYRO, "node", "stop", "--force"], env=values, check=True, capture_output=True, timeout=60)


SURFACES = ("sdk", "cli", "mcp-legacy", "mcp-auto")


def speak(name: str, environ: dict[str, str], *, hosted: bool = False) -> Any:
    """The surface called `name`. `hosted`: it may fall back to `host_compat`."""
    kind, _, mode = name.partition("-")
    if kind == "mcp":
        return McpSurface(environ, mode, *(["--allow-host-compat"] if hosted else []))
    with mock.patch.dict(os.environ, environ):
        return {"sdk": SdkSurface, "cli": CliSurface}[kind](environ)


@pytest.fixture(scope="session")
def speaking() -> Any:
    """`speak`, for tests with a node of their own."""
    return speak


@pytest.fixture(scope="session")
def serving() -> Any:
    """`McpSurface`, for tests with options of their own."""
    return McpSurface


@pytest.fixture(scope="session", params=SURFACES)
def surface(request: pytest.FixtureRequest, environ: dict[str, str]) -> Iterator[Any]:
    """Each surface in turn."""
    made = speak(request.param, environ)
    yield made
    made.close()


@pytest.fixture(scope="module", params=[f"{place}-{name}" for place in ("guest", "hosted") for name in SURFACES])
def anywhere(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each surface in turn, with real guests and with `host_compat`; `hosted` says which."""
    place, _, name = request.param.partition("-")
    hosted = place == "hosted"
    made = speak(name, request.getfixturevalue("hosted_environ" if hosted else "environ"), hosted=hosted)
    made.hosted = hosted
    yield made
    made.close()
