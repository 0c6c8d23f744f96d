"""The one request path to a machine's agent. Every answer is checked before use.

Data may flow both ways. A request ends when the agent answers, breaks the rules, falls silent or is late, and when the
caller leaves; whichever it is, the agent learns of it, and the error says what could not be done and why.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

import msgspec

from pyro_mcp.engine.cancel import SILENT, beside, cancellable, patient
from pyro_mcp.errors import MachineFailed, ProtocolError, PyroError
from pyro_mcp.machines.driver import Machine
from pyro_mcp.model.agent_verbs import in_words, refused_in_words
from pyro_mcp.operations.call import STDOUT, Call
from pyro_mcp.protocol.channel import ChannelClosed, Data, Event, Message, RemoteError, Stream, StreamResult
from pyro_mcp.protocol.stream import BODY_MAX

T = TypeVar("T")

SILENCE_SECONDS = 60.0
"""An agent that neither says nor takes anything for so long is asked whether it lives."""
PATIENCE_SECONDS = 600.0
"""How long one that lives may take to say or take something: a busy host, a large tree, a full disk."""
INLINE_BYTES = 256 * 1024
"""So much fits into a fresh stream without waiting, and needs no thread of its own."""
RESTART = "Start the workspace again; /workspace is kept."
Input = bytes | Iterable[bytes]
Messages = Generator[Data | Event, None, dict[str, Any]]
"""Output and events in the agent's order; it returns the answer."""


