import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.training import model_state
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.seeded import seeded_objective
from keras_splitmask.training.word_perplexity import WordPerplexity

pytestmark = pytest.mark.backend


def array(x):
    return ops.convert_to_numpy(x)


class Line(ObjectiveModel):
    """Loss: slope times the mean of the images, so the gradient is that mean. Reports the mean and one random
    number."""

    takes_pixels = False

    def __init__(self, **kwargs):
        super().__init__(None, logged=["brightness", "luck"], **kwargs)
        self.slope = self.add_weight(shape=(), initializer="ones", name="slope")
        self.seed_generator, self.other = keras.random.SeedGenerator(0), keras.random.SeedGenerator(0)
        self.build(None)

    def build(self, images_shape):
        self.built = True

    def call(self, images):
        return images

    def objective(self, batch, training):
        brightness = ops.mean(batch.images)
        luck = keras.random.uniform((), seed=self.seed_generator)
        return self.slope * brightness, {"brightness": brightness, "luck": luck}


class Followed(Line):
    """A line whose `follower` is given the moved slope, the step's number and a value of the report."""

    def build(self, images_shape):
        self.follower = self.add_weight(shape=(3,), initializer="zeros", trainable=False, name="follower")
        super().build(images_shape)

    def objective(self, batch, training):
        loss, report = super().objective(batch, training)
        return loss, {**report, "for_the_hook": 10 * ops.mean(batch.images)}

    def after_step(self, step, report):
        self.follower.assign(ops.stack([ops.cast(x, "float32") for x in (self.slope, step, report["for_the_hook"])]))


@pytest.fixture
def make_line():
    def make(optimizer=None, run_eagerly=False, seed=0, **kwargs):
        model = Line(seed=seed)
        jit_compile = keras.backend.backend() == "jax" and not run_eagerly
        model.compile(
            optimizer=optimizer or keras.optimizers.SGD(0.5), run_eagerly=run_eagerly, jit_compile=jit_compile, **kwargs
        )
        return model

    return make


def step(model, images):
    model.reset_metrics()
    return model.train_on_batch(images, return_dict=True)


def grey(*levels):
    return np.repeat(np.array(levels, "float32"), 2).reshape(-1, 2, 1, 1)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_step_follows_the_gradient(make_line, run_eagerly):
    model = make_line(run_eagerly=run_eagerly)
    logs = step(model, grey(-3.0, -1.0))
    np.testing.assert_allclose(float(model.slope), 1 - 0.5 * -2)
    assert {name: float(logs[name]) for name in ("loss", "brightness", "gradient_norm", "skipped_steps")} == {
        "loss": -2,
        "brightness": -2,
        "gradient_norm": 2,
        "skipped_steps": 0,
    }


