"""A server of real agents that stop at the N-th change they make to their disk.

Each request on standard input, a socket, is JSON {root, mode, number} with one end of a socketpair; a forked process is
then the agent there, and the answer, once it has ended, is its exit status. Counting begins with what the first request
stages, or with the agent itself for the mode's sake of `recover-…`. What Python reports by itself (names made, moved
and removed, files opened for writing, modes) comes from its audit hook, writing from a wrapper, flushing from the
injected disk. Modes: `kill`; `ENOSPC` and `EIO` fail that one change; `broken` fails it and all after it until the file
`healed` stands beside the root.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

from pyro_mcp.guest.boot.hosted import HostedAgent
from pyro_mcp.guest.tree.fsync_policy import KernelSync

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_EVENTS = {
    *("os.mkdir", "os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.chmod", "os.chown", "os.utime"),
    *("os.truncate", "os.setxattr"),
}
_write = os.write


class Faults(KernelSync):
    """A disk that gives up, and all other changes with it."""

    def __init__(self) -> None:
        self.mode = "none"
        self.left = 0
        self.armed = False
        self.healed = ""

    def arm(self, root: str, mode: str, number: int) -> None:
        self.armed = mode.startswith("recover-")
        self.mode, self.left = mode.removeprefix("recover-"), number
        self.healed = os.path.join(os.path.dirname(root), "healed")

    def all(self, fd: int) -> None:
        self.take()

    data = file = all

    def audit(self, event: str, args: tuple[Any, ...]) -> None:
        if self.mode == "none":
            return
        opened = event == "open" and isinstance(args[2], int) and args[2] & _WRITES
        if not opened and event not in _EVENTS:
            return
        if str(args[0]).startswith("/dev/"):
            return
        self.armed = self.armed or (isinstance(args[0], bytes) and args[0].startswith(b".pyro-stage-"))
        self.take()

    def write(self, fd: int, data: Any) -> int:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            self.take()
        return _write(fd, data)

    def take(self) -> None:
        if not self.armed or self.mode == "none":
            return
        self.left -= 1
        if self.left > 0 or (self.left < 0 and self.mode != "broken"):
            return
        if self.mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        mode, self.mode = self.mode, "none"
        if mode == "broken" and os.path.exists(self.healed):
            return
        self.mode = mode
        number = errno.EIO if mode == "broken" else getattr(errno, mode)
        raise OSError(number, os.strerror(number))


def main() -> None:
    faults = Faults()
    sys.addaudithook(faults.audit)
    os.write = faults.write
    server = socket.socket(fileno=0)
    while True:
        message, fds, _, _ = socket.recv_fds(server, 65536, 1)
        if not message:
            return
        request = json.loads(message)
        pid = os.fork()
        if not pid:
            server.detach()
            os.close(0)
            faults.arm(request["root"], request["mode"], request["number"])
            code = HostedAgent(request["root"], "", disk=faults).serve_fd(fds[0])
            os._exit(code)
        os.close(fds[0])
        _, status = os.waitpid(pid, 0)
        server.send(json.dumps({"status": os.waitstatus_to_exitcode(status), "reached": False}).encode())


main()
