import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.training.optimizer import (
    DECAY_RULES,
    LayerwiseAdamW,
    adamw,
    decays,
    layer_of,
)
from keras_splitmask.training.schedules import SCHEDULES, WarmupCosine

PATHS = {  # a weight's path: whether it decays
    "encoder/patch_embedding/project/kernel": True,
    "encoder/patch_embedding/project/bias": False,
    "encoder/patch_embedding/positions": False,
    "encoder/cls_token": False,
    "encoder/extra_tokens": False,
    "encoder/block_1/attention/relative_positions": False,
    "encoder/block_1/norm_mlp/gamma": False,
    "encoder/block_2/norm_mlp/beta": False,
    "encoder/block_2/attention/qkv/kernel": True,
    "encoder/norm/gamma": False,
    "decoder/mask_token": False,
    "decoder/block_1/expand/kernel": True,
}


class Path(keras.Variable):
    """A variable of a path of one's own."""

    def __init__(self, path, value):
        super().__init__(np.asarray(value, "float32"), name=path.rsplit("/", 1)[-1])
        self._path = path


def variables(rng):
    return [Path(path, rng.standard_normal((2, 3))) for path in PATHS]


def numpy_adamw(weight, gradients, rates, decay, beta_1=0.9, beta_2=0.999):
    """AdamW with decoupled decay (Loshchilov and Hutter, 2019, algorithm 2), where the rate multiplies both."""
    m = v = np.zeros_like(weight)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient**2
        weight = weight - rate * decay * weight - rate * (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + 1e-8)
    return weight


@pytest.mark.backend
@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_steps_are_those_of_adamw(rng, layer_decay):
    weights = variables(rng)
    before = [ops.convert_to_numpy(w) for w in weights]
    gradients = [rng.standard_normal((4, 2, 3)).astype("float32") for _ in weights]
    optimizer = adamw(
        0.1, steps=8, warmup=2, floor=0.02, weight_decay=0.3, clip_norm=None, layer_decay=layer_decay, depth=2
    )
    for step in range(4):
        optimizer.apply([ops.convert_to_tensor(g[step]) for g in gradients], weights)
    # Warm-up from 0 in two steps, then the first of a cosine from 0.1 to 0.02 over the six that are left.
    rates = np.array([0, 0.05, 0.1, 0.02 + 0.08 * (1 + np.cos(np.pi / 6)) / 2])
    layers = [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    for weight, start, gradient, layer in zip(weights, before, gradients, layers, strict=True):
        scale = layer_decay ** (3 - layer)
        expected = numpy_adamw(start, gradient, rates * scale, 0.3 if PATHS[weight.path] else 0.0)
        np.testing.assert_allclose(ops.convert_to_numpy(weight), expected, atol=2e-6, err_msg=weight.path)
    assert int(optimizer.iterations) == 4


@pytest.mark.backend
def test_a_weight_whose_rows_lie_apart_in_memory_moves_all_the_same(rng):
    first, gradient = (rng.standard_normal((3, 2)).astype("float32") for _ in range(2))
    weight = keras.Variable(ops.transpose(ops.convert_to_tensor(first)), name="kernel")
    LayerwiseAdamW(0.1, weight_decay=0.0, epsilon=1e-8).apply([ops.convert_to_tensor(gradient.T)], [weight])
    np.testing.assert_allclose(ops.convert_to_numpy(weight), numpy_adamw(first, [gradient], [0.1], 0.0).T, atol=3e-6)


@pytest.mark.backend
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="only torch shows how a weight lies in memory")
def test_weights_lie_in_memory_from_the_first_step_on_as_in_a_run_that_goes_on(rng):
    weight = keras.Variable(ops.transpose(ops.convert_to_tensor(rng.standard_normal((3, 2)))), name="kernel")
    assert not weight.value.is_contiguous()
    before = ops.convert_to_numpy(weight)
    LayerwiseAdamW(0.1).build([weight])
    assert weight.value.is_contiguous() and (ops.convert_to_numpy(weight) == before).all()
    weight.assign(before.T.copy().T)  # as a checkpoint does
    assert weight.value.is_contiguous()


