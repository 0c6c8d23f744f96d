"""Check `unique`, then print how often it compared two lines: no busy machine changes that."""

import sys

from unique import unique


class Line(str):
    compared = 0

    def __eq__(self, other):
        Line.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


lines = [Line(f"line {number % 400}") for number in range(2000)]
found = list(unique(lines))
if [str(line) for line in found] != [str(line) for line in lines[:400]]:
    sys.exit("wrong: not the first of each, in order")
print(Line.compared)