def test_reports_are_averaged_over_batches_and_labels_ignored(make_line):
    model = make_line(keras.optimizers.SGD(0.0))
    logs = model.fit(grey(1.0, 2.0, 3.0, 6.0), np.zeros(4), batch_size=1, shuffle=False, verbose=0).history
    assert logs["brightness"] == [(1 + 2 + 3 + 6) / 4] and logs["gradient_norm"] == [3]
    answer = model.evaluate(grey(1.0, 2.0), np.zeros(2), batch_size=1, return_dict=True, verbose=0)
    assert set(answer) == {"loss", "brightness", "luck"} and answer["loss"] == 1.5


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras refuses several steps per execution on torch.")
def test_several_steps_per_execution(make_line):
    model = make_line(steps_per_execution=2)
    model.fit(grey(1.0, 2.0, 3.0, 6.0), batch_size=1, shuffle=False, verbose=0)
    assert (float(model.slope), int(model.optimizer.iterations)) == (pytest.approx(1 - 0.5 * (1 + 2 + 3 + 6)), 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_step_that_is_not_finite_changes_nothing_but_its_number(make_line, bad, run_eagerly):
    model = make_line(keras.optimizers.Adam(0.1), run_eagerly=run_eagerly)
    step(model, grey(1.0))
    iterations = model.optimizer.iterations
    before = {v.path: array(v) for v in (*model.trainable_variables, *model.optimizer.variables) if v is not iterations}
    logs = step(model, grey(1.0, bad))
    for v in (*model.trainable_variables, *model.optimizer.variables):
        if v is not iterations:
            np.testing.assert_array_equal(array(v), before[v.path])
    assert int(iterations) == 2 and logs["skipped_steps"] == 1
    assert step(model, grey(1.0))["skipped_steps"] == 0 and float(model.slope) < before[model.slope.path]


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_after_step_sees_the_new_weights_and_is_skipped_with_a_bad_step(run_eagerly):
    model = Followed()
    jit_compile = keras.backend.backend() == "jax" and not run_eagerly
    model.compile(keras.optimizers.SGD(0.5), run_eagerly=run_eagerly, jit_compile=jit_compile)
    expected = {2.0: [0.0, 0, 20], -4.0: [2.0, 1, -40], np.nan: [2.0, 1, -40], 6.0: [-1.0, 3, 60]}
    for level, follower in expected.items():
        assert "for_the_hook" not in step(model, grey(level))
        np.testing.assert_allclose(array(model.follower), follower)


def test_means_skip_values_that_are_not_finite(make_line):
    logs = (
        make_line(keras.optimizers.SGD(0.0)).fit(grey(1.0, np.nan, 2.0), batch_size=1, shuffle=False, verbose=0).history
    )
    assert (logs["brightness"], logs["loss"], logs["skipped_steps"]) == ([1.5], [1.5], [1])


def test_nan_pixels_change_no_weight_and_no_slot_of_splitmask(make_model, make_images):
    model = make_model("adam", depth=1, decoder_depth=1)
    images = make_images() / np.float32(255)
    model.train_on_batch(images)
    state = [v for v in model.trainable_variables + model.optimizer.variables if v is not model.optimizer.iterations]
    before = [array(v) for v in state]
    assert len(before) > 2 * len(model.trainable_variables)
    images[3, 5, 5, 0] = np.nan
    logs = step(model, images)
    for variable, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(array(variable), old)
    assert logs["skipped_steps"] == 1 and int(model.optimizer.iterations) == 2
    assert all(np.isfinite(value) for value in logs.values())


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_loss_scaling_is_lowered_by_a_step_that_overflows_and_left_out_of_the_norm(make_line, run_eagerly):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5), initial_scale=2.0**120)
    model = make_line(optimizer, run_eagerly=run_eagerly)
    logs = step(model, grey(-(2.0**10)))  # 2^10 * 2^120 is above float32's range of 2^128
    assert logs["skipped_steps"] == 1 and float(model.slope) == 1 and float(optimizer.dynamic_scale) == 2.0**119
    assert int(optimizer.iterations) == 1
    for _ in range(80):  # the norm's square must fit, too
        logs = step(model, grey(-(2.0**10)))
        if not logs["skipped_steps"]:
            break
    assert logs["gradient_norm"] == 2.0**10 and float(model.slope) == 1 + 0.5 * 2**10


class Poison(keras.layers.Layer):
    """Hands images on; `variables` say what is to go wrong in the next step."""

    def __init__(self, **kwargs):
        super().__init__(dtype="float32", name="poison", **kwargs)
        self.image, self.gradient, self.loss = (
            self.add_weight(shape=(), initializer="ones", trainable=False, name=n)
            for n in ("image", "gradient", "loss")
        )
        self.built = True

    def call(self, images, training=None):
        return ops.cast(images, "float32") / 255 * self.image


class Poisoned(ks.SplitMask):
    def objective(self, batch, training):
        loss, report = super().objective(batch, training)
        # At 0 the root is finite, and its derivative is not.
        return (
            loss * self.augmentation.loss
            + 1e-3 * ops.sqrt(self.augmentation.gradient * ops.abs(self.encoder.norm.gamma[0])),
            report,
        )


