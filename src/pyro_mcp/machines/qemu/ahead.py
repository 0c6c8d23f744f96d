"""A guest restored ahead: it runs, has gone the ways of `configure` and `exec` once, and is nobody's.

It gets its clock, randomness, names, token, seed and network when it is handed out, by the driver. It ends by itself
when the node that made it goes, so that none outlives who would have handed it out.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable
from pathlib import Path

from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines.qemu.state import load_state
from pyro_mcp.machines.qemu.vmm import Vmm
from pyro_mcp.protocol.channel import Channel, ChannelClosed, RemoteError

ANSWER_SECONDS = 30.0
FIRST_COMMANDS = (["true"], ["/bin/bash", "-c", ":"], ["sh", "-c", ":"], ["true"])
"""What nearly every guest runs first. An environment may lack them: that is an answer too."""


class QemuAhead:
    """A QEMU that waits for the state in the file `state`, and the channel on which hello has been said."""

    def __init__(self, process: Vmm, channel: Channel, state: Path) -> None:
        self.process = process
        self.channel = channel
        self._state = state

    @property
    def pid(self) -> int:
        return self.process.pid

    def warm(self, enough: Callable[[], bool]) -> None:
        try:
            load_state(self.process, self._state)
            self.channel.start(ANSWER_SECONDS)
            for argv in FIRST_COMMANDS:
                if enough():
                    return
                entropy = base64.b64encode(secrets.token_bytes(64)).decode()
                params = {"entropy": entropy, "argv": argv, "env": {}, "timeout_seconds": ANSWER_SECONDS}
                self.channel.call("warm", params, ANSWER_SECONDS)
        except (ChannelClosed, RemoteError, TimeoutError) as error:
            raise MachineFailed(f"cannot warm the guest: {error}") from None

    def on_exit(self, callback: Callable[[], None]) -> None:
        self.process.on_exit(callback)

    def terminate(self) -> None:
        self.process.terminate()


def put_seed(process: Vmm, seed: Path) -> None:
    """Put the image `seed` behind the device that was blank. Nothing in the guest has looked at it yet."""
    file = {"driver": "file", "node-name": "seed-file", "filename": str(seed), "read-only": True, "discard": "unmap"}
    node = {"driver": "raw", "node-name": "seed", "read-only": True, "discard": "unmap", "file": "seed-file"}
    monitor = process.connect_monitor()
    try:
        monitor.execute("blockdev-add", **file)
        monitor.execute("blockdev-reopen", options=[node])
    finally:
        monitor.close()
