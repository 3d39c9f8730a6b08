"""Check seeds of random numbers."""

LARGEST_SEED = 2**31 - 1  # Keras stores it as int32 on the torch backend


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