@pytest.fixture
def poisoned(make_encoder):
    def make(precision="float32"):
        keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
        encoder = make_encoder(depth=1)
        tokenizer = ks.tokenizers.RandomProjection(encoder.image_shape, encoder.patch_size, 32)
        model = Poisoned(encoder, tokenizer, decoder_depth=1, augmentation=Poison())
        jax = keras.backend.backend() == "jax"
        model.compile("adam", run_eagerly=not jax, jit_compile=jax)
        return model

    return make


BAD = [("image", np.nan), ("image", np.inf), ("gradient", 0.0), ("loss", np.nan), ("loss", np.inf)]


NO_FLOAT16 = pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has no attention in float16 on CPUs.")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("float16", marks=NO_FLOAT16)])
def test_a_bad_batch_gradient_or_loss_changes_nothing_in_any_precision(poisoned, make_images, precision):
    model, images = poisoned(precision), make_images()
    for _ in range(2):
        step(model, images)
    variables = model_state.variables_of(model)
    allowed = ("random/", "optimizer/scaling/", "poison/")
    seen = int(model.optimizer.iterations)
    assert seen == 2
    for place, value in BAD:
        before = {
            name: array(v)
            for name, v in variables.items()
            if not name.startswith(allowed) and not name.endswith("iteration")
        }
        assert len(before) > 3 * len(model.trainable_variables)
        getattr(model.augmentation, place).assign(value)
        logs, seen = step(model, images), seen + 1
        getattr(model.augmentation, place).assign(1.0)
        assert logs["skipped_steps"] == 1 and int(model.optimizer.iterations) == seen, (place, value)
        for name, old in before.items():
            np.testing.assert_array_equal(array(variables[name]), old, err_msg=f"{name} after {place} {value}")
    assert all(np.isfinite(array(v)).all() for v in variables.values())
    for _ in range(8):  # float16 may have to lower its scale first
        logs = step(model, images)
        seen += 1
    assert logs["skipped_steps"] == 0 and int(model.optimizer.iterations) == seen


def test_the_scale_of_float16_comes_back_from_any_number_of_bad_steps(make_line):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.5), initial_scale=8.0, dynamic_growth_steps=2
    )
    model = make_line(optimizer)
    for _ in range(6):
        step(model, grey(np.nan))
    assert float(optimizer.dynamic_scale) == 1.0 and int(optimizer.iterations) == 6
    for _ in range(4):
        assert step(model, grey(1.0))["skipped_steps"] == 0
    assert float(optimizer.dynamic_scale) > 1.0 and float(model.slope) == 1 - 4 * 0.5


def test_the_first_bad_tensor_is_named(poisoned, make_images):
    model, images = poisoned(), make_images()
    step(model, images)
    assert model.first_bad_tensor(images, 0) is None
    assert model.first_bad_tensor(np.full((8, 16, 16, 3), np.nan, "float32"), 0) == "the images"
    expected = {"image": "the output of poison", "gradient": "the gradient of encoder/norm/gamma", "loss": "the loss"}
    for place, value in BAD if keras.backend.backend() != "jax" else BAD[:3:2]:  # eager steps of JAX take long
        getattr(model.augmentation, place).assign(value)
        found = model.first_bad_tensor(images, 0)
        assert found == expected[place], (place, value, found)
        getattr(model.augmentation, place).assign(1.0)
    kernel = model.encoder.blocks[0].expand.kernel
    kernel.assign(ops.full(kernel.shape, np.nan))
    assert model.first_bad_tensor(images, 0) == f"the weight {kernel.path}"


def lucks(model, count):
    return [float(step(model, grey(0.0))["luck"]) for _ in range(count)]


def test_randomness_of_a_step_is_a_function_of_seed_and_step(make_line):
    steps = lucks(make_line(), 4)
    assert len(set(steps)) == 4
    resumed = make_line()
    resumed.optimizer.iterations.assign(2)
    assert lucks(resumed, 2) == steps[2:]
    assert lucks(make_line(), 4) == steps
    assert not set(lucks(make_line(seed=1), 4)) & set(steps)


