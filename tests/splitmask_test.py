import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend import chunks
from keras_splitmask.training.batch import Batch

pytestmark = pytest.mark.backend
NAN, INF = math.nan, math.inf


def array(x):
    return ops.convert_to_numpy(x)


def test_the_model_answers_as_its_encoder(make_model, make_images):
    model, images = make_model(), make_images(2)
    for name, value in model.encoder(images).items():
        np.testing.assert_array_equal(array(model(images)[name]), array(value))


def test_a_branch_knows_nothing_of_what_it_does_not_see(make_model, make_images, fix_order):
    model, images, order = make_model(image_shape=(12, 20, 3)), make_images(2, (12, 20, 3)), fix_order(2)

    def both(images):
        return np.concatenate([array(x) for x in model.branches(images, order)], axis=1)  # (2B, 1 + N, D)

    before = both(images)

    def rows_changed(position):
        row, column = divmod(order[0, position], 5)
        changed = images.copy()
        changed[0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] ^= 255
        return (both(changed) != before).any(axis=(1, 2)).tolist()

    n = model.split.seen_count
    assert n == 7
    for position in range(15):  # rows 0 and 1 are the halves of the changed image; 14 is the patch that neither sees
        assert rows_changed(position) == [position < n, n <= position < 2 * n, False, False]


def objective_told_again(model, images, order):
    """Image by image and half by half, over sorted sets of patches; returns both losses."""
    tokens, ids, n = array(model.encoder.embed(images)), array(model.tokenizer(images)), model.split.seen_count
    inpaint, pooled = [], []
    for i in range(len(images)):
        for half in (order[i, :n], order[i, n : 2 * n]):
            seen = np.sort(half)
            unseen = np.setdiff1d(np.arange(model.split.count), seen)
            decoded = model.decoder(model.encoder.encode(tokens[i : i + 1, seen]), unseen[None].astype("int32"))
            logits = array(model.decoder.words(decoded[1]))[0].astype("float64")
            share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            inpaint.append(-np.log(share[np.arange(len(unseen)), ids[i, unseen]]).mean())
            pooled.append(np.concatenate([array(decoded[0])[0, 1:], array(decoded[1])[0]]).mean(axis=0))
    vectors = np.stack(pooled) / np.linalg.norm(pooled, axis=1, keepdims=True)
    logits = vectors[0::2] @ vectors[1::2].T / model.temperature
    from_a = -np.log(np.exp(logits).diagonal() / np.exp(logits).sum(axis=1)).mean()
    from_b = -np.log(np.exp(logits).diagonal() / np.exp(logits).sum(axis=0)).mean()
    return np.mean(inpaint), (from_a + from_b) / 2


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_the_objective_is_the_papers(make_model, make_images, fix_order, keep):
    model = make_model(
        image_shape=(12, 20, 3), decoder_depth=2, keep=keep, inpaint_weight=0.5, match_weight=2.0, temperature=0.4
    )
    images, order = make_images(4, (12, 20, 3)), fix_order(4)
    loss, report = model.objective(Batch(images), training=False)
    inpaint, match = objective_told_again(model, images, order)
    np.testing.assert_allclose(float(report["inpaint_loss"]), inpaint, rtol=1e-4)
    np.testing.assert_allclose(float(report["match_loss"]), match, rtol=1e-4)
    np.testing.assert_allclose(float(loss), 0.5 * inpaint + 2.0 * match, rtol=1e-4)


def test_a_word_head_that_knows_the_words_has_no_loss(make_model, make_images, monkeypatch):
    model, images = make_model(), make_images(4)
    monkeypatch.setattr(type(model.tokenizer), "call", lambda self, images: ops.ones((4, 16), "int32") * 5)
    kernel, bias = model.decoder.words.kernel, model.decoder.words.bias
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(20.0 * ops.one_hot(5, 32))
    _, report = model.objective(Batch(images), training=False)
    np.testing.assert_allclose(float(report["inpaint_loss"]), math.log(1 + 31 * math.exp(-20)), atol=1e-5)
    assert float(report["inpaint_accuracy"]) == 1
    bias.assign(20.0 * ops.one_hot(6, 32))
    _, report = model.objective(Batch(images), training=False)
    np.testing.assert_allclose(float(report["inpaint_loss"]), 20, rtol=1e-5)
    assert float(report["inpaint_accuracy"]) == 0


