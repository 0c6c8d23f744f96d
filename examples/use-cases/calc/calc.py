"""Average prices. Prices are whole cents."""


def average(prices):
    """The mean price, to the nearest cent; halves go up."""
    if not prices:
        raise ValueError("no prices")
    return sum(prices) // len(prices)
