import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training.batch import Batch

pytestmark = pytest.mark.backend


def array(x):
    return ops.convert_to_numpy(x)


def objective_told_again(model, images, order):
    """Image by image, all tokens in the image's order, with mask tokens in the place of patch embeddings before
    positions are added."""
    embedding, count = model.encoder.patch_embedding, model.masked_count
    table, ids, taken = array(embedding.position_table()), array(model.tokenizer(images)), []
    for i in range(len(images)):
        masked = np.sort(order[i, :count])
        tokens = array(model.encoder.embed(images[i : i + 1]))[0] - table  # (N, D), without positions
        tokens[masked] = array(model.mask_token)
        hidden = array(model.encoder.encode(ops.convert_to_tensor((tokens + table)[None])))[0, 1:]  # (N, D)
        logits = hidden[masked].astype("float64") @ array(model.words.kernel) + array(model.words.bias)
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        taken.append(-np.log(share[np.arange(count), ids[i, masked]]).mean())
    return np.mean(taken)


def test_the_objective_is_the_papers(make_beit, make_images, rng, fix_order):
    model, images, order = make_beit(depth=2), make_images(2, (12, 20, 3)), fix_order(2)
    model.mask_token.assign(rng.standard_normal(16))
    loss, report = model.objective(Batch(images), training=False)
    np.testing.assert_allclose(array(loss), objective_told_again(model, images, order), rtol=1e-4)
    assert array(report["inpaint_loss"]) == array(loss) and 0 <= array(report["inpaint_accuracy"]) <= 1
    words = np.take_along_axis(array(model.tokenizer(images)), order[:, : model.masked_count], axis=1)
    np.testing.assert_array_equal(array(report["word_perplexity"]), words)


def test_a_share_of_the_patches_is_masked_in_blocks(make_beit, make_images):
    model = make_beit(image_shape=(56, 56, 1))  # 14x14 patches
    assert (model.split.kind, model.split.count, model.masked_count) == ("block", 196, 78)  # floor(0.4 * 196)
    order = array(model.split(make_images(4, (56, 56, 1))))
    mask = np.zeros((4, 196), bool)
    np.put_along_axis(mask, order[:, :78], True, axis=1)
    mask = mask.reshape(4, 14, 14)
    # Of neighbours of a masked patch, 78 of 196 would be masked if patches were masked one by one.
    together = (mask[:, 1:] & mask[:, :-1]).sum() / mask[:, 1:].sum()
    assert together > 0.6


def test_every_masked_word_is_predicted(make_beit, make_images, monkeypatch):
    """A head that sees where it is: with positions as tokens and nothing else, word k of patch k is found at every
    masked patch."""
    model = make_beit(vocabulary=16, width=16)
    model.encoder.patch_embedding.table.assign(np.eye(15, 16))
    model.mask_token.assign(np.zeros(16))
    monkeypatch.setattr(ks.Encoder, "encode", lambda self, tokens, training=None: tokens)
    monkeypatch.setattr(type(model.tokenizer), "call", lambda self, images, indices: indices)
    model.words.kernel.assign(20 * np.eye(16))
    _, report = model.objective(Batch(make_images(4, (12, 20, 3))), training=False)
    assert float(report["inpaint_accuracy"]) == 1 and float(report["inpaint_loss"]) < 1e-5


def test_a_batch_is_memorised(make_beit, make_images):
    model = make_beit(keras.optimizers.Adam(3e-3), image_shape=(8, 12, 3), width=64, split="random")
    model.compile(optimizer=model.optimizer, jit_compile=keras.backend.backend() == "jax")
    images = make_images(8, (8, 12, 3))
    first = model.train_on_batch(images, return_dict=True)
    for _ in range(6):
        model.fit(np.tile(images, (40, 1, 1, 1)), batch_size=8, shuffle=False, verbose=0)
        last = model.evaluate(images, return_dict=True, verbose=0)
        if last["inpaint_accuracy"] == 1 and last["loss"] < 0.05:
            break
    assert first["inpaint_accuracy"] < 0.3 and first["loss"] > 2
    assert last["inpaint_accuracy"] == 1 and last["loss"] < 0.05


def test_words_of_kmeans_are_kept_with_the_model(make_beit, make_images, tmp_path):
    images = make_images(8, (12, 20, 3))
    tokenizer = ks.tokenizers.KMeans((12, 20, 3), 4, vocabulary=32).fit(images)
    make_beit(tokenizer=tokenizer).save(tmp_path / "model.keras")
    again = ks.interchange.load_model(tmp_path)
    np.testing.assert_array_equal(array(again.tokenizer(images)), array(tokenizer(images)))


def test_errors(make_beit):
    with pytest.raises(
        ValueError,
        match=r"Expected a mask_ratio in \(0, 1\) that masks at least one patch, received mask_ratio=0.01 of 15",
    ):
        make_beit(mask_ratio=0.01)
    with pytest.raises(ValueError, match="received mask_ratio=1.0 of 15 patches"):
        make_beit(mask_ratio=1.0)
    with pytest.raises(ValueError, match='"random" or "block", received \'rows\''):
        make_beit(split="rows")
