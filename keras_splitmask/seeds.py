"""The seeds that random numbers may have."""

LARGEST_SEED = 2**31 - 1  # on the torch backend Keras keeps it as int32


def check_seed(seed):
    """The seed as an int, if it is one from 0 to 2**31 - 1, which the generators of NumPy and of all backends take.

    Raises:
        ValueError: if it is not.
    """
    try:
        fits = not isinstance(seed, bool) and int(seed) == seed and 0 <= seed <= LARGEST_SEED
    except (TypeError, ValueError, OverflowError):
        fits = False
    if not fits:
        raise ValueError(f"Expected a seed from 0 to {LARGEST_SEED}, received {seed!r}; choose another.")
    return int(seed)
