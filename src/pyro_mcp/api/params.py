"""Params: the parameter types that several verbs share, each with its help and range."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from pyro_mcp.model.cursor import CURSOR, CURSOR_RULE
from pyro_mcp.model.workspace_exec import Until
from pyro_mcp.operations.fields import UNBOUNDED, Param
from pyro_mcp.operations.inputs import Input

EnvironmentName = Annotated[
    str,
    Param(
        help="debian:12 (git), debian:12-base, debian:12-build (git gcc make cmake python3)",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$",
        rule="a name such as debian:12 (letters, digits, and . _ : / - up to 128 characters)",
        metavar="ENV",
        cli="positional",
    ),
]
VmId = Annotated[
    str,
    Param(
        help="machine id from <<create_vm>>",
        pattern=r"^vm-[0-9a-f]{12}$",
        rule="an id such as vm-0123456789ab",
        metavar="VM",
        cli="positional",
    ),
]
# `max_bytes` is what Linux takes as one argument, and fits a request to the agent however it is escaped.
Command = Annotated[
    str | list[str],
    Param(
        help="what to run: a line for bash -c (/bin/sh where there is no bash; no login shell), or a list of words that"
        " are run as they stand",
        min_length=1,
        max_bytes=131_071,
        metavar="CMD",
        cli="command",
        tool_forms=(
            ("command", "a line for bash -c (/bin/sh where there is no bash); this or argv"),
            ("argv", "instead of a line, the program and its arguments, run as they stand without a shell"),
        ),
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
Network = Annotated[
    bool,
    Param(
        help="let the machine open connections to public addresses, and look up names", tool="full", opens_network=True
    ),
]
AllowHosts = Annotated[
    list[str],
    Param(
        help="allow only these host names, such as example.com, or *.example.com for every name below it; an empty"
        " list allows nothing",
        flag="--allow-host",
        empty="allow nothing",
        metavar="NAME",
        tool="full",
        max_length=256,
        opens_network=True,
    ),
]
AllowAddresses = Annotated[
    list[str],
    Param(
        help="allow this address or network though it is not public, such as 10.1.0.0/16; loopback, metadata services"
        " and this host's own addresses only when given exactly",
        flag="--allow-address",
        metavar="CIDR",
        tool="full",
        max_length=256,
        opens_network=True,
    ),
]
HostCa = Annotated[
    bool, Param(help="let the machine trust the certificate authorities that this host trusts", tool="full")
]
AllowHostCompat = Annotated[
    bool,
    Param(
        help="run as a plain process of this host, without isolation, when no machine can boot",
        tool="host_compat",
    ),
]
Stdin = Annotated[
    Input | None,
    Param(
        help="forward standard input to the command",
        cli="stdin",
        stream=True,
        tool_help="text for its standard input, up to 1 MiB; without it the input is empty",
        tool_max=1024 * 1024,
    ),
]
Platform = Annotated[
    Literal["linux-x86_64", "linux-aarch64"], Param(help="look at this host as that platform", metavar="PLATFORM")
]
WorkspaceRef = Annotated[
    str,
    Param(
        help="workspace id, or its name",
        min_length=1,
        max_length=64,
        metavar="W",
        cli="positional",
    ),
]
WorkspaceName = Annotated[
    str, Param(help="a name to call it by, up to 64 printable characters", min_length=1, max_length=256, metavar="NAME")
]
Labels = Annotated[
    dict[str, str],
    Param(help="labels, each a short key and a value", flag="--label", metavar="K=V"),
]
LabelKeys = Annotated[list[str], Param(help="keys of labels to remove", flag="--clear-label", metavar="K")]
ClearName = Annotated[bool, Param(help="let it have no name")]
WorkspaceTtlSeconds = Annotated[
    int, Param(help="seconds after which the workspace is deleted by itself", ge=1, le=31_536_000, metavar="S")
]
PageLimit = Annotated[int, Param(help="most to list", ge=1, le=10_000, metavar="N", tool_max=40)]
PageOffset = Annotated[
    int,
    Param(help="how many to pass over, such as the last next_offset", ge=0, le=UNBOUNDED, metavar="N"),
]
SeedPath = Annotated[
    str,
    Param(
        help="directory, .tar, .tar.gz or .tgz of this host that /workspace starts with",
        min_length=1,
        max_length=4096,
        metavar="PATH",
        host_path=True,
        here_when=("git",),
    ),
]
Git = Annotated[
    bool,
    Param(
        help="take the whole git checkout around <<create_workspace.seed_path>>: the files as they are, but for ignored"
        " ones, and a .git that works inside"
    ),
]
RepoUrl = Annotated[
    str,
    Param(
        help="start with a clean clone of this repository (https, ssh, git or file URL, user@host:path or an absolute"
        " path), which is kept and fetched again when it is older than ten minutes",
        min_length=1,
        max_length=2048,
        metavar="URL",
        tool="never",
        secret=True,
    ),
]
RepoRef = Annotated[
    str,
    Param(
        help="branch, tag or commit of <<create_workspace.repo_url>>; what its HEAD names if none is given",
        min_length=1,
        max_length=255,
        metavar="REF",
        tool="never",
    ),
]
Empty = Annotated[
    bool, Param(help="start with nothing in /workspace instead of the user's project", cli="never", tool="project")
]
ProjectFileToo = Annotated[
    bool,
    Param(
        help="apply the pyro.toml in <<create_workspace.seed_path>>, as always with <<create_workspace.git>>",
        cli="never",
        tool="never",
    ),
]
ScratchMib = Annotated[
    int,
    Param(help="size in MiB of the disk that takes what is written", ge=64, le=65_536, metavar="MIB"),
]
Policy = Annotated[
    Literal["off", "egress", "egress+published-ports"],
    Param(help="what the workspace may reach", tool="full", metavar="POLICY", opens_network=True),
]
Secrets = Annotated[
    dict[str, str],
    Param(
        help="values that commands get by name and nothing else shows",
        flag="--secret",
        metavar="NAME=VALUE",
        tool="full",
        secret=True,
    ),
]
SecretFiles = Annotated[
    dict[str, str],
    Param(
        help="the same from UTF-8 files of this host, without the line break at their end; unlike a value on a command"
        " line, no process list shows them",
        flag="--secret-file",
        metavar="NAME=PATH",
        tool="full",
        host_path=True,
    ),
]
SecretEnv = Annotated[
    list[str] | dict[str, str],
    Param(
        help="secrets to put into the command's environment: NAME, or NAME=ENV_VAR to call it otherwise there",
        metavar="NAME[=ENV_VAR]",
        max_length=64,
        tool="full",
    ),
]
WaitSeconds = Annotated[
    int,
    Param(
        help="answer after so many seconds even if it is not done; the command goes on by itself",
        ge=0,
        le=600,
        metavar="S",
    ),
]
FollowSeconds = Annotated[
    int,
    Param(
        help="wait up to so many seconds for what <<logs_workspace.until>> names (30 for done, unless given)",
        ge=0,
        le=600,
        metavar="S",
    ),
]
UntilWhen = Annotated[
    Until,
    Param(
        help="what to wait for: the first output past the cursor, a page of it (<<logs_workspace.max_bytes>>), or that"
        " the command is done, which ends any waiting",
        metavar="WHAT",
        tool_default="page",
    ),
]
Sequence = Annotated[int, Param(help="number of the one command to look at", ge=1, le=1_000_000_000, metavar="N")]
Cursor = Annotated[
    str,
    Param(
        help="where to read on, the next_cursor of an earlier answer; 0:0 is the beginning",
        pattern=CURSOR,
        rule=CURSOR_RULE,
        metavar="CURSOR",
    ),
]
PageBytes = Annotated[
    int,
    Param(
        help="with <<logs_workspace.cursor>>: most bytes of output to answer with",
        ge=16,
        le=1 << 20,
        metavar="N",
        tool_max=8_000,
    ),
]
EndCommand = Annotated[bool, Param(help="end that command and everything it has started")]
LogLimit = Annotated[
    int, Param(help="how many of the latest commands to list", ge=1, le=1000, metavar="N", tool_max=20)
]
_CWD = Param(
    help="directory to start in: absolute, or relative to /workspace", min_length=1, max_length=4000, metavar="PATH"
)
Cwd = Annotated[str, _CWD]
HomeCwd = Annotated[
    str, replace(_CWD, help="directory to start in: absolute, or relative to the home directory, which it is by itself")
]
# `max_bytes`: with the longest command it fits a request to the agent, however both are escaped.
Env = Annotated[
    dict[str, str],
    Param(help="variables to add to its environment: texts by their names", metavar="NAME=VALUE", max_bytes=32_768),
]
WorkspacePath = Annotated[
    str,
    Param(
        help="path under /workspace, absolute or relative to it",
        min_length=1,
        max_length=4096,
        metavar="PATH",
        cli="positional",
    ),
]