def test_vectors_that_collapsed_have_no_spread(make_model, make_images):
    model = make_model()
    _, report = model.objective(Batch(np.repeat(make_images(1), 4, axis=0)[:, ::-1]), training=False)
    assert float(report["feature_std"]) > 0  # equal images, but not equal halves
    model.decoder.norm.gamma.assign(np.zeros(16))
    model.decoder.norm.beta.assign(np.ones(16))
    _, report = model.objective(Batch(make_images(4)), training=False)
    np.testing.assert_allclose(float(report["feature_std"]), 0, atol=1e-5)
    np.testing.assert_allclose(float(report["match_loss"]), math.log(4), rtol=1e-5)


@pytest.mark.parametrize(
    "variant",
    [
        {"keep": 0.25, "split": "random"},
        {"inpaint_weight": 0},
        {"match_weight": 0, "decoder_depth": 2},
        {"projector": 8, "predicted": 0.5},
        {"projector": 8, "inpaint_weight": 0},
    ],
)
def test_gradients_reach_every_weight(make_model, make_images, check_every_weight_moves, variant):
    model = make_model(keras.optimizers.SGD(1.0), image_shape=(12, 20, 3), **variant)
    fixed = {w.path: array(w) for w in model.tokenizer.weights}
    # Two batches, since one split leaves some positions to one half.
    check_every_weight_moves(model, (make_images(8, (12, 20, 3)) for _ in range(2)))
    for weight in model.tokenizer.weights:
        np.testing.assert_array_equal(array(weight), fixed[weight.path])


def paths(model):
    return {w.path.split("/", 1)[1] for w in model.trainable_variables}


@pytest.mark.parametrize(
    "without, given, missing", [("inpaint_weight", "match", "inpaint"), ("match_weight", "inpaint", "match")]
)
def test_a_loss_of_weight_0_is_left_out(make_model, make_images, without, given, missing):
    model, whole = make_model(image_shape=(12, 20, 3), **{without: 0}), make_model(image_shape=(12, 20, 3))
    logs = model.train_on_batch(make_images(8, (12, 20, 3)), return_dict=True)
    assert {f"{given}_loss", f"{given}_accuracy"} < set(logs)
    assert not [name for name in logs if missing in name]
    assert ("word_perplexity" in logs) == (given == "inpaint")
    np.testing.assert_allclose(logs["loss"], logs[f"{given}_loss"])
    heads = {path for path in paths(whole) if "words/" in path}
    assert len(heads) == 2 and paths(whole) - paths(model) == (heads if missing == "inpaint" else set())


def test_without_inpainting_no_tokenizer_is_needed_nor_used(make_model, make_images, monkeypatch):
    model = make_model(inpaint_weight=0, tokenizer=None)
    assert np.isfinite(model.train_on_batch(make_images(), return_dict=True)["match_loss"])
    monkeypatch.setattr(ks.tokenizers.RandomProjection, "call", lambda *_: pytest.fail("The tokenizer was called."))
    make_model(inpaint_weight=0).train_on_batch(make_images())


def test_five_channels_odd_grid_and_a_quarter_seen(make_model, make_images):
    model = make_model("adam", image_shape=(48, 80, 5), patch_size=16, keep=0.25, drop_path=0.1)
    assert (model.split.count, model.split.seen_count) == (15, 3)
    logs = model.fit(make_images(8, (48, 80, 5)), batch_size=4, shuffle=False, verbose=0).history
    assert np.isfinite(logs["loss"]).all() and logs["skipped_steps"] == [0]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_much_as_float32(make_model, make_images, fix_order, policy):
    if policy == "mixed_float16" and keras.backend.backend() == "jax":
        pytest.skip("JAX has no float16 attention on a CPU.")
    images, logs, weights = make_images(8, (12, 20, 3)), {}, None
    fix_order(8)
    for name in ("float32", policy):
        keras.config.set_dtype_policy(name)
        model = make_model(image_shape=(12, 20, 3), depth=1)
        weights = weights or model.get_weights()
        model.set_weights(weights)
        for _ in range(10):  # float16 starts with a loss scale that is too large, and halves it step by step
            model.reset_metrics()
            logs[name] = model.train_on_batch(images, return_dict=True)
            if not logs[name]["skipped_steps"]:
                break
    for name in ("loss", "inpaint_loss", "match_loss", "gradient_norm"):
        np.testing.assert_allclose(logs[policy][name], logs["float32"][name], rtol=0.05)


