"""Greeting a guest: the channel to its agent, for the node that made it and for the next one."""

from __future__ import annotations

import logging
import secrets
import time
from pathlib import Path

from pyro_mcp.errors import MachineFailed
from pyro_mcp.machines import exchange
from pyro_mcp.machines.driver import NetworkLink
from pyro_mcp.machines.qemu.stall import StallWatch, is_stalled
from pyro_mcp.machines.qemu.vmm import Vmm
from pyro_mcp.protocol.channel import Channel, ChannelClosed
from pyro_mcp.protocol.pipe import Pipe

log = logging.getLogger(__name__)

ANSWER_SECONDS = 30.0
ADOPT_SECONDS = 5.0
TOKEN = "token"


def dial(process: Vmm, network: NetworkLink | None) -> Channel:
    """A channel to the agent on which hello has been said. Raises `MachineFailed` or `ChannelClosed`."""
    handler = None if network is None else network.handler
    channel = Channel(
        Pipe(process.connect_agent().detach()),
        initiator=True,
        hello={"role": "node"},
        handler=handler,
        exchange=exchange.find(process.directory),
    )
    process.on_exit(lambda: channel.close("the guest's machine has exited"))
    channel.greet()
    return channel


def greet_adopted(process: Vmm, network: NetworkLink | None) -> Channel:
    """The channel to a guest that an earlier node has left. Raises `MachineFailed` when it does not answer in time, or
    is another one."""
    return _greet_later(process, network) if is_stalled(process) else _greet_now(process, network)


def _greet_now(process: Vmm, network: NetworkLink | None) -> Channel:
    channel, _ = _greet_again(process, network)
    _check_token(process.directory, channel)
    StallWatch(process, channel, process.directory)
    return channel


def _greet_later(process: Vmm, network: NetworkLink | None) -> Channel:
    """The channel to a guest that is stopped for want of disk space: it is greeted when it goes on."""

    def greet() -> None:
        try:
            channel.start(ANSWER_SECONDS)
            _check_token(process.directory, channel)
        except (MachineFailed, ChannelClosed, TimeoutError) as error:
            log.warning(f"cannot go on with the machine {process.directory.name}: {error}")
            process.terminate()
            raise ChannelClosed(str(error)) from None

    try:
        channel = dial(process, network)
    except ChannelClosed as error:
        raise MachineFailed(f"cannot reach the guest's agent: {error}") from None
    StallWatch(process, channel, process.directory, greet)
    return channel


def _greet_again(process: Vmm, network: NetworkLink | None) -> tuple[Channel, dict[str, object]]:
    """Greet a guest whose last node may have died in the middle of a frame: if it still waits for the rest of that, a
    second connection, made after the guest has seen the first one go, starts clean."""
    try:
        return _greet(process, network, ADOPT_SECONDS)
    except MachineFailed:
        time.sleep(0.2)
        return _greet(process, network, ANSWER_SECONDS)


def _greet(process: Vmm, network: NetworkLink | None, seconds: float) -> tuple[Channel, dict[str, object]]:
    """The open channel to the agent, and its hello. Raises `MachineFailed` when the guest does not answer in time."""
    try:
        channel = dial(process, network)
        return channel, channel.start(seconds)
    except (ChannelClosed, TimeoutError) as error:
        raise MachineFailed(f"cannot reach the guest's agent: {error}") from None


def _check_token(directory: Path, channel: Channel) -> None:
    """Raises `MachineFailed` when the guest on the channel is another one than the machine of `directory`."""
    try:
        reported = (directory / TOKEN).read_text()
    except OSError as error:
        raise MachineFailed(f"cannot know the guest: {error}") from None
    if not secrets.compare_digest(reported, str(channel.peer.get("token"))):
        raise MachineFailed("cannot know the guest: another one answers")
