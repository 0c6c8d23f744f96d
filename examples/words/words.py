"""Count the words of text.txt, the most frequent first."""

import collections
import pathlib


def count(text):
    return collections.Counter(text.split())


if __name__ == "__main__":
    for word, times in count(pathlib.Path("text.txt").read_text()).most_common(3):
        print(times, word)
