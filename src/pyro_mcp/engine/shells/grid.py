"""Grid: the cells of a terminal, what has scrolled off it, and which of its lines are new.

Every operation costs a bounded handful of steps; those that go over many lines are paid from a budget.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

BLANK = " "
LINES_MAX = 3_000_000
"""So many lines in all may be made, moved or looked at to erase or scroll: a hundred thousand screens of 30 lines."""
COMBINED_MAX = 8
"""So many code points may share one cell: letters with accents do, a flood of accents does not."""
_ASCII = re.compile(r"[ -~]+")
_GRAPHICS = dict(zip(map(ord, "`afgijklmnopqrstuvwxyz{|}~"), "◆▒°±☃┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·", strict=True))

Row = list[str]


class Grid:
    """`cols` by `rows` cells with a cursor. `changed_text` is what has become of them since `set_checkpoint`."""

    def __init__(self, cols: int, rows: int) -> None:
        self.cols, self.rows = cols, rows
        self.history: list[Row] = []
        self.lines: list[Row] = [[] for _ in range(rows)]
        self.x = self.y = 0
        self._main: tuple[list[Row], int, int] | None = None
        self._budget = LINES_MAX
        self._reset_modes()
        self._low: int | None = 0
        self._alternate_moved = False
        self._before: tuple[int, str] = (0, "")

    # -- what is new

    def set_checkpoint(self) -> None:
        """What comes from now on is new."""
        self._low, self._alternate_moved = None, False
        lines, _, y = self._main or (self.lines, self.x, self.y)
        self._before = (len(self.history) + y, _text_of(lines[y]))

    def changed_text(self) -> str:
        """Every line that has changed since the checkpoint, and those below; of the line the cursor stood in then, only
        what was added to it if nothing else was done to it."""
        lines, _, y = self._main or (self.lines, self.x, self.y)
        parts = []
        if self._low is not None:
            bottom = max([y, *(number for number, row in enumerate(lines) if _text_of(row).strip())])
            changed_text = [_text_of(row) for row in [*self.history, *lines[: bottom + 1]][self._low :]]
            where, before = self._before
            if self._low == where and changed_text and changed_text[0].startswith(before):
                changed_text[0] = changed_text[0][len(before) :]
            at = len(self.history) + y - self._low
            changed_text = [line if number == at else line.rstrip() for number, line in enumerate(changed_text)]
            parts.append("\n".join(changed_text))
        if self._main is not None and self._alternate_moved:
            parts.append("\n".join(_text_of(row).rstrip() for row in self.lines).rstrip("\n"))
        return "\n".join(parts)

    # -- text

    def _draw(self, text: str) -> None:
        if self._graphics:
            text = text.translate(_GRAPHICS)
        at = 0
        while at < len(text):
            found = _ASCII.match(text, at)
            if found:
                self._draw_narrow(found.group())
                at = found.end()
            else:
                self._draw_one(text[at])
                at += 1
        self._last = text[-1]

    def _draw_narrow(self, text: str) -> None:
        """A run of one-cell characters."""
        at = 0
        while at < len(text):
            self._wrap(1)
            piece = text[at : at + self.cols - self.x]
            row = self._row()
            if self._insert:
                row[self.x : self.x] = piece
                del row[self.cols :]
            else:
                self._part(row, self.x)
                self._part(row, self.x + len(piece))
                row[self.x : self.x + len(piece)] = piece
            self.x += len(piece)
            at += len(piece)

    def _draw_one(self, char: str) -> None:
        width = _width(char)
        if width == 0:
            row = self._row(self.x - 1)
            at = self.x - 1 if self.x and row[self.x - 1 : self.x] != [""] else self.x - 2
            if 0 <= at < len(row) and len(row[at]) < COMBINED_MAX:
                row[at] += char
        elif width == 1:
            self._draw_narrow(char)
        elif self.cols > 1:
            self._wrap(2)
            self._draw_narrow("  ")
            self.lines[self.y][self.x - 2 : self.x] = [char, ""]

    def _wrap(self, width: int) -> None:
        if self.x + width <= self.cols:
            return
        if self._autowrap:
            self.x = 0
            self._linefeed()
        else:
            self.x = self.cols - width

    def _row(self, reach: int | None = None) -> Row:
        """The cursor's row, filled with blanks up to `reach`; it counts as changed."""
        self._touch(self.y)
        row = self.lines[self.y]
        reach = self.x if reach is None else reach
        if len(row) < reach:
            row.extend(BLANK * (reach - len(row)))
        return row

    def _part(self, row: Row, at: int) -> None:
        """Whoever writes over half of a wide character destroys the other half."""
        if 0 < at < len(row) and row[at] == "":
            row[at - 1] = row[at] = BLANK

    def _touch(self, y: int) -> None:
        if self._main is not None:
            self._alternate_moved = True
        elif self._low is None or len(self.history) + y < self._low:
            self._low = len(self.history) + y

    # -- lines

    def _linefeed(self) -> None:
        self._touch(self.y)
        if self.y == self._bottom:
            self._scroll_up(1, keep=self._top == 0)
        else:
            self.y = min(self.y + 1, self.rows - 1)

    def _reverse_index(self) -> None:
        if self.y == self._top:
            self._scroll_down(self._top, 1)
        else:
            self.y = max(0, self.y - 1)

    def _scroll_up(self, count: int, *, keep: bool = False) -> None:
        """Lines leave at the top of the region; those that leave the screen are kept."""
        count = min(count, self._bottom - self._top + 1)
        if not self._afford(count):
            return
        gone = self.lines[self._top : self._top + count]
        if keep and self._main is None:
            self.history += gone
        else:
            self._touch(self._top)
        del self.lines[self._top : self._top + count]
        self.lines[self._bottom + 1 - count : self._bottom + 1 - count] = [[] for _ in range(count)]

    def _scroll_down(self, top: int, count: int) -> None:
        count = min(count, self._bottom - top + 1)
        if not self._afford(count):
            return
        self._touch(top)
        del self.lines[self._bottom + 1 - count : self._bottom + 1]
        self.lines[top:top] = [[] for _ in range(count)]

    # -- erasing

    def _shift(self, final: str, count: int) -> None:
        """Insert, delete or blank characters at the cursor."""
        row = self._row()
        at = min(self.x, self.cols - 1)
        self._part(row, at)
        self._part(row, at + count)
        if final == "@":
            row[at:at] = BLANK * count
        elif final == "P":
            del row[at : at + count]
        else:
            row[at : at + count] = BLANK * min(count, len(row) - at)
        del row[self.cols :]

    def _erase_line(self, how: int) -> None:
        row = self._row()
        at = min(self.x, self.cols - 1)
        if how == 0:
            self._part(row, at)
            del row[at:]
        elif how == 1:
            self._part(row, at + 1)
            row[: at + 1] = BLANK * (at + 1)
        elif how == 2:
            row.clear()

    def _erase_display(self, how: int) -> None:
        """3 would take what was scrolled back, too: it stays."""
        if how in (0, 1):
            self._erase_line(how)
        if not self._afford(self.rows):
            return
        first, last = {0: (self.y + 1, self.rows), 1: (0, self.y), 2: (0, self.rows)}.get(how, (0, 0))
        for y in range(first, last):
            if self.lines[y]:
                self.lines[y].clear()
                self._touch(y)

    def _afford(self, lines: int) -> bool:
        self._budget -= lines
        return self._budget > 0

    def _reset_modes(self) -> None:
        self._top, self._bottom = 0, self.rows - 1
        self._saved = (0, 0)
        self._autowrap, self._origin, self._insert, self._graphics = True, False, False, False
        self._last = BLANK


def _text_of(row: Row) -> str:
    return "".join(row)


@lru_cache(maxsize=4096)
def _width(char: str) -> int:
    """How many cells a character takes."""
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
