import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.decoder import Decoder

pytestmark = pytest.mark.backend

COUNT, SEEN, WIDTH, VOCABULARY = 9, 4, 8, 6


@pytest.fixture
def decoder():
    decoder = Decoder(COUNT, WIDTH, heads=2, depth=2, vocabulary=VOCABULARY)
    decoder.build((None, None, WIDTH))
    return decoder


@pytest.fixture
def tokens(rng):
    return rng.standard_normal((3, 1 + SEEN, WIDTH)).astype("float32")


UNSEEN = np.array([[0, 1, 2, 3, 4], [8, 6, 4, 2, 0], [5, 7, 0, 1, 8]], "int32")


def test_parameters(decoder):
    block = (
        2 * 2 * WIDTH
        + (WIDTH + 1) * 3 * WIDTH
        + (WIDTH + 1) * WIDTH
        + (WIDTH + 1) * 4 * WIDTH
        + (4 * WIDTH + 1) * WIDTH
    )
    expected = (
        WIDTH + COUNT * WIDTH + 2 * block + 2 * WIDTH + (WIDTH + 1) * VOCABULARY
    )  # mask token, positions, blocks, norm, words
    assert decoder.count_params() == expected
    silent = Decoder(COUNT, WIDTH, heads=2)
    silent.build((None, None, WIDTH))
    assert silent.words is None
    assert silent.count_params() == expected - (WIDTH + 1) * VOCABULARY


def test_only_unseen_returns_the_unseen_outputs_of_call(decoder, tokens):
    seen, unseen = (ops.convert_to_numpy(x) for x in decoder(tokens, UNSEEN))
    assert seen.shape == (3, 1 + SEEN, WIDTH) and unseen.shape == (3, COUNT - SEEN, WIDTH)
    alone = ops.convert_to_numpy(decoder.only_unseen(tokens, UNSEEN))
    np.testing.assert_allclose(alone, unseen, atol=1e-5)


def test_order_of_seen_and_of_unseen_does_not_matter(decoder, tokens):
    seen, unseen = (ops.convert_to_numpy(x) for x in decoder(tokens, UNSEEN))
    shuffled = decoder(tokens[:, [0, 3, 1, 4, 2]], UNSEEN[:, ::-1].copy())
    np.testing.assert_allclose(ops.convert_to_numpy(shuffled[0]), seen[:, [0, 3, 1, 4, 2]], atol=1e-5)
    np.testing.assert_allclose(ops.convert_to_numpy(shuffled[1])[:, ::-1], unseen, atol=1e-5)


def test_only_branches_that_miss_a_patch_know_its_position(decoder, tokens):
    before = ops.convert_to_numpy(decoder(tokens, UNSEEN)[1])
    table = ops.convert_to_numpy(decoder.table)
    table[3] += 1
    decoder.table.assign(table)
    changed = (ops.convert_to_numpy(decoder(tokens, UNSEEN)[1]) != before).any(axis=(1, 2))
    np.testing.assert_array_equal(changed, [True, False, False])  # patch 3 is unseen in the first row only


def test_a_decoder_needs_a_block():
    with pytest.raises(ValueError, match="whole number from 1 to .*, received 0"):
        Decoder(COUNT, WIDTH, heads=2, depth=0)


def test_config_round_trip():
    decoder = Decoder(COUNT, WIDTH, heads=4, depth=3, vocabulary=VOCABULARY, name="other")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(decoder))
    assert again.get_config() == decoder.get_config()
    assert (again.count, again.width, again.heads, again.depth, again.vocabulary) == (COUNT, WIDTH, 4, 3, VOCABULARY)
