"""Check the numbers that layers and models are built with."""


def check_number(name, value, low, high, whole=False, above=False):
    """Return a number from `low` to `high`, or with `above`, above `low`; as an int if it is to be `whole`.

    Raises:
        ValueError: if it is no such number, as NaN is none; with the name and the range.
    """
    try:
        inside = (low < value if above else low <= value) and value <= high and not isinstance(value, bool)
        fits = inside and (not whole or int(value) == value)
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        kind = "a whole number" if whole else "a number"
        limits = f"above {low:g} and up to {high:g}" if above else f"from {low:g} to {high:g}"
        raise ValueError(f"Expected {name} to be {kind} {limits}, received {value!r}; choose another.")
    return int(value) if whole else value
