import unittest

from notes import Notes


class TestNotes(unittest.TestCase):
    def test_notes_are_kept_in_order(self):
        notes = Notes()
        notes.add("one")
        notes.add(" two ")
        self.assertEqual(notes.all(), ["one", "two"])

    def test_an_empty_note_is_refused(self):
        with self.assertRaises(ValueError):
            Notes().add("  ")


if __name__ == "__main__":
    unittest.main()
