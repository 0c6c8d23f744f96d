"""Asking: one request to the agent in a workspace's machine, of whose answer nothing is believed unchecked.

Data may flow both ways. It ends when the agent answers, breaks the rules or falls silent, and when the caller leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import msgspec

from pyro_mcp.engine.cancel import SILENT, beside, cancellable, patient
from pyro_mcp.errors import MachineFailed, ProtocolError, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.operations.call import Call
from pyro_mcp.protocol.channel import ChannelClosed, Data, Event, RemoteError, Result, Stream
from pyro_mcp.protocol.stream import BODY_MAX

T = TypeVar("T")

SILENCE_SECONDS = 60.0
"""An agent that neither says nor takes anything for so long is asked whether it lives."""
PATIENCE_SECONDS = 600.0
"""How long one that lives may take to say or take something: a busy host, a large tree, a full disk."""
INLINE_BYTES = 256 * 1024
"""So much fits into a fresh stream without waiting, and needs no thread of its own."""
_OUTPUT = 1
_IN_WORDS = {
    "changes": "compare /workspace with the baseline",
    "file_list": "list files",
    "file_search": "search files",
    "overlay_load": "fill /workspace",
    "overlay_pack": "export from /workspace",
    "overlay_save": "save /workspace",
    "shell_list": "list shells",
    "tree_apply": "apply the patch",
    "tree_pack": "export from /workspace",
    "tree_unpack": "import into /workspace",
}
"""What the agent's verbs are to people; those that are missing read well the other way round."""


def ask(
    call: Call[Any],
    machine: Machine,
    verb: str,
    params: dict[str, Any],
    kind: type[T],
    *,
    send: bytes | Iterable[bytes] | None = None,
    take: Callable[[bytes], None] | None = None,
    hear: Callable[[dict[str, Any]], None] | None = None,
) -> T:
    """The agent's answer to `verb` as a `kind`. `send` is its input; `take` gets its output and `hear` its events.

    Raises what `converse` raises, and what `take` and `hear` raise, after having cancelled the request.
    """
    conversation = converse(call, machine, verb, params, send=send)
    try:
        while True:
            message = next(conversation)
            if isinstance(message, bytes):
                if take is not None:
                    take(message)
            elif hear is not None:
                hear(message)
    except StopIteration as done:
        return checked(verb, done.value, kind)
    finally:
        conversation.close()


Conversation = Generator[bytes | dict[str, Any], None, dict[str, Any]]
"""Output as bytes and events as objects, in the agent's order; it returns the answer. To close it is to cancel."""


def converse(
    call: Call[Any],
    machine: Machine,
    verb: str,
    params: dict[str, Any],
    *,
    send: bytes | Iterable[bytes] | None = None,
) -> Conversation:
    """Ask, and hand out what comes as it is wanted, so that a slow taker slows the agent.

    Raises what the agent refuses, what `send` raises as `PyroError`, `Cancelled`, and `MachineFailed` when the machine
    ended or its agent fell silent.
    """
    feeder: _Feeder | None = None
    try:
        body = send if isinstance(send, bytes) and len(send) <= BODY_MAX else None
        stream = machine.channel.open(verb, params, body)
        with cancellable(call, machine, stream):
            feeder = _feed(stream, send if body is None else None)
            answer = yield from _messages(machine, stream, feeder)
    except ChannelClosed as error:
        call.check()
        raise _gone(verb, machine, str(error)) from None
    except TimeoutError as error:
        why = f"the agent of {machine.machine_id} {error}"
        raise MachineFailed(f"cannot {_in_words(verb)}: {why}", hint=SILENT) from None
    except RemoteError as error:
        call.check()
        raise (feeder.failure if feeder and feeder.failure else PyroError.from_wire(error.payload)) from None
    call.check()
    return answer


def checked(verb: str, answer: Any, kind: type[T]) -> T:
    """What an agent said as a `kind`. Raises `ProtocolError` when it does not fit."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"cannot use the agent's answer to {verb}: {error}") from None


def _messages(machine: Machine, stream: Stream, feeder: _Feeder | None) -> Conversation:
    sent = -1
    try:
        while True:
            try:
                message = patient(machine, stream, SILENCE_SECONDS, PATIENCE_SECONDS)
            except TimeoutError:
                if feeder is None or feeder.sent == sent:
                    raise
                sent = feeder.sent
                continue
            if isinstance(message, Result):
                return message.value
            if isinstance(message, Data) and message.tag == _OUTPUT:
                yield bytes(message.data)
            elif isinstance(message, Event):
                yield message.value
    except (GeneratorExit, TimeoutError):
        stream.cancel()
        raise


class _Feeder:
    """Sends a request's input. `failure` is what went wrong on this side; the request is cancelled then."""

    def __init__(self, stream: Stream, pieces: Iterable[bytes]) -> None:
        self.sent = 0
        self.failure: PyroError | None = None
        self._stream = stream
        self._pieces = pieces

    def run(self) -> None:
        over = False
        try:
            for piece in self._pieces:
                self._stream.send(piece)
                self.sent += len(piece)
            self._stream.end()
            over = True
        except ChannelClosed:
            # The agent has answered without taking all, or the receiving side knows that it is gone.
            over = True
        except PyroError as error:
            self.failure = error
        except BaseException:
            # A bug of ours, which this thread's log tells; whoever waits must not take it for a cancelled request.
            self.failure = PyroError("cannot read what is to be sent: see the log of the node")
            raise
        finally:
            if not over:
                self._stream.cancel()
            if isinstance(self._pieces, Generator):
                # Whoever looks at the failure must not keep the source's files open.
                self._pieces.close()


def _feed(stream: Stream, send: bytes | Iterable[bytes] | None) -> _Feeder | None:
    if send is None:
        return None
    feeder = _Feeder(stream, (send,) if isinstance(send, bytes) else send)
    if isinstance(send, bytes) and len(send) <= INLINE_BYTES:
        feeder.run()
    else:
        beside(stream, feeder.run, "feeder")
    return feeder


def _in_words(verb: str) -> str:
    noun, _, action = verb.partition("_")
    return _IN_WORDS.get(verb) or f"{action} the {noun}"


def _gone(verb: str, machine: Machine, cause: str) -> MachineFailed:
    return MachineFailed(
        f"cannot {_in_words(verb)}: the machine {machine.machine_id} is gone: {cause}",
        hint="Start the workspace again; /workspace is kept.",
    )
