import unittest

from calc import average


class TestAverage(unittest.TestCase):
    def test_a_mean_that_is_whole(self):
        self.assertEqual(average([100, 300]), 200)

    def test_a_half_goes_up(self):
        self.assertEqual(average([1, 2]), 2)

    def test_no_prices(self):
        with self.assertRaises(ValueError):
            average([])


if __name__ == "__main__":
    unittest.main()