def test_eight_images_are_memorised(make_model, make_images):
    model = make_model(keras.optimizers.Adam(3e-3), run_eagerly=False, image_shape=(8, 12, 3), width=64, split="random")
    images = make_images(8, (8, 12, 3))
    first = model.train_on_batch(images, return_dict=True)
    for _ in range(6):
        model.fit(np.tile(images, (40, 1, 1, 1)), batch_size=8, shuffle=False, verbose=0)
        last = model.evaluate(images, return_dict=True, verbose=0)
        if last["inpaint_accuracy"] > 0.95 and last["match_accuracy"] == 1:
            break
    assert first["inpaint_accuracy"] < 0.2
    assert last["inpaint_accuracy"] > 0.95 and last["match_accuracy"] == 1
    assert last["loss"] < first["loss"] / 4


def test_config_round_trip(make_model):
    given = {
        "keep": 0.25,
        "split": "random",
        "decoder_depth": 1,
        "predicted": 0.5,
        "projector": 8,
        "temperature": 0.3,
        "inpaint_weight": 0.5,
        "match_weight": 2.0,
        "seed": 7,
    }
    model = make_model(image_shape=(12, 20, 5), drop_path=0.1, **given)
    again = ks.SplitMask.from_config(model.get_config())
    assert again.get_config() == model.get_config()
    assert {name: again.get_config()[name] for name in given} == given
    assert [w.shape for w in again.weights] == [w.shape for w in model.weights]


def test_saved_model_is_restored_and_goes_on_exactly(make_model, make_images, tmp_path):
    images = make_images(8, (12, 20, 3))
    tokenizer = ks.tokenizers.KMeans((12, 20, 3), 4, vocabulary=32).fit(images)
    model = make_model("adam", image_shape=(12, 20, 3), depth=2, drop_path=0.2, tokenizer=tokenizer, seed=3)
    model.train_on_batch(images)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for name, value in model(images).items():
        np.testing.assert_array_equal(array(again(images)[name]), array(value))
    np.testing.assert_array_equal(array(again.tokenizer(images)), array(tokenizer(images)))
    np.testing.assert_array_equal(array(again.tokenizer.mean_patches), array(tokenizer.mean_patches))
    logs = [m.evaluate(images, return_dict=True, verbose=0) for m in (model, again)]
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-6)
    logs = [m.train_on_batch(images, return_dict=True) for m in (model, again)]
    np.testing.assert_allclose(logs[0]["inpaint_loss"], logs[1]["inpaint_loss"], rtol=1e-5)


def test_errors(make_model):
    with pytest.raises(ValueError, match="received inpaint_weight=0, match_weight=0"):
        make_model(inpaint_weight=0, match_weight=0)
    with pytest.raises(ValueError, match="Expected a tokenizer, since inpaint_weight is not 0"):
        make_model(tokenizer=None)
    for name, range_of, wrong in (
        ("inpaint_weight", "inpaint_weight to be a number from 0 to 1000", (-1, 1001, NAN, INF, "x", None)),
        ("match_weight", "match_weight to be a number from 0 to 1000", (-1, NAN, INF)),
        ("temperature", "temperature to be a number from 0.001 to 100", (0, 1e-30, 101, NAN, INF, True)),
        ("predicted", "predicted to be a number above 0 and up to 1", (0, 1.1, NAN, INF, "x")),
        ("projector", "the width of a projector to be a whole number from 1 to ", (-1, 2.5, NAN, INF, "x")),
        ("decoder_depth", "the depth of a decoder to be a whole number from 1 to ", (0, 1.5, NAN, INF, "x")),
        ("keep", "branch sees, to be a number above 0 and up to 0.5", (0, 0.6, NAN, INF, "x")),
    ):
        for value in wrong:
            with pytest.raises(ValueError, match=rf"^Expected .*{range_of}.*, received {value!r}; choose another\.$"):
                make_model(**{name: value})
    make_model(temperature=np.float32(0.001), match_weight=1000, predicted=1, keep=0.5, projector=1)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_words_predicted_in_parts_change_nothing(make_model, make_images, monkeypatch, accumulate):
    """8 x 2 x 8 patches and 32 words, all at once or in several parts."""
    images = make_images(8)

    def train(at_once):
        monkeypatch.setattr(chunks, "TABLE_ON_CPU", at_once)
        keras.utils.set_random_seed(0)
        model = make_model(run_eagerly=False, drop_path=0.2, accumulate=accumulate)
        logs = model.fit(images, batch_size=8, epochs=2, shuffle=False, verbose=0).history
        return [*logs.values(), *(array(v) for v in model.trainable_variables)]

    for expected, received in zip(train(2**27), train(1200 // accumulate), strict=True):
        np.testing.assert_allclose(received, expected, atol=1e-5, rtol=1e-5)
