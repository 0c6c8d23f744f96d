"""Average prices. Prices are whole cents."""


def average(prices):
    """The mean price, rounded to the nearest cent; halves go up. Raises ValueError for no prices."""
    if not prices:
        raise ValueError("no prices")
    return sum(prices) // len(prices)
