"""What is dropped in one layer says nothing about what is dropped in another, in every model."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_splitmask as ks
from keras_splitmask.backend import distribution
from keras_splitmask.encoder import DropPath
from keras_splitmask.training.seeded import seed_layers, seeded_objective

pytestmark = pytest.mark.backend

SHAPE, DENSE_SHAPE = (8, 8, 3), (32, 32, 3)
IMAGES = 64
DENSE = ("upernet", "segformer", "retinanet", "maskrcnn")
# An eager step of these takes JAX up to half a minute; what they drop, they drop in the encoder.
SLOW = () if keras.backend.backend() != "jax" else ("beit", "mae", "dino", "deit", "segformer", "retinanet", "maskrcnn")
METHODS = [
    name for name in ("encoder", "splitmask", "beit", "mae", "dino", "deit", "classifier", *DENSE) if name not in SLOW
]


def build(method, seed=0, depth=4, drop_path=0.5):
    shape = DENSE_SHAPE if method in DENSE else SHAPE
    encoder = ks.Encoder(shape, 16 if method in DENSE else 4, 8, depth, 2, drop_path=drop_path)
    if method == "encoder":
        return encoder
    words = ks.tokenizers.RandomProjection(shape, 4, vocabulary=8) if method in ("splitmask", "beit") else None
    augmentation = ks.augment.preset("three_augment", seed=seed)[1] if words else None
    return {
        "splitmask": lambda: ks.SplitMask(encoder, words, decoder_depth=1, seed=seed, augmentation=augmentation),
        "beit": lambda: ks.baselines.BEiT(encoder, words, seed=seed, augmentation=augmentation),
        "mae": lambda: ks.baselines.MAE(encoder, decoder_depth=1, seed=seed),
        "dino": lambda: ks.baselines.DINO(encoder, 8, prototypes=8, local_shape=(4, 4), seed=seed),
        "deit": lambda: ks.baselines.DeiT(encoder, 3, seed=seed),
        "classifier": lambda: ks.transfer.Classifier(encoder, 3, seed=seed),
        "upernet": lambda: ks.transfer.Segmenter(encoder, 2, width=64, drop=0.5, seed=seed),
        "segformer": lambda: ks.transfer.Segmenter(encoder, 2, "segformer", width=8, drop=0.5, seed=seed),
        "retinanet": lambda: ks.transfer.RetinaNet(encoder, 2, width=8, seed=seed),
        "maskrcnn": lambda: ks.transfer.MaskRCNN(
            encoder, 2, width=8, hidden=8, proposals=4, samples=4, masks=False, seed=seed
        ),
    }[method]()


def batch(method, count=IMAGES):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *(DENSE_SHAPE if method in DENSE else SHAPE)), "uint8")
    if method == "dino":
        return ({"global": np.stack([images, images], axis=1), "local": images[:, None, :4, :4]},)
    if method == "deit":
        return images, np.eye(3, dtype="float32")[rng.integers(0, 3, count)]
    if method == "classifier":
        return images, rng.integers(0, 3, count)
    if method in ("upernet", "segformer"):
        return images, rng.integers(0, 2, (count, *DENSE_SHAPE[:2]), "int32")
    if method in DENSE:
        boxes = np.tile(np.array([[2, 2, 20, 20]], "float32"), (count, 1, 1))
        return images, {"boxes": boxes, "labels": rng.integers(0, 2, (count, 1), "int32")}
    return (images,)


@pytest.fixture
def dropped(monkeypatch):
    """Runs a function, and returns what each call of a `DropPath` dropped: bool arrays of the masks'
    shapes."""
    found, drawing, uniform = [], [], distribution.uniform

    def watched_uniform(*arguments, **options):
        drawn = uniform(*arguments, **options)
        if drawing:
            found.append(ops.convert_to_numpy(drawn) < drawing[-1])
        return drawn

    def watch(layer):
        call = layer.call

        def watched(self, x, training=None):
            drawing.append(self.rate)
            try:
                return call(self, x, training=training)
            finally:
                drawing.pop()

        monkeypatch.setattr(layer, "call", watched)

    def run(function):
        found.clear()
        function()
        return list(found)

    monkeypatch.setattr(distribution, "uniform", watched_uniform)
    watch(DropPath)
    return run


def in_step(model, method, step=0):
    return lambda: seeded_objective(model, batch(method), step, training=True)


def correlation(masks):
    """The largest correlation of two masks, each cut to as many numbers as the smallest has."""
    count = min(mask.size for mask in masks)
    table = np.array([mask.reshape(-1)[:count] for mask in masks], "float64")
    return np.abs(np.corrcoef(table) - np.eye(len(table))).max()


def differ(masks, others):
    return all((a != b).any() for a, b in zip(masks, others, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_branches_drop_independently_in_a_direct_call(dropped, method):
    """Of 64 images, independent drops correlate by less than 0.6. The model's seed decides."""
    images = batch(method)[0]
    images = images["global"][:, 0] if method == "dino" else images
    one, two = (dropped(lambda seed=seed: build(method, seed)(images, training=True)) for seed in (0, 1))
    assert len(one) >= 6 and correlation(one) < 0.6
    assert method == "encoder" or differ(one, two)


@pytest.mark.parametrize("method", METHODS[1:])
def test_branches_drop_independently_in_a_step_by_its_seed_and_number(dropped, method):
    model, other = build(method), build(method, seed=1)
    first, other_step, again, other_seed = (
        dropped(in_step(m, method, step)) for m, step in ((model, 3), (model, 4), (model, 3), (other, 3))
    )
    assert len(first) >= 6 and correlation(first) < 0.6
    assert not any((a != b).any() for a, b in zip(first, again, strict=True))
    assert differ(first, other_step) and differ(first, other_seed)


@pytest.mark.parametrize("method", ["encoder", "splitmask", "classifier"])
def test_few_images_lose_four_of_twelve_blocks_branches(dropped, method):
    """At rate 0.1 of the last block, 0.19% of the images lose four or more of the twelve branches after attention."""
    model = build(method, depth=12, drop_path=0.1)
    images = batch(method, 8192)[0]
    masks = dropped(lambda: model(images, training=True))
    lost = np.sum([mask.reshape(-1) for mask in masks[::2]], axis=0)  # the first block drops nothing
    assert len(masks) == 22 and 0 < np.mean(lost >= 4) < 0.005


@pytest.mark.parametrize("noise_shape", [None, (None, 1, 1, None)], ids=["examples", "channels"])
def test_two_layers_on_their_own_differ_and_a_seed_repeats(noise_shape):
    x = np.ones((64, 1, 1, 64), "float32")
    one, two, three, four = (
        ops.convert_to_numpy(drop(x, training=True))
        for drop in (DropPath(0.5, noise_shape, seed) for seed in (None, None, 3, 3))
    )
    assert (one != two).any() and (three == four).all()


def test_random_streams_of_a_step_lie_apart():
    """The torch backend adds up both numbers of a state: streams of one step must differ by more than a step draws."""
    model = build("classifier", depth=24, drop_path=0.1)
    states = [v for v in model.non_trainable_variables if v.name == "seed_generator_state"]
    assert len(states) == 24
    for model.seed in range(20):
        seed_layers(model, 7)
        numbers = np.sort([int(ops.convert_to_numpy(v).astype("int64").sum()) for v in states])
        assert np.diff(numbers).min() > 64
