import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.baselines.dino import local_size
from keras_splitmask.resampling import resample_table
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.model_state import variables_of

pytestmark = pytest.mark.backend

SHAPE = (12, 20, 3)
EAGERLY = keras.backend.backend() != "jax"


def array(x):
    return (
        ops.convert_to_numpy(x).astype("float64")
        if hasattr(x, "dtype") and "float" in str(x.dtype)
        else ops.convert_to_numpy(x)
    )


@pytest.fixture
def make_dino(make_encoder, monkeypatch):
    monkeypatch.setattr(ks.baselines.dino, "HIDDEN", 32)
    monkeypatch.setattr(ks.baselines.dino, "BOTTLENECK", 8)

    def make(
        optimizer=None,
        image_shape=SHAPE,
        drop_path=0.0,
        width=16,
        run_eagerly=EAGERLY,
        **kwargs,
    ):
        model = ks.baselines.DINO(
            make_encoder(image_shape, depth=1, width=width, drop_path=drop_path),
            **{"steps": 8, "prototypes": 24, **kwargs},
        )
        model.compile(
            optimizer or keras.optimizers.Adam(1e-2),
            run_eagerly=run_eagerly,
            jit_compile=keras.backend.backend() == "jax",
        )
        return model

    return make


@pytest.fixture
def make_views(make_images):
    def make(count=4, local=3, image_shape=SHAPE, local_shape=(4, 8)):
        return {
            "global": np.stack([make_images(count, image_shape) for _ in range(2)], axis=1),
            "local": (
                make_images(count * local, (*local_shape, image_shape[-1])).reshape(
                    count, local, *local_shape, image_shape[-1]
                )
            ),
        }

    return make


