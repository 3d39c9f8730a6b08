"""Random numbers of the data, and the seeds that they may have."""

import numpy as np

LARGEST_SEED = 2**32 - 1
# What random numbers are drawn for. Each has streams of its own: NumPy's generators of (seed, step) and (seed, step, 0) are the same.
PURPOSES = ("order", "image", "batch", "replacement", "subset", "limit")


def generator(purpose, seed, *place):
    """The generator of random numbers for a purpose at a place, such as a step and an image's place in its batch."""
    key = (PURPOSES.index(purpose), *(int(number) for number in place))
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=key))


def check_seed(seed):
    """The seed as an int, if it is one from 0 to 2**32 - 1, which all random generators take.

    Raises:
        ValueError: if it is not.
    """
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"Expected a seed from 0 to {LARGEST_SEED}, received {seed!r}; choose another.")
    return int(seed)
