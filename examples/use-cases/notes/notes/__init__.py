"""Notes: short texts, in the order in which they were added."""


class Notes:
    def __init__(self):
        self._texts = []

    def add(self, text):
        text = text.strip()
        if not text:
            raise ValueError("a note needs a text")
        self._texts.append(text)
        return len(self._texts)

    def all(self):
        return list(self._texts)
