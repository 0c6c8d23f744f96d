"""Screen: terminal output as the person in front of the terminal sees it, scrolled-back lines included.

A small emulator of what programs say to `xterm-256color`, colours left out. It is ours because a guest's output is
hostile: every sequence costs a bounded handful of steps, whatever its numbers, and nothing that it may contain raises.
(`pyte`, with which the tests compare it, raises on many malformed sequences, takes seconds for others, and drops what
follows some characters.) What it does not know it leaves out.
"""

from __future__ import annotations

from pyro_mcp.engine.shells.grid import Grid
from pyro_mcp.model.escapes import scan

NUMBER_MAX = 9999
_ALTERNATE = {47, 1047, 1049}


class Screen(Grid):
    """A terminal of `cols` by `rows`. Feed it text in pieces of any size; `changed_text` is what is new since
    `set_checkpoint`."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__(cols, rows)
        self._pending = ""

    def feed(self, text: str) -> None:
        """Take the next piece of output."""
        self._pending = scan(self._pending + text, self._draw, self._control, self._escape)

    # -- controls

    def _control(self, char: str) -> None:
        if char == "\r":
            self.x = 0
        elif char in "\n\x0b\x0c\x85":
            self._linefeed()
            if char == "\x85":
                self.x = 0
        elif char == "\b":
            self.x = max(0, min(self.x, self.cols - 1) - 1)
        elif char == "\t":
            self.x = min(self.cols - 1, (self.x // 8 + 1) * 8)

    # -- sequences

    def _escape(self, params: str, between: str, final: str, before: str, char: str) -> None:
        if final:
            if not between:
                self._sequence(params, final)
        elif before == "(":
            self._graphics = char == "0"
        elif not before:
            self._simple(char)

    def _simple(self, char: str) -> None:
        if char == "7":
            self._saved = (self.x, self.y)
        elif char == "8":
            self.x, self.y = self._saved
        elif char == "D":
            self._linefeed()
        elif char == "E":
            self.x = 0
            self._linefeed()
        elif char == "M":
            self._reverse_index()
        elif char == "c":
            self._reset_modes()
            self._erase_display(2)
            self.x = self.y = 0

    def _sequence(self, params: str, final: str) -> None:
        if params[:1] in ("<", "=", ">"):
            return
        private = params.startswith("?")
        numbers = [_number(one) for one in params.lstrip("?").split(";")[:16]]
        if final in "hl":
            for number in numbers:
                self._mode(number, final == "h", private)
        elif not private:
            first = numbers[0]
            self._move(final, first, numbers)
            self._edit(final, first)

    def _move(self, final: str, number: int, numbers: list[int]) -> None:
        count = max(1, number)
        if final in "AF":
            self.y = max(self._top if self.y >= self._top else 0, self.y - count)
        elif final in "BEe":
            self.y = min(self._bottom if self.y <= self._bottom else self.rows - 1, self.y + count)
        elif final in "Ca":
            self.x = min(self.cols - 1, self.x + count)
        elif final == "D":
            self.x = max(0, min(self.x, self.cols - 1) - count)
        elif final in "G`":
            self.x = min(self.cols, count) - 1
        elif final == "d":
            self.y = self._line(count)
        elif final in "Hf":
            self.y = self._line(count)
            self.x = min(self.cols, max(1, numbers[1] if len(numbers) > 1 else 1)) - 1
        elif final == "r":
            self._region(numbers)
        elif final == "s":
            self._saved = (self.x, self.y)
        elif final == "u":
            self.x, self.y = self._saved
        if final in "EF":
            self.x = 0

    def _line(self, number: int) -> int:
        """The row that a program calls `number`."""
        return min(self._bottom, self._top + number - 1) if self._origin else min(self.rows, number) - 1

    def _region(self, numbers: list[int]) -> None:
        top = max(1, numbers[0]) - 1
        bottom = min(self.rows, (numbers[1] if len(numbers) > 1 else 0) or self.rows) - 1
        if top < bottom:
            self._top, self._bottom = top, bottom
            self.x, self.y = 0, self._line(1)

    def _edit(self, final: str, number: int) -> None:
        count = max(1, number)
        inside = self._top <= self.y <= self._bottom
        if final == "J":
            self._erase_display(number)
        elif final == "K":
            self._erase_line(number)
        elif final in "@PX":
            self._shift(final, min(count, self.cols))
        elif final in "LM" and inside:
            self._shift_lines(final, count)
        elif final == "S":
            self._scroll_up(count)
        elif final == "T":
            self._scroll_down(self._top, count)
        elif final == "b":
            self._draw(self._last * min(count, self.cols))

    def _shift_lines(self, final: str, count: int) -> None:
        """Insert or delete lines at the cursor's."""
        if final == "L":
            self._scroll_down(self.y, count)
        else:
            top, self._top = self._top, self.y
            self._scroll_up(count)
            self._top = top
        self.x = 0

    def _mode(self, number: int, requested: bool, private: bool) -> None:
        if not private:
            self._insert = requested if number == 4 else self._insert
        elif number == 6:
            self._origin = requested
            self.x, self.y = 0, self._line(1)
        elif number == 7:
            self._autowrap = requested
        elif number in _ALTERNATE and requested and self._main is None and self._afford(self.rows):
            self._main = (self.lines, self.x, self.y)
            self.lines = [[] for _ in range(self.rows)]
        elif number in _ALTERNATE and not requested and self._main is not None:
            self.lines, self.x, self.y = self._main
            self._main = None


def render(before: str, new: str, cols: int, rows: int) -> str:
    """What `new` shows to a person whose terminal has shown `before`."""
    screen = Screen(cols, rows)
    screen.feed(before)
    screen.set_checkpoint()
    screen.feed(new)
    return screen.changed_text()


def _number(text: str) -> int:
    head = text.partition(":")[0]
    return min(int(head[:5]), NUMBER_MAX) if head.isascii() and head.isdigit() else 0