def test_a_resumed_splitmask_sees_the_same_splits_and_drops_the_same_paths(make_model, make_images):
    images = make_images()

    def losses(first, count):
        keras.utils.set_random_seed(0)
        model = make_model(keras.optimizers.SGD(0.0), depth=2, decoder_depth=1, drop_path=0.5)
        model.optimizer.iterations.assign(first)
        return [float(step(model, images)["loss"]) for _ in range(count)]

    whole = losses(0, 4)
    assert len(set(whole)) == 4
    np.testing.assert_allclose(losses(2, 2), whole[2:], rtol=1e-6)


def test_layers_draw_from_different_streams():
    class Two(Line):
        def objective(self, batch, training):
            luck = [keras.random.uniform((8,), seed=generator) for generator in (self.seed_generator, self.other)]
            return self.slope * ops.mean(batch.images), {"luck": ops.mean(ops.abs(luck[0] - luck[1]))}

    model = Two()
    model.compile("sgd", run_eagerly=True)
    assert step(model, grey(1.0))["luck"] > 0.05


def test_evaluation_repeats_itself(make_line):
    model = make_line()
    model.evaluate(grey(1.0), verbose=0)
    first = model.evaluate(grey(1.0), return_dict=True, verbose=0)["luck"]
    lucks(model, 3)
    assert model.evaluate(grey(1.0), return_dict=True, verbose=0)["luck"] == first


def test_compiled_loss_is_the_eager_objectives(make_model, make_images):
    model, images = make_model(run_eagerly=False, split="random"), make_images()
    compiled = model.evaluate(images, batch_size=8, return_dict=True, verbose=0)
    loss, report = seeded_objective(model, (images,), 0, training=False)
    np.testing.assert_allclose(compiled["loss"], array(loss), rtol=1e-4)
    np.testing.assert_allclose(compiled["match_loss"], array(report["match_loss"]), rtol=1e-4)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Torch compiles nothing; JAX takes a minute for an eager step."
)
def test_eager_and_compiled_training_are_equal(make_model, make_images):
    images, losses = make_images(), []
    for run_eagerly in (True, False):
        keras.utils.set_random_seed(0)
        model = make_model("adam", depth=1, decoder_depth=1, drop_path=0.1, run_eagerly=run_eagerly)
        losses.append([float(step(model, images)["loss"]) for _ in range(3)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)
    assert len(set(losses[0])) == 3


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles with XLA above.")
def test_xla_and_eager_training_are_equal(make_model, make_images, fix_random_numbers):
    images, losses = make_images(), []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        model = make_model("sgd", depth=1, decoder_depth=1, run_eagerly=not jit_compile, jit_compile=jit_compile)
        losses.append([float(step(model, images)["loss"]) for _ in range(2)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


@pytest.fixture
def fix_random_numbers(monkeypatch):
    """XLA draws other random numbers than TensorFlow's kernels do; the order of patches is given here instead."""
    from keras_splitmask.split import Split

    monkeypatch.setattr(
        Split, "call", lambda self, images: ops.convert_to_tensor(np.tile(np.arange(16, dtype="int32")[::-1], (8, 1)))
    )


def test_a_model_must_say_what_it_minimises():
    with pytest.raises(NotImplementedError, match="ObjectiveModel must define"):
        ObjectiveModel(None).objective(None, training=True)


def perplexity(*batches, vocabulary=8):
    metric = WordPerplexity(vocabulary)
    for batch in batches:
        metric.update_state(np.array(batch, "int32"))
    return float(metric.result())


def test_word_perplexity():
    np.testing.assert_allclose(perplexity([[0, 1], [2, 7]]), 4, rtol=1e-5)
    np.testing.assert_allclose(perplexity([[5, 5, 5]]), 1, rtol=1e-5)
    uneven = math.exp(-(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)))
    np.testing.assert_allclose(perplexity([[1, 1]], [[1, 2]]), uneven, rtol=1e-5)


def test_word_perplexity_starts_again_when_reset():
    metric = WordPerplexity(8)
    metric.update_state(np.array([[0, 1, 2]], "int32"))
    metric.reset_state()
    metric.update_state(np.array([[3, 4]], "int32"))
    np.testing.assert_allclose(float(metric.result()), 2, rtol=1e-5)
