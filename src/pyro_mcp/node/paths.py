"""Where a node lives: the private state directory, its lock, its socket, and who may talk to it.

One node per user and state directory. The node holds `node.lock` for its whole life; whoever starts or ends one holds
`start.lock` meanwhile, so that a start and an idle exit never overlap.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from pyro_mcp.errors import DiskFull, PermissionDenied
from pyro_mcp.settings import Settings
from pyro_mcp.system.atomic import disk_errors, write_file
from pyro_mcp.system.reserve import Reserve
from pyro_mcp.system.sockets import connect_unix

_log = logging.getLogger(__name__)

MAX_CONTROL = 32 * 1024 * 1024
"""Cap of one JSON payload between client and node, in bytes: two captured streams of 1 MiB, escaped at worst six-fold,
and room. Both sides must pass it to their `Channel`."""

_PEER = struct.Struct("3i")


@dataclass(frozen=True)
class NodePaths:
    """The files of one node."""

    directory: Path

    @staticmethod
    def of(settings: Settings) -> NodePaths:
        return NodePaths(settings.state_dir)

    @property
    def socket_path(self) -> Path:
        return self.directory / "node.sock"

    @property
    def lock(self) -> Path:
        return self.directory / "node.lock"

    @property
    def start_lock(self) -> Path:
        return self.directory / "start.lock"

    @property
    def log(self) -> Path:
        return self.directory / "node.log"

    @property
    def about(self) -> Path:
        return self.directory / "node.json"

    @property
    def store(self) -> Path:
        return self.directory / "pyro.db"

    def prepare(self) -> None:
        """Make the directory and see to it that only this user may enter. Raises `PermissionDenied`."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.directory.stat()
        except OSError as error:
            raise PermissionDenied(
                f"cannot use the state directory {self.directory}: {error.strerror}",
                hint="Name another one with PYRO_STATE_DIR",
            ) from error
        if status.st_uid != os.geteuid():
            raise PermissionDenied(
                f"cannot use the state directory {self.directory}: it belongs to user {status.st_uid}",
                hint="Name one of your own with PYRO_STATE_DIR",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            self.directory.chmod(0o700)

    def connect(self) -> socket.socket | None:
        """A connection to the node that listens here, None when none does. Raises `PermissionDenied`."""
        try:
            connection = connect_unix(self.socket_path)
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            return None
        except OSError as error:
            raise PermissionDenied(f"cannot reach the node at {self.socket_path}: {error.strerror}") from error
        uid = peer(connection)[1]
        if uid != os.geteuid():
            connection.close()
            raise PermissionDenied(f"cannot trust the node at {self.socket_path}: user {uid} runs it")
        return connection


@dataclass(frozen=True)
class About:
    """What a node says of itself on disk before it listens, for clients of any version. `settings` are those it was
    started with, as text."""

    pid: int
    version: str
    executable: str
    settings: dict[str, str | None] = field(default_factory=dict)

    def save(self, paths: NodePaths) -> None:
        """On a full disk it takes the place of the last node, which is gone, or of the store's reserve. Where neither
        is left it stays unsaid: a node has to be there, so that something can be deleted. Raises `PyroError`."""
        text = json.dumps(asdict(self)).encode()
        ways: list[Callable[[], None]] = [partial(paths.about.unlink, missing_ok=True), Reserve(paths.store).release]
        for make_room in ways:
            try:
                self._write(paths.about, text)
                return
            except DiskFull:
                make_room()
        try:
            self._write(paths.about, text)
        except DiskFull as error:
            _log.warning(error.message)

    @staticmethod
    def _write(path: Path, text: bytes) -> None:
        with disk_errors("say who this node is"):
            write_file(path, text)

    @staticmethod
    def load(paths: NodePaths) -> About | None:
        """What the latest node said; None when nothing readable is there."""
        try:
            values = json.loads(paths.about.read_text())
            settings = dict(values.get("settings") or {})
            return About(int(values["pid"]), str(values["version"]), str(values["executable"]), settings)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user id of the other end of a Unix socket, as the kernel recorded them."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid
