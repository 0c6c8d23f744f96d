"""port: the virtio-serial port that leads to the host.

The port is opened once and kept: closing it would drop what the host has already sent. While no host is connected,
reading says end-of-file and polling says hang-up at once, so waiting needs an edge: epoll in edge-triggered
mode reports the moment the port becomes writable, which is when a host connects.
"""

from __future__ import annotations

import errno
import os
import select

from pyro_mcp.guest.boot.sysfs import find_device
from pyro_mcp.protocol.pipe import Pipe

PORT_NAME = "pyro.agent"
READ_PIECE, WRITE_PIECE = 4096, 32768


class Port:
    """The named port, shared by one connection after another."""

    def __init__(self, name: str = PORT_NAME) -> None:
        self._fd = os.open(find(name), os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        self._edge = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._edge.register(self._fd, select.EPOLLOUT | select.EPOLLET)

    def next_connection(self) -> Pipe:
        """Wait until a host is connected; a pipe to it."""
        while not self._connected():
            self._edge.poll()
        return Pipe(os.dup(self._fd), read_piece=READ_PIECE, write_piece=WRITE_PIECE)

    def _connected(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, 0)
        return not any(events & select.POLLHUP for _, events in poll.poll(0))


def find(name: str) -> str:
    """The device of the port called `name`. Its number is not always the same. Raises `FileNotFoundError`."""
    found = find_device("/sys/class/virtio-ports", "name", name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"no virtio port is called {name!r}")
    return found
