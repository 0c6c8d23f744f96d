"""Params: the parameter types that several verbs share, each with its help and range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pyro_mcp.operations.fields import Param

EnvironmentName = Annotated[
    str,
    Param(
        help="environment to start from, such as debian:12",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$",
        rule="a name such as debian:12 (letters, digits, and . _ : / - up to 128 characters)",
        metavar="ENV",
        cli="positional",
    ),
]
VmId = Annotated[
    str,
    Param(
        help="id of the machine, as vm_create returned it",
        pattern=r"^vm-[0-9a-f]{12}$",
        rule="an id such as vm-0123456789ab",
        metavar="VM",
        cli="positional",
    ),
]
Command = Annotated[
    str | list[str],
    Param(
        help="what to run: a line for /bin/sh -c, or a list of words that are run as they stand",
        min_length=1,
        metavar="CMD",
        cli="command",
    ),
]
VcpuCount = Annotated[int, Param(help="virtual processors of the machine", ge=1, le=32, metavar="N")]
MemMib = Annotated[int, Param(help="memory of the machine in MiB", ge=128, le=1_048_576, metavar="MIB")]
TimeoutSeconds = Annotated[
    int, Param(help="seconds after which the command and all its children are killed", ge=1, le=86_400, metavar="S")
]
TtlSeconds = Annotated[
    int, Param(help="seconds after which the machine is deleted by itself", ge=1, le=604_800, metavar="S")
]
Network = Annotated[bool, Param(help="let the machine open connections to the outside", tool="full")]
AllowHostCompat = Annotated[
    bool,
    Param(
        help="run as a plain process of this host, without isolation, when no machine can boot",
        tool="host_compat",
    ),
]
Stdin = Annotated[
    bytes | Iterable[bytes] | None,
    Param(help="forward standard input to the command", cli="stdin", tool="never", stream=True),
]
Platform = Annotated[
    Literal["linux-x86_64", "linux-aarch64"], Param(help="look at this host as that platform", metavar="PLATFORM")
]