def softmax(x):
    shares = np.exp(x - x.max(axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


def teacher_answers(model, views):
    return [array(model.head(model.encoder(views["global"][:, i])["cls"])) for i in range(2)]


def loss_told_again(model, views):
    """Pair by pair, with a teacher's temperature and centre as the model has them."""
    table = resample_table(
        ops.convert_to_numpy(model.student.patch_embedding.position_table()), model.encoder.grid, (1, 2)
    )
    crops = [(views["global"][:, i], None) for i in range(2)] + [
        (views["local"][:, i], table) for i in range(views["local"].shape[1])
    ]
    logits = [
        array(model.student_head(model.student.encode(model.student.embed(crop, table=t))[:, 0])) for crop, t in crops
    ]
    targets = [
        softmax((a - array(model.centre)) / float(model.teacher_temperature)) for a in teacher_answers(model, views)
    ]
    taken = [
        -(t * np.log(softmax(s / 0.1))).sum(axis=-1)
        for i, t in enumerate(targets)
        for j, s in enumerate(logits)
        if i != j
    ]
    return np.mean(taken), len(taken)


@pytest.mark.parametrize(("local", "pairs"), [(3, 8), (0, 2)])
def test_the_objective_is_the_papers(make_dino, make_views, rng, local, pairs):
    model, views = make_dino(), make_views(local=local)
    for weight in model.weights[:-2]:
        weight.assign(array(weight) + 0.1 * rng.standard_normal(weight.shape))  # student and teacher apart
    model.centre.assign(0.1 * rng.standard_normal(24))
    loss, report = model.objective(Batch(views), training=False)
    expected, count = loss_told_again(model, views)
    assert count == pairs
    np.testing.assert_allclose(float(loss), expected, rtol=1e-4)
    np.testing.assert_allclose(
        array(report["teacher_mean"]), np.concatenate(teacher_answers(model, views)).mean(axis=0), atol=1e-5
    )


def test_a_loss_by_hand():
    targets = np.array([[[0.5, 0.5]], [[1.0, 0.0]]], "float32")  # two views of one image
    logits = 0.1 * np.log(np.array([[[0.25, 0.75]], [[0.5, 0.5]], [[0.1, 0.9]]], "float32"))
    pairs = [0.5 * math.log(2) * 2, -(0.5 * math.log(0.1) + 0.5 * math.log(0.9)), -math.log(0.25), -math.log(0.1)]
    np.testing.assert_allclose(
        array(
            ks.losses.distil(
                ops.convert_to_tensor(logits.swapaxes(0, 1)), ops.convert_to_tensor(targets.swapaxes(0, 1))
            )
        ),
        [sum(pairs) / 4],
        rtol=1e-5,
    )


def test_the_head_gives_cosines_with_prototypes(make_dino, rng):
    model = make_dino()
    x = rng.standard_normal((5, 16)).astype("float32")
    before = array(model.head(x))
    assert before.shape == (5, 24) and 0.05 < np.abs(before).max() <= 1 + 1e-5
    model.head.kernel.assign(array(model.head.kernel) * np.linspace(0.5, 2, 24))  # only their directions count
    np.testing.assert_allclose(array(model.head(x)), before, atol=1e-5)


def test_a_step_moves_teacher_centre_and_temperature_as_the_formulas_say(make_dino, make_views):
    model, views = make_dino(momentum=0.9, teacher_temperatures=(0.04, 0.07), teacher_warmup=2), make_views()
    pairs = [(f"{t.path}", s, t) for s, t in model._pairs()]
    assert len(pairs) == len(model.trainable_variables) > 20 and all((array(s) == array(t)).all() for _, s, t in pairs)
    for step, momentum in enumerate(
        [0.9, 1 - 0.1 * (1 + math.cos(math.pi / 8)) / 2, 1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2]
    ):
        np.testing.assert_allclose(float(model.teacher_temperature), min(0.07, 0.04 + 0.015 * step), rtol=1e-5)
        before = {path: array(t) for path, _, t in pairs}
        centre = 0.9 * array(model.centre) + 0.1 * np.concatenate(teacher_answers(model, views)).mean(axis=0)
        model.train_on_batch(views)
        for path, student, teacher in pairs:
            np.testing.assert_allclose(
                array(teacher), momentum * before[path] + (1 - momentum) * array(student), atol=1e-6, err_msg=path
            )
        np.testing.assert_allclose(array(model.centre), centre, atol=1e-5)
    assert sum((array(s) != array(t)).any() for _, s, t in pairs) == len(pairs)


def test_a_teacher_that_was_frozen_follows_all_the_same(make_dino, make_views):
    model, frozen, views = make_dino(momentum=0.9), make_dino(momentum=0.9), make_views()
    frozen.set_weights(model.get_weights())
    frozen.encoder.trainable = False
    for each in (model, frozen):
        each.train_on_batch(views)
    for ours, theirs in zip(model.encoder.weights, frozen.encoder.weights, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), atol=1e-7)


def test_only_the_student_gets_gradients(make_dino, make_views):
    model, views = make_dino(keras.optimizers.SGD(1.0), momentum=1.0), make_views()
    model.student_head.kernel.assign(
        -array(model.student_head.kernel)
    )  # the teacher's answers are no longer the student's
    pairs = [(array(s), array(t)) for s, t in model._pairs()]
    model.train_on_batch(views)
    for (student, teacher), (old_student, old_teacher) in zip(model._pairs(), pairs, strict=True):
        assert (array(student) != old_student).any(), student.path
        np.testing.assert_allclose(array(teacher), old_teacher, rtol=1e-6)
    assert not {v.path for v in model.trainable_variables} & {v.path for v in model.non_trainable_variables}
    assert len(model.trainable_variables) + len(model.non_trainable_variables) == len(model.variables)
    assert all(v.trainable for v in model.encoder.weights)  # for fine-tuning


def test_the_momentum_rises_to_one(make_dino):
    model = make_dino(steps=100)
    for step, momentum in {0: 0.996, 50: 0.998, 100: 1.0, 200: 1.0}.items():
        assert float(model.momentum_at(step)) == pytest.approx(momentum, abs=1e-6)


def test_a_skipped_step_moves_nothing(make_dino, make_views):
    model, views = make_dino(teacher_temperatures=(0.04, 0.07), teacher_warmup=4), make_views()
    model.train_on_batch(views)
    state = {
        k: v for k, v in variables_of(model).items() if not k.startswith("random/") and not k.endswith("iteration")
    }
    before = {name: array(v) for name, v in state.items()}
    assert {"dino/centre", "dino/temperature", "encoder/cls_token", "student/cls_token"} <= set(before)
    bad = {
        **views,
        "local": np.where(np.arange(3)[None, :, None, None, None] == 1, np.nan, views["local"] / 255).astype("float32"),
    }
    bad["global"] = (views["global"] / 255).astype("float32")
    model.reset_metrics()
    assert model.train_on_batch(bad, return_dict=True)["skipped_steps"] == 1
    for name, value in state.items():
        np.testing.assert_array_equal(array(value), before[name], err_msg=name)
    if keras.backend.backend() != "jax":
        assert model.first_bad_tensor(bad, 1) == "the images" and model.first_bad_tensor(views, 1) is None


def test_the_prototypes_stay_frozen(make_dino, make_views):
    optimizer = ks.training.adamw(
        1e-2, 6, warmup=0, weight_decay=(0.04, 0.4), clip_each=True, frozen="student_head/kernel$", frozen_steps=2
    )
    model, views = make_dino(optimizer), make_views()
    kernel, other = model.student_head.kernel, model.student_head.hidden.kernel
    before = array(kernel), array(other)
    for step in range(3):
        model.train_on_batch(views)
        assert (array(kernel) != before[0]).any() == (step == 2) and (array(other) != before[1]).all()


def test_a_saved_model_goes_on_exactly(make_dino, make_views, tmp_path):
    views = make_views()
    model = make_dino(
        ks.training.adamw(1e-2, 8, weight_decay=(0.04, 0.4), frozen="student_head/kernel$", frozen_steps=1),
        drop_path=0.2,
    )
    model.train_on_batch(views)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    for _ in range(2):
        assert model.train_on_batch(views, return_dict=True)["loss"] == pytest.approx(
            again.train_on_batch(views, return_dict=True)["loss"], rel=1e-4
        )
    for a, b in zip(model.weights, again.weights, strict=True):
        np.testing.assert_allclose(array(a), array(b), atol=1e-4)


def test_the_result_is_the_teacher(make_dino, make_images, make_encoder, tmp_path):
    model, images = make_dino(), make_images(2, SHAPE)
    for weight in model.student.weights:
        weight.assign(array(weight) + 1)
    model.save(tmp_path / "model.keras")
    kept = ks.interchange.load_encoder(tmp_path)
    for name, value in model.encoder(images).items():
        np.testing.assert_array_equal(array(model(images)[name]), array(value))
        np.testing.assert_allclose(array(kept(images)[name]), array(value), atol=1e-6)
    assert kept.trainable_variables
    other = make_dino()
    ks.interchange.initialise(other, tmp_path)
    other.start_student()
    for mine, his in zip(other.student.weights, model.encoder.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(his))


def test_a_batch_of_another_shape_is_learnt_without_collapse(make_dino, make_views):
    image_shape = (16, 8, 1)
    shape = local_size(image_shape, 4)
    augmentation = ks.augment.views_preset("flip")
    model = make_dino(
        keras.optimizers.Adam(1e-3),
        image_shape=image_shape,
        momentum=0.99,
        steps=1000,
        augmentation=augmentation,
        run_eagerly=False,
    )
    views = make_views(8, 2, image_shape, shape)
    logs = []
    for _ in range(25):
        model.reset_metrics()
        logs.append(model.train_on_batch(views, return_dict=True))
    first, last = logs[0], logs[-1]
    assert model.local_shape == (8, 4) and first["loss"] > 0.8 * math.log(24) and last["loss"] < 0.8 * first["loss"], (
        first,
        last,
    )
    assert last["feature_std"] > 0.5 * first["feature_std"] and last["teacher_entropy"] > 0.01


def test_sizes_of_local_crops():
    assert (
        local_size((224, 224, 3), 16) == (96, 96)
        and local_size((28, 28, 1), 7) == (14, 14)
        and local_size((12, 20, 3), 4) == (4, 8)
    )


def test_errors(make_dino):
    for wrong, message in (
        ({"steps": 0}, "received steps=0"),
        ({"momentum": 1.1}, "momentum=1.1"),
        ({"temperature": 0.0}, "Expected each temperature to be a number from 0.001 to 100, received 0.0"),
        ({"teacher_temperatures": (0.04, float("nan"))}, "Expected each temperature to be a number .*, received nan"),
        ({"local_shape": (5, 8)}, "received 5x8 pixels and patch_size=4"),
    ):
        with pytest.raises(ValueError, match=message):
            make_dino(**wrong)
