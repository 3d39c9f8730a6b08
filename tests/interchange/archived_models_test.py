"""The guard of .keras files counts exactly: each model that can be saved is read again, and would not be if its file
had one byte less."""

import inspect
import math
import threading
import zipfile

import keras
import numpy as np
import pytest

import keras_splitmask as ks
from keras_splitmask import augment, tokenizers, transfer
from keras_splitmask.baselines import DINO, MAE, BEiT, DeiT, Untrained
from keras_splitmask.interchange import archives, load_model

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def encoder(image_shape=(16, 16, 3), patch_size=4, **changes):
    return ks.Encoder(image_shape, patch_size, **{"width": 16, "depth": 2, "heads": 2, **changes})


def words(kind=tokenizers.RandomProjection, image_shape=(16, 16, 3), patch_size=4, **changes):
    return kind(image_shape, patch_size, **{"vocabulary": 8, **changes})


def scene_encoder():
    return encoder((64, 64, 3), 16)


def dalle(image_shape, patch_size, **changes):
    tokenizer = words(tokenizers.Dalle, image_shape, patch_size, hidden=4, **changes)
    return BEiT(encoder(image_shape, patch_size), tokenizer)


# The corners of each constructor: sizes, channels, tokens, positions, depths, precisions, and what a weight of 0 leaves
# out.
MODELS = {
    "encoder": encoder,
    "encoder, fixed positions": lambda: encoder((8, 24, 5), positions="sine_cosine"),
    "encoder, one patch": lambda: encoder((4, 4, 1), depth=1, heads=1),
    "encoder, extra tokens": lambda: encoder(extra_tokens=3, depth=5),
    "encoder, large patches": lambda: encoder((64, 64, 3), 32, width=4),
    "encoder, wide": lambda: encoder((2, 2, 1), 2, width=64),
    "encoder, bfloat16": lambda: encoder(dtype="bfloat16"),
    "encoder, float16": lambda: encoder(dtype="float16"),
    "splitmask": lambda: ks.SplitMask(encoder(), words(), augmentation=augment.preset("three_augment")[1]),
    "splitmask without words": lambda: ks.SplitMask(encoder(), inpaint_weight=0.0, decoder_depth=3),
    "splitmask without use for words": lambda: ks.SplitMask(encoder(), words(), inpaint_weight=0.0),
    "splitmask without match": lambda: ks.SplitMask(
        encoder(), words(tokenizers.KMeans), match_weight=0.0, decoder_depth=1
    ),
    "splitmask with a projector": lambda: ks.SplitMask(encoder(), words(), predicted=0.5, projector=64),
    "splitmask with a projector alone": lambda: ks.SplitMask(encoder(), inpaint_weight=0.0, projector=3),
    "splitmask, bfloat16": lambda: ks.SplitMask(encoder(dtype="bfloat16"), words(), dtype="bfloat16"),
    "splitmask, mixed": lambda: ks.SplitMask(encoder(dtype="mixed_float16"), words(), dtype="mixed_bfloat16"),
    "beit": lambda: BEiT(encoder((16, 16, 3), 8), words(tokenizers.RandomPatches, (16, 16, 3), 8)),
    "beit, one channel": lambda: BEiT(encoder((16, 8, 1)), words(image_shape=(16, 8, 1), resolution="half")),
    "dalle": lambda: dalle((64, 64, 3), 32),
    "dalle with decoder": lambda: dalle((16, 16, 1), 8, decoder=True),
    "mae": lambda: MAE(encoder()),
    "mae, deep and narrow": lambda: MAE(
        ks.Encoder.from_size("vit_micro", (32, 32, 3), 16), decoder_depth=8, decoder_width=64
    ),
    "mae, wide on a shallow encoder": lambda: MAE(encoder(depth=1), decoder_depth=8, decoder_width=128),
    "deit": lambda: DeiT(encoder(), 3),
    "dino": lambda: DINO(
        encoder(), 10, prototypes=4, teacher_temperatures=(0.04, 0.07), augmentation=augment.views_preset("dino")
    ),
    "untrained": lambda: Untrained(encoder()),
    "classifier": lambda: transfer.Classifier(encoder(), 2, frozen=True),
    "upernet": lambda: transfer.Segmenter(scene_encoder(), 3, width=8),
    "upernet, simple": lambda: transfer.Segmenter(scene_encoder(), 3, width=8, neck="simple", auxiliary_weight=0.0),
    "deeplab": lambda: transfer.Segmenter(scene_encoder(), 3, head="deeplab", width=8),
    "segformer": lambda: transfer.Segmenter(scene_encoder(), 3, head="segformer", width=8),
    "retinanet": lambda: transfer.RetinaNet(scene_encoder(), 2, width=8),
    "retinanet as in KerasCV": lambda: transfer.RetinaNet(scene_encoder(), 1, neck="simple"),
    "mask r-cnn": lambda: transfer.MaskRCNN(scene_encoder(), 1, width=8, hidden=8),
    "faster r-cnn": lambda: transfer.MaskRCNN(scene_encoder(), 1, width=8, hidden=8, masks=False, neck="simple"),
}


def nbytes(model):
    return sum(
        math.prod(weight.shape) * ITEM_BYTES[weight.dtype]
        for weight in model.weights
        if weight.name != "seed_generator_state"
    )


def check(model, path):
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        content = archive.read("model.weights.h5")
    expected = nbytes(model)
    assert archives.stored_arrays(content)[0] == expected
    loaded = load_model(path)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(
            *(np.asarray(keras.ops.convert_to_numpy(weight), "float32") for weight in (ours, theirs))
        )
    config = keras.saving.serialize_keras_object(model)
    with archives.bounded_weights(expected - 1), pytest.raises(ValueError, match="more weights than it holds"):
        keras.saving.deserialize_keras_object(config)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_is_read_and_has_no_room_for_more(name, tmp_path):
    check(MODELS[name](), tmp_path / "model.keras")


@pytest.mark.backend
def test_on_each_backend(tmp_path):
    for name in ("encoder", "splitmask", "splitmask, bfloat16", "mae"):
        check(MODELS[name](), tmp_path / "model.keras")


def test_every_model_is_among_them():
    source = inspect.getsource(inspect.getmodule(check)).split("MODELS = {")[1].split("\n}\n")[0]
    public = [
        value for module in (ks, ks.baselines, transfer) for value in vars(module).values() if inspect.isclass(value)
    ]
    models = {value.__name__ for value in public if issubclass(value, keras.Model)} - {"Encoder"}
    assert len(models) >= 10 and all(f" {name}(" in source or f".{name}(" in source for name in models - {"BEiT"}), (
        models
    )


def test_a_model_that_was_trained_is_read(make_model, make_images, tmp_path):
    model = make_model()
    model.fit(make_images(4), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (ours, theirs)))


def test_other_threads_are_not_counted():
    with archives.bounded_weights(0):
        made = []
        thread = threading.Thread(target=lambda: made.append(encoder()))
        thread.start()
        thread.join()
        with pytest.raises(ValueError, match="more weights"):
            encoder()
    assert made and encoder().built
