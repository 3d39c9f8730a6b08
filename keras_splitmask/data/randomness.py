"""Random numbers of the data."""

import numpy as np

from keras_splitmask.seeds import check_seed

# What random numbers are drawn for. Each has streams of its own: NumPy's generators of (seed, step) and (seed, step, 0)
# are the same.
PURPOSES = ("order", "image", "batch", "replacement", "subset", "limit")


def generator(purpose, seed, *place):
    """The generator of random numbers for a purpose at a place, such as a step and an image's place in its batch."""
    key = (PURPOSES.index(purpose), *(int(number) for number in place))
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=key))