def test_the_decay_has_its_layers_share_of_the_rate(rng):
    """With gradients of 0 only the decay is left."""
    weights = variables(rng)
    before = [ops.convert_to_numpy(w) for w in weights]
    LayerwiseAdamW(0.1, layer_decay=0.5, depth=2, weight_decay=0.2).apply([ops.zeros((2, 3))] * len(weights), weights)
    shrunk = {w.path: ops.convert_to_numpy(w) / start for w, start in zip(weights, before, strict=True)}
    np.testing.assert_allclose(shrunk.pop("encoder/patch_embedding/project/kernel"), 1 - 0.1 * 0.2 * 0.5**3, rtol=1e-6)
    np.testing.assert_allclose(shrunk.pop("encoder/block_2/attention/qkv/kernel"), 1 - 0.1 * 0.2 * 0.5, rtol=1e-6)
    np.testing.assert_allclose(shrunk.pop("decoder/block_1/expand/kernel"), 1 - 0.1 * 0.2, rtol=1e-6)
    assert all((ratio == 1).all() for ratio in shrunk.values())


@pytest.mark.backend
def test_clipping_is_of_all_gradients_together():
    a, b = Path("a/bias", [0.0]), Path("b/bias", [0.0])
    optimizer = adamw(1.0, steps=2, warmup=0, floor=1.0, weight_decay=0, clip_norm=1.0)
    optimizer.apply([ops.convert_to_tensor([30.0]), ops.convert_to_tensor([40.0])], [a, b])
    moments = [ops.convert_to_numpy(v).item() for v in optimizer.variables if v.path.endswith("momentum")]
    # The gradients become 30 / 50 and 40 / 50, of which the first moment takes a tenth.
    assert moments == pytest.approx([0.1 * 30 / 50, 0.1 * 40 / 50])


def test_every_weight_must_be_claimed():
    assert {path: decays(path) for path in PATHS} == PATHS
    weights = [Path("a/kernel", [1.0]), Path("head/scale", [1.0]), Path("a/kernel_norm", [1.0])]
    with pytest.raises(
        ValueError, match="No rule says whether these weights decay: head/scale, a/kernel_norm; add one to DECAY_RULES"
    ):
        LayerwiseAdamW(1e-3).build(weights)
    assert decays("head/scale", ((r"scale$", True), *DECAY_RULES)) is True


def test_amsgrad_is_refused():
    with pytest.raises(ValueError, match="Expected amsgrad=False, received True"):
        LayerwiseAdamW(1e-3, amsgrad=True)


def test_layers_count_from_the_embeddings_to_the_head():
    assert [layer_of(path, 2) for path in PATHS] == [0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert (
        layer_of("classifier/encoder/block_12/expand/kernel", 12) == 12 and layer_of("classifier/head/kernel", 12) == 13
    )
    assert layer_of("teacher_encoder/block_1/expand/kernel", 12) == 13  # another's blocks


@pytest.mark.backend
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", {0: 0, 5: 0.4, 10: 0.8, 35: 0.2 + 0.6 * (1 + 2**-0.5) / 2, 60: 0.5, 110: 0.2, 999: 0.2}),
        ("linear", {0: 0, 5: 0.4, 10: 0.8, 35: 0.65, 60: 0.5, 110: 0.2, 999: 0.2}),
        ("steps", {0: 0, 5: 0.4, 10: 0.8, 82: 0.8, 83: 0.2, 110: 0.2}),
    ],
)
def test_schedules_by_hand(name, expected):
    schedule = SCHEDULES[name](peak=0.8, steps=110, warmup=10, floor=0.2)
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)
    assert float(SCHEDULES[name](0.8, 4)(0)) == pytest.approx(0.8)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(again) is type(schedule) and again.get_config() == schedule.get_config()


