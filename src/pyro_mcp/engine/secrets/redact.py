"""Redact: masks secrets in everything that leaves a workspace, also when a value is split over several pieces.

Masked are, of each secret: its exact bytes, without surrounding blanks, each of its longer lines, and the whole as
JSON, URL, base64 or hexadecimal text writes it. Not covered: any other encoding (base64 of a text around the secret,
compression, encryption, reversal), and a part of a value. Files that are exported are treated by `scrub`. A guest that
wants to give its secrets away can; the mask is against accidents.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

from pyro_mcp.errors import PyroError

MASK = b"[secret]"
LINE_MIN = 8
"""Shorter lines of a secret of several lines say too little, and would mask too much."""
TEXTS = frozenset(
    {
        *("changes_unknown", "command", "content", "hint", "link_target", "message", "output", "output_tail"),
        *("patch", "path", "paths", "reason", "skipped", "stderr", "stdout", "text", "text_patch"),
    }
)
"""Fields of results that carry a guest's text. Others, such as a state, are pyro's own words and stay readable."""


Needles = Sequence[bytes]
Span = tuple[int, int]


@dataclass(frozen=True)
class Masks:
    """What to look for: every form of every secret. Empty: nothing."""

    needles: tuple[bytes, ...] = ()

    @staticmethod
    def of(values: Iterable[bytes]) -> Masks:
        """The masks of secrets with these values."""
        found = {needle for value in values for needle in _forms(value)}
        return Masks(tuple(sorted(found, key=lambda needle: (-len(needle), needle))))

    def __bool__(self) -> bool:
        return bool(self.needles)

    def found(self, data: bytes) -> list[Span]:
        """Where secrets stand in `data`, those that overlap as one."""
        return stretches(self.needles, data)

    def data(self, data: bytes) -> bytes:
        """`data`, a whole, masked."""
        redactor = Redactor(self)
        return redactor.feed(data) + redactor.finish()

    def text(self, text: str) -> str:
        """`text` masked."""
        if not self.needles:
            return text
        data = text.encode("utf-8", "surrogatepass")
        masked = self.data(data)
        return text if masked == data else masked.decode("utf-8", "surrogatepass")

    def error(self, error: PyroError) -> PyroError:
        """The same error, its texts masked."""
        payload = error.to_wire()
        masked: dict[str, Any] = self.answer(payload)
        return error if masked == payload else PyroError.from_wire(masked)

    def answer(self, value: Any) -> Any:
        """An encoded result or error: the texts in it masked, everything else as it is."""
        return self._masked(value, "") if self.needles else value

    def _masked(self, value: Any, field: str) -> Any:
        if isinstance(value, dict):
            return {key: self._masked(part, key) for key, part in value.items()}
        if isinstance(value, list):
            return [self._masked(part, field) for part in value]
        return self.text(value) if isinstance(value, str) and field in TEXTS else value


class Redactor:
    """Masks one stream. It keeps back only what may be the beginning of a secret, so less than the longest one.

    Another one made with its `covered`, given the stream again from the first byte that this one has `held`, goes on
    where this one is.
    """

    def __init__(self, masks: Masks, *, covered: int = 0) -> None:
        self._masks = masks
        self._needles = masks.needles
        self._kept = b""
        self._covered = covered

    @property
    def held(self) -> int:
        """How many of the last bytes are kept back."""
        return len(self._kept)

    @property
    def covered(self) -> int:
        """How many of these belong to a secret whose mask has been given out."""
        return self._covered

    def feed(self, data: bytes) -> bytes:
        """Take the next piece; what may be passed on now."""
        if not self._needles:
            return data
        self._kept += data
        return self._release(undecided(self._needles, self._kept))

    def finish(self) -> bytes:
        """The rest: nothing follows."""
        return self._release(len(self._kept))

    def _release(self, end: int) -> bytes:
        """Give out the first `end` bytes, with a mask for each stretch of secrets that begins in them."""
        out, at = [], min(self._covered, end)
        reached = self._covered
        for start, stop in self._masks.found(self._kept):
            if start >= end:
                break
            if start >= reached:
                out += [self._kept[at:start], MASK]
            reached = max(reached, stop)
            at = min(max(at, stop), end)
        out.append(self._kept[at:end])
        self._kept = self._kept[end:]
        self._covered = max(0, reached - end)
        return b"".join(out)


OnData = Callable[[int, bytes], None]


class MaskedOutput:
    """Passes output on to `on_data`, masked by stream. `covered` is where an earlier one was (see `Redactor`)."""

    def __init__(self, masks: Masks, on_data: OnData, *, covered: Mapping[int, int] | None = None) -> None:
        self._on_data = on_data
        self._covered = covered or {}
        self._masks = masks
        self._streams: dict[int, Redactor] = {}

    def feed(self, tag: int, data: bytes) -> Redactor:
        """Take the next piece; where its stream is then."""
        stream = self._streams.get(tag)
        if stream is None:
            stream = self._streams[tag] = Redactor(self._masks, covered=self._covered.get(tag, 0))
        passed = stream.feed(data)
        if passed:
            self._on_data(tag, passed)
        return stream

    def finish(self) -> None:
        """Pass on the rest: nothing follows."""
        for tag, stream in self._streams.items():
            rest = stream.finish()
            if rest:
                self._on_data(tag, rest)


def stretches(needles: Needles, data: bytes) -> list[Span]:
    """Where `needles` stand in `data`, those that overlap as one."""
    found = []
    for needle in needles:
        at = data.find(needle)
        while at >= 0:
            found.append((at, at + len(needle)))
            at = data.find(needle, at + 1)
    merged: list[Span] = []
    for start, stop in sorted(found):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def undecided(needles: Needles, data: bytes) -> int:
    """Where the part of `data` begins that may turn out to be the beginning of a needle."""
    first = len(data)
    for needle in needles:
        at = data.find(needle[:1], max(0, len(data) - len(needle) + 1), first)
        while at >= 0:
            if needle.startswith(data[at:]):
                first = at
                break
            at = data.find(needle[:1], at + 1, first)
    return first


def _forms(value: bytes) -> Iterable[bytes]:
    """Every form of a secret that is looked for."""
    text = value.decode("utf-8", "surrogateescape")
    bare = text.strip()
    lines = [line.strip() for line in text.splitlines()] if "\n" in bare else []
    yield value
    for whole in {text, bare} - {""}:
        data = whole.encode("utf-8", "surrogateescape")
        yield data
        yield json.dumps(whole)[1:-1].encode()
        yield json.dumps(whole, ensure_ascii=False)[1:-1].encode("utf-8", "surrogateescape")
        yield from (quote(data).encode(), quote(data, safe="").encode(), quote_plus(data).encode())
        yield base64.b64encode(data).rstrip(b"=")
        yield base64.urlsafe_b64encode(data).rstrip(b"=")
        yield from (data.hex().encode(), data.hex().upper().encode())
    yield from (line.encode("utf-8", "surrogateescape") for line in lines if len(line) >= LINE_MIN)
