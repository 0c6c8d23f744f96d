"""pyro.toml: what a project asks for its workspaces, and what of that a person must agree to.

    environment = "debian:12-build"     the parameters of a workspace's creation, under their own names
    mem_mib = 2048
    network_policy = "egress"
    setup = ["make deps"]
    [services.web]                      the parameters of a service's start
    command = "python3 -m http.server 8000"

The file is read from this host only, and is checked by the rules that the verbs declare: there is no second list. A
guest may have written it nevertheless, by way of an export. So whatever gives a workspace more than one gets unasked
counts only for bytes that a person has seen.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_mcp.engine.services.ports import wanted_ports
from pyro_mcp.errors import InvalidArgument, NotFound
from pyro_mcp.operations.fields import Field
from pyro_mcp.operations.operation import Operation
from pyro_mcp.operations.validate import validate
from pyro_mcp.protocol.readiness import parse
from pyro_mcp.system.atomic import disk_errors

NAME = "pyro.toml"
MAX_BYTES = 1 << 16
MAX_SETUP, MAX_SERVICES = 64, 16
HOSTS = "allow_hosts"
NETWORK = ("network_policy", HOSTS, "allow_addresses", "host_ca")
SETTINGS = ("environment", "vcpu_count", "mem_mib", "scratch_mib", "ttl_seconds", *NETWORK)
PORTS = "published_ports"
_SERVICE = ("command", "cwd", "readiness", "ready_timeout_seconds", "ready_interval_ms", "restart", PORTS)
_ABOVE = (*SETTINGS, "setup", "services")


Declared = Mapping[str, Operation[Any, Any]]
"""The verbs whose parameters a file sets or that it has done: `create_workspace`, `exec_workspace`, `start_service`."""


@dataclass(frozen=True)
class ProjectFile:
    """A file that was read and found right. `widens` has a line for each setting, and each `services.NAME`, that needs
    consent."""

    path: Path
    sha256: str
    settings: dict[str, Any]
    setup: list[str]
    services: dict[str, dict[str, Any]]
    widens: dict[str, str] = field(default_factory=dict)


def read_file(root: Path, declared: Declared) -> ProjectFile | None:
    """The file of the project at `root`; None where there is none. Raises `InvalidArgument`, and what reading
    raises."""
    path = root / NAME
    data = _bytes(path)
    if data is None:
        return None
    import tomllib  # here: most projects have no file

    try:
        said = tomllib.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise _wrong(path, str(error)[:300]) from None
    _require_known(path, "", said, _ABOVE)
    settings = {name: said[name] for name in SETTINGS if name in said}
    settings = _checked(path, "", declared["create_workspace"], settings)
    setup, services = _setup(path, said, declared), _services(path, said, declared)
    found = ProjectFile(path, hashlib.sha256(data).hexdigest(), settings, setup, services)
    found.widens.update(_widens(found, declared))
    return found


def _bytes(path: Path) -> bytes | None:
    with disk_errors(f"read {path}"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _wrong(path, "it is no plain file")
            data = os.read(descriptor, MAX_BYTES + 1)
        finally:
            os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise _wrong(path, f"it has more than {MAX_BYTES:,} bytes")
    return data


def _wrong(path: Path, cause: str, hint: str = "Mend it, or remove it") -> InvalidArgument:
    return InvalidArgument(f"cannot use {path}: {cause}", hint=hint)


def _require_known(path: Path, prefix: str, said: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in said:
        if name not in known:
            raise _wrong(path, f"unknown key {ascii(prefix + name)[1:-1][:80]}", f"Known: {', '.join(known)}")


def _checked(path: Path, prefix: str, operation: Operation[Any, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` by the rules of `operation`, in their types and their order."""
    fields = tuple(one for one in operation.fields if one.name in given)
    try:
        typed = validate(operation.name, fields, given)
    except InvalidArgument as error:
        cause = error.message.removeprefix("cannot use ")
        raise _wrong(path, f"{prefix}{cause}", error.hint or "Mend it") from None
    return {name: typed[name] for name in given}


def _setup(path: Path, said: Mapping[str, Any], declared: Declared) -> list[str]:
    lines = said.get("setup", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines) or len(lines) > MAX_SETUP:
        raise _wrong(path, f"setup: expected a list of at most {MAX_SETUP} command lines")
    for line in lines:
        _checked(path, "setup: ", declared["exec_workspace"], {"command": line})
    return lines


def _services(path: Path, said: Mapping[str, Any], declared: Declared) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = said.get("services", {})
    tables = isinstance(services, dict) and all(isinstance(one, dict) for one in services.values())
    if not tables or len(services) > MAX_SERVICES:
        raise _wrong(path, f"services: expected at most {MAX_SERVICES} tables such as [services.web]")
    typed: dict[str, dict[str, Any]] = {}
    for name, given in services.items():
        prefix = f"services.{name[:64]}."
        _require_known(path, prefix, given, _SERVICE)
        if "command" not in given:
            raise _wrong(path, f"{prefix}command is missing")
        options = _checked(path, prefix, declared["start_service"], {"service_name": name, **given})
        typed[name] = {key: value for key, value in options.items() if key != "service_name"}
        try:
            wanted_ports(options.get(PORTS))
            if "readiness" in options:
                parse(options["readiness"])
        except (ValueError, InvalidArgument) as error:
            raise _wrong(path, f"{prefix.rstrip('.')}: {error}") from None
    return typed


def _widens(found: ProjectFile, declared: Declared) -> dict[str, str]:
    """What gives a workspace more than it gets unasked, each with its line."""
    defaults: dict[str, Field] = {one.name: one for one in declared["create_workspace"].fields}
    lines = {}
    for name, value in found.settings.items():
        usual = defaults[name].default
        if isinstance(usual, int) and not isinstance(usual, bool):
            if value > usual:
                lines[name] = f"{name} = {value} (default {usual})"
        elif name in NETWORK and name != HOSTS and value != usual:
            # Host names alone take something away, and belong to the policy.
            only = f", only {_shown(found.settings[HOSTS])}" if name == NETWORK[0] and HOSTS in found.settings else ""
            lines[name] = f"{name} = {_shown(value)}{only}"
    for name, service in found.services.items():
        if ports := service.get(PORTS):
            lines[f"services.{name}"] = f"services.{name}.{PORTS} = {_shown(ports)}: reached on 127.0.0.1 of this host"
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_file(root: Path, declared: Declared) -> ProjectFile:
    """The file of the project at `root`. Raises `NotFound` where there is none, and what `read_file` raises."""
    found = read_file(root, declared)
    if found is None:
        raise NotFound(f"cannot find {NAME} in {root}", hint=f"Write one: {', '.join(_ABOVE)} are its keys")
    return found
