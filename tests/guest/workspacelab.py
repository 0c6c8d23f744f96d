"""How the tests of /workspace on a real guest speak to its agent."""

from __future__ import annotations

from typing import Any

from pyro_mcp.machines.qemu.driver import QemuMachine
from pyro_mcp.protocol.channel import Channel, Data, Event, StreamResult


def talk(channel: Channel, verb: str, params: dict[str, Any], data: bytes = b"") -> tuple[Any, bytes, list[Any]]:
    stream = channel.open(verb, params)
    stream.send(data)
    stream.end()
    output, events = bytearray(), []
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, Event):
            events.append(message.value)
        elif isinstance(message, StreamResult):
            return message.value, bytes(output), events
    raise AssertionError("no result")


def sh(machine: QemuMachine, line: str, **params: Any) -> str:
    stream = machine.channel.open("exec", {"argv": ["sh", "-ec", line], "timeout_seconds": 60, **params})
    output = bytearray()
    for message in stream.messages():
        if isinstance(message, Data):
            output += message.data
        elif isinstance(message, StreamResult):
            assert message.value["exit_code"] == 0, output
    return output.decode().strip()


def changed(machine: QemuMachine) -> dict[str, str]:
    return {event["path"]: event["status"] for event in talk(machine.channel, "changes", {})[2]}
