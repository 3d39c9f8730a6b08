"""Check the numbers that layers and models are built with."""

LARGEST_SEED = 2**31 - 1  # Keras stores it as int32 on the torch backend


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


def check_seed(seed):
    """Convert a seed to an int from 0 to 2**31 - 1, which NumPy and all backends accept.

    Raises:
        ValueError: if it is not such a number.
    """
    try:
        fits = not isinstance(seed, bool) and int(seed) == seed and 0 <= seed <= LARGEST_SEED
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"Expected a seed from 0 to {LARGEST_SEED}, received {seed!r}; choose another.")
    return int(seed)
