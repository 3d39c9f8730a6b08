"""Random numbers of the input pipeline."""

import numpy as np

from keras_splitmask.options import check_seed

# Purposes of random numbers. Each needs streams of its own, since NumPy's generators of (seed, step) and
# (seed, step, 0) are the same.
# New ones come last: the place of a purpose is part of its streams, so another order would change all runs.
PURPOSES = ("order", "image", "batch", "replacement", "subset", "limit", "division")


def generator(purpose, seed, *position):
    """Make the random generator for a purpose and a position, such as a step and the row of an image in its batch."""
    key = (PURPOSES.index(purpose), *(int(number) for number in position))
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed), spawn_key=key))
