"""What always naming one class would give."""

import numpy as np
import pytest

from recipes.shared import judgement


@pytest.mark.parametrize(
    ("trained", "counts", "text"),
    [
        ([9, 5, 1], [3, 1, 0], "'a', the commonest class in training and in test, gives 75.00%"),
        (
            [9, 5, 1],
            [1, 2, 1],
            "'b', the commonest class in test, gives 50.00%; 'a', the commonest class in training, 25.00%",
        ),
        ([5, 5, 5], [2, 2, 2], "'a', one of the commonest classes in training and in test, gives 33.33%"),
        (
            [5, 9, 5],
            [2, 2, 1],
            "'b', the commonest class in training and one of the commonest classes in test, gives 40.00%",
        ),
        ([9, 9, 1], [0, 2, 2], "'b', one of the commonest classes in training and in test, gives 50.00%"),
    ],
)
def test_the_class_that_gives_most_is_named(trained, counts, text):
    assert judgement.always(list("abc"), np.array(trained), np.array(counts), "test") == f"always naming {text}"
