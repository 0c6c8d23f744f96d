"""Instructions: what a server tells a model before its first call; some hosts cut them at 2 kB."""

from __future__ import annotations

from collections.abc import Container

MACHINES = """\
Runs code safely in disposable Linux virtual machines: isolated sandboxes that, unlike containers, have a kernel of
their own. vm_run starts a fresh one, runs one command and deletes it: nothing is kept, and nothing of the user's
computer is visible inside. Environments: debian:12 (git), debian:12-base (minimal), debian:12-build (git, gcc, make,
cmake, python3). A non-zero exit_code is a result, not a failure of the tool. Commands are killed after timeout_seconds
(default 30). Long output is cut in the middle and says so. What an answer leaves out is empty, false, usual, or as you
asked. The first use of an environment installs it, which takes minutes; a call that is out of time may be repeated, the
installation goes on."""
WORKSPACES = """\

Workspaces keep their files in /workspace between calls: workspace_create (give seed_path to start from a directory or
archive of the user's), then workspace_exec, workspace_file_*, workspace_patch_apply. Each command starts anew: cd and
export do not last. For one that takes longer than a minute give wait_seconds and follow it with workspace_logs. Work
goes home as workspace_diff (a patch) or workspace_export (files); workspace_delete when done."""
PROJECT = """\

A new workspace holds the user's project{repository}, unless another seed_path or empty is given."""
WITH_REPOSITORY, WITHOUT = ", with its git repository", " as plain files; git has no repository there"
NO_SERVICES = """\

To keep a server running, start it by workspace_exec with wait_seconds 0 and a long timeout_seconds."""
SERVICES = """\

What keeps state or wants a terminal: shell_open, shell_write, then shell_read with plain, wait_for_idle_ms and the
next_cursor of the read before. What should go on, such as a server: service_start, not "&" in a command."""
NO_NETWORK = """\

There is no network inside, and no tool here opens one; the user can start this server with --profile workspace-full."""
NETWORK = """\

There is no network inside unless workspace_create gets a network_policy, "egress+published-ports" for published_ports;
a refused connection is named in the result with the option that would allow it, which the user may have to grant."""


def instructions(tools: Container[str], *, project: bool = False, repository: bool = False) -> str:
    """The instructions for a model: the tools it sees, and no others; it reads this every time. `project`: workspaces
    start with the user's, and its `repository`."""
    full = "service_start" in tools and "shell_open" in tools
    text = MACHINES
    if "workspace_create" in tools:
        text += WORKSPACES
        text += PROJECT.format(repository=WITH_REPOSITORY if repository else WITHOUT) if project else ""
        text += SERVICES if full else NO_SERVICES
    return text + (NETWORK if full else NO_NETWORK)