def test_the_steps_of_detectors():
    schedule = SCHEDULES["steps"](peak=1.0, steps=36)
    assert [float(schedule(step)) for step in (26, 27, 32, 33, 36)] == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_the_numbers_of_the_paper():
    optimizer = adamw(2e-3, steps=300)
    schedule = optimizer._learning_rate
    assert (schedule.peak, schedule.steps, schedule.warmup, schedule.floor) == (2e-3, 300, 10, 1e-5)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.weight_decay, optimizer.global_clipnorm) == (
        0.9,
        0.999,
        0.05,
        3.0,
    )
    assert adamw(1e-6, steps=10)._learning_rate.floor == 1e-6  # never above the peak


@pytest.mark.backend
def test_the_config_makes_an_equal_optimizer():
    optimizer = adamw(1e-3, steps=10, warmup=2, layer_decay=0.7, depth=3, beta_2=0.98)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(again, LayerwiseAdamW) and again.get_config() == optimizer.get_config()
    assert again._learning_rate.get_config() == optimizer._learning_rate.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: WarmupCosine(1.0, steps=5, warmup=5),
            "Expected fewer steps of warm-up than steps in all, received warmup=5, steps=5",
        ),
        (lambda: WarmupCosine(1.0, steps=5, warmup=-1), "received warmup=-1"),
        (lambda: adamw(-1e-3, 9), "Expected a learning rate of at least 0, received -0.001"),
        (lambda: adamw(float("nan"), 9), "Expected a learning rate of at least 0, received nan"),
        (
            lambda: adamw(1e-3, 9, schedule="poly"),
            "Expected schedule to be one of cosine, linear, steps, received 'poly'",
        ),
        (
            lambda: LayerwiseAdamW(1e-3, layer_decay=0.9),
            "Expected layer_decay in .0, 1., and a depth if below 1, received layer_decay=0.9, depth=0",
        ),
        (lambda: LayerwiseAdamW(1e-3, layer_decay=1.1, depth=2), "received layer_decay=1.1"),
        (lambda: LayerwiseAdamW(1e-3, layer_decay=0, depth=2), "received layer_decay=0"),
    ],
)
def test_bad_values_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.backend
def test_a_weight_that_was_frozen_moves_as_far_as_others_when_it_is_let_go(rng):
    weight = variables(rng)[-1]
    before = ops.convert_to_numpy(weight)
    optimizer = LayerwiseAdamW(0.01, weight_decay=0.0, frozen=f"{weight.path}$", frozen_steps=40)
    for step in range(44):
        optimizer.apply([ops.ones((2, 3))], [weight])
        if step < 40:
            np.testing.assert_array_equal(ops.convert_to_numpy(weight), before)
    np.testing.assert_allclose(before - ops.convert_to_numpy(weight), 4 * 0.01, rtol=1e-3)


@pytest.mark.backend
def test_weight_decay_follows_half_a_cosine():
    kernel = Path("a/kernel", [1.0])
    optimizer = adamw(0.5, steps=100, warmup=0, floor=0.5, weight_decay=(0.04, 0.4), clip_norm=None)
    optimizer.build([kernel])
    for step, decay in {0: 0.04, 25: 0.22 - 0.18 * 2**-0.5, 50: 0.22, 100: 0.4, 300: 0.4}.items():
        kernel.assign([1.0])
        optimizer.iterations.assign(step)
        optimizer.apply([ops.zeros((1,))], [kernel])
        assert ops.convert_to_numpy(kernel).item() == pytest.approx(1 - 0.5 * decay, rel=1e-5)
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert (
        again.weight_decay.get_config() == optimizer.weight_decay.get_config()
        and again.get_config() == optimizer.get_config()
    )


@pytest.mark.backend
def test_clipping_each_gradient_by_itself():
    a, b = Path("a/bias", [0.0]), Path("b/bias", [0.0])
    optimizer = adamw(1.0, steps=2, warmup=0, floor=1.0, weight_decay=0, clip_norm=1.0, clip_each=True)
    optimizer.apply([ops.convert_to_tensor([30.0]), ops.convert_to_tensor([0.5])], [a, b])
    moments = [ops.convert_to_numpy(v).item() for v in optimizer.variables if v.path.endswith("momentum")]
    assert moments == pytest.approx([0.1, 0.05])