class AgentClient:
    """Requests to the agent of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def request(
        self,
        call: Call[Any],
        verb: str,
        params: dict[str, Any],
        kind: type[T],
        *,
        send: Input | None = None,
        on_data: Callable[[bytes], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        seconds: float | None = None,
        patience: float | None = None,
        purpose: str | None = None,
    ) -> T:
        """The agent's answer to `verb` as a `kind`. `send` is its input; `on_data` gets its output, `on_event` its
        events.

        Raises what `exchange` raises, `ProtocolError` for an answer that is no `kind`, and what the callbacks raise.
        """

        def take(message: Data | Event) -> None:
            if isinstance(message, Data):
                if on_data is not None and message.tag == STDOUT:
                    on_data(bytes(message.data))
            elif on_event is not None:
                on_event(message.value)

        with self.exchange(call, verb, params, send=send, purpose=purpose) as exchange:
            answer = exchange.answer(take, seconds, patience)
        return checked(verb, answer, kind)

    def stream(self, call: Call[Any], verb: str, params: dict[str, Any], *, send: Input | None = None) -> Messages:
        """The same, handed out as it is wanted, so that a slow taker slows the agent. To close it is to cancel."""
        with self.exchange(call, verb, params, send=send) as exchange:
            answer = yield from exchange.messages()
        return answer

    @contextlib.contextmanager
    def exchange(
        self,
        call: Call[Any],
        verb: str,
        params: dict[str, Any],
        *,
        send: Input | None = None,
        purpose: str | None = None,
        hint: Callable[[], str] = lambda: RESTART,
    ) -> Iterator[AgentExchange]:
        """While inside, the request is under way; to leave by an error is to cancel it. `purpose` completes "cannot",
        `hint` says what to do when the machine is gone.

        Raises what the agent refuses (its `__cause__` is then the `RemoteError`), what `send` raises as `PyroError`,
        `Cancelled`, and `MachineFailed` when the machine ended, or its agent fell silent or is late.
        """
        purpose = purpose or in_words(verb)
        feeder: _Feeder | None = None
        try:
            body = send if isinstance(send, bytes) and len(send) <= BODY_MAX else None
            stream = self._machine.channel.open(verb, params, body)
            with cancellable(call, self._machine, stream):
                feeder = _feed(stream, send if body is None else None)
                try:
                    yield AgentExchange(self._machine, stream, feeder)
                except (ChannelClosed, RemoteError):
                    raise
                except BaseException:
                    stream.cancel()
                    raise
        except ChannelClosed as error:
            call.check()
            gone = f"the machine {self._machine.machine_id} is gone: {error}"
            raise MachineFailed(f"cannot {purpose}: {gone}", hint=hint()) from None
        except TimeoutError as error:
            late = f"the agent of {self._machine.machine_id} {error}"
            raise MachineFailed(f"cannot {purpose}: {late}", hint=SILENT) from None
        except RemoteError as error:
            call.check()
            if feeder and feeder.failure:
                raise feeder.failure from None
            raise refusal_of(error) from error
        call.check()

    def notify(self, verb: str, params: dict[str, Any]) -> None:
        """Send the agent what needs no answer; nobody waits for it."""
        with contextlib.suppress(ChannelClosed, RemoteError):
            self._machine.channel.open(verb, params)


class AgentExchange:
    """A request under way."""

    def __init__(self, machine: Machine, stream: Stream, feeder: _Feeder | None) -> None:
        self.stream = stream
        self._machine = machine
        self._feeder = feeder

    def messages(self, seconds: float | None = None, patience: float | None = None) -> Messages:
        """The agent's messages until its answer. After `seconds` of silence the agent is pinged; if it
        answers, it may be silent for `patience` more. Raises `TimeoutError`, which names what happened."""
        seconds = SILENCE_SECONDS if seconds is None else seconds
        patience = PATIENCE_SECONDS if patience is None else patience
        while True:
            message = self._next(seconds, patience)
            if isinstance(message, StreamResult):
                return message.value
            if isinstance(message, Data | Event):
                yield message

    def answer(
        self, take: Callable[[Data | Event], None], seconds: float | None = None, patience: float | None = None
    ) -> dict[str, Any]:
        """The answer; `take` gets what comes before it. Times are those of `messages`."""
        messages = self.messages(seconds, patience)
        while True:
            try:
                message = next(messages)
            except StopIteration as done:
                answer: dict[str, Any] = done.value
                return answer
            take(message)

    def _next(self, seconds: float, patience: float) -> Message:
        sent = -1
        while True:
            try:
                return patient(self._machine, self.stream, seconds, patience)
            except TimeoutError:
                if self._feeder is None or self._feeder.sent == sent:
                    raise
                sent = self._feeder.sent


def checked(verb: str, answer: Any, kind: type[T]) -> T:
    """What an agent said as a `kind`. Raises `ProtocolError` when it does not fit."""
    try:
        return msgspec.convert(answer, kind)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"cannot {in_words(verb)}: the agent's answer is of no use: {error}") from None


def refusal_of(error: RemoteError) -> PyroError:
    """An agent's refusal as whoever asked reads it."""
    refusal = PyroError.from_wire(error.payload)
    refusal.message = refused_in_words(refusal.message)
    return refusal


class _Feeder:
    """Sends a request's input. `failure` is what went wrong on this side; the request is cancelled then."""

    def __init__(self, stream: Stream, pieces: Iterable[bytes]) -> None:
        self.sent = 0
        self.failure: PyroError | None = None
        self._stream = stream
        self._pieces = pieces

    def run(self) -> None:
        done = False
        try:
            for piece in self._pieces:
                self._stream.send(piece)
                self.sent += len(piece)
            self._stream.end()
            done = True
        except ChannelClosed:
            # The agent has answered without taking all, or the receiving side knows that it is gone.
            done = True
        except PyroError as error:
            self.failure = error
        except BaseException:
            # A bug of ours, which this thread logs; whoever waits must not take it for a cancelled request.
            self.failure = PyroError("cannot read what is to be sent: see the log of the node")
            raise
        finally:
            if not done:
                self._stream.cancel()
            if isinstance(self._pieces, Generator):
                # Whoever looks at the failure must not keep the source's files open.
                self._pieces.close()


def _feed(stream: Stream, send: Input | None) -> _Feeder | None:
    if send is None:
        return None
    feeder = _Feeder(stream, (send,) if isinstance(send, bytes) else send)
    if isinstance(send, bytes) and len(send) <= INLINE_BYTES:
        feeder.run()
    else:
        beside(stream, feeder.run, "feeder")
    return feeder
