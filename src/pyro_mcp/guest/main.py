"""The agent's entry. In a guest it is PID 1 on the virtio-serial port; on the host, a child on a Unix socket.

    main.py                          PID 1 in a guest
    main.py --listen PATH --root DIR one connection at a time on a Unix socket, commands start in DIR
    main.py --fd N --root DIR        one connection on an inherited descriptor, then exit

On the host there is no isolation at all: commands run as the caller, in a plain directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USAGE = "usage: python -m pyro_mcp.guest [--listen PATH | --fd N] --root DIR [--mark TEXT]"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. Returns an exit code on the host; as PID 1 it never returns."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        from pyro_mcp.guest import init

        init.run()
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    known = {"--listen", "--fd", "--root", "--mark"}
    one_way_in = ("--listen" in options) != ("--fd" in options)
    if len(arguments) % 2 or not one_way_in or not set(options) <= known or "--root" not in options:
        print(USAGE, file=sys.stderr)
        return 2
    from pyro_mcp.guest import hosted

    agent = hosted.HostedAgent(os.path.abspath(options["--root"]), options.get("--mark", ""))
    if "--fd" in options:
        return agent.serve_fd(int(options["--fd"]))
    return agent.listen(os.path.abspath(options["--listen"]))
