"""Mcp instructions: what a server tells a model before its first call; some hosts cut them at 2 kB."""

from __future__ import annotations

from collections.abc import Container

INSTRUCTIONS = """\
Runs commands in disposable Linux virtual machines. vm_run starts a fresh machine, runs one command and deletes the
machine: nothing is kept between calls, and nothing of the user's computer is visible inside. Environments: debian:12
(git), debian:12-base (minimal), debian:12-build (git, gcc, make, cmake, python3). A non-zero exit_code is a result, not
a failure of the tool. Commands are killed after timeout_seconds (default 30). Long output is cut in the middle and
says so. The first use of an environment installs it, which takes minutes and reports progress."""
WORKSPACE_INSTRUCTIONS = """\

Workspaces keep their files in /workspace between calls: workspace_create (give seed_path to start from a directory or
archive of the user's), then workspace_exec, workspace_file_*, workspace_patch_apply; look at workspace_diff, take work
out with workspace_export, and workspace_delete when done. For a command that takes longer than a minute give
wait_seconds and follow it with workspace_logs."""
LIVING_INSTRUCTIONS = """\

What keeps state or wants a terminal: shell_open, shell_write, then shell_read with plain, wait_for_idle_ms and the
next_cursor of the read before. What should go on: service_start, not "&" in a command; published_ports need
network_policy "egress+published-ports". There is no network unless workspace_create gets a network_policy; a refused
connection is named in the result with the option that would allow it, which the user may have to grant."""


def instructions(tools: Container[str]) -> str:
    """The instructions for a model: the tools it sees, and no others; it reads this every time."""
    text = INSTRUCTIONS
    if "workspace_create" in tools:
        text += WORKSPACE_INSTRUCTIONS
    if "shell_open" in tools and "service_start" in tools:
        text += LIVING_INSTRUCTIONS
    return text
