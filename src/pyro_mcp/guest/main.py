"""The agent's entry. In a guest it is PID 1 on the virtio-serial port; on the host, a child on a Unix socket.

    main.py                          PID 1 in a guest
    main.py --listen PATH --root DIR one connection at a time on a Unix socket, commands start in DIR
    main.py --listener N --root DIR  the same on an inherited listening socket
    main.py --fd N --root DIR        one connection on an inherited descriptor, then exit

On the host there is no isolation at all: commands run as the caller, in a plain directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

USAGE = (
    "usage: python -m pyro_mcp.guest [--listen PATH | --listener N | --fd N] --root DIR [--mark TEXT] [--baseline DIR]"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent. Returns an exit code on the host; as PID 1 it never returns."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments:
        from pyro_mcp.guest.boot import init

        init.run()
    options = dict(zip(arguments[::2], arguments[1::2], strict=False))
    ways_in = {"--listen", "--listener", "--fd"} & set(options)
    if len(arguments) % 2 or len(ways_in) != 1 or set(options) - ways_in - {"--mark", "--baseline"} != {"--root"}:
        print(USAGE, file=sys.stderr)
        return 2
    from pyro_mcp.guest.boot import hosted

    baseline = options.get("--baseline")
    agent = hosted.HostedAgent(
        os.path.abspath(options["--root"]),
        options.get("--mark", ""),
        None if baseline is None else os.path.abspath(baseline),
    )
    if "--fd" in options:
        return agent.serve_fd(int(options["--fd"]))
    if "--listener" in options:
        return agent.serve_listener(hosted.inherited_listener(int(options["--listener"])))
    return agent.listen(os.path.abspath(options["--listen"]))
