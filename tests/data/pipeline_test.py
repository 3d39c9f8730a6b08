import itertools

import keras
import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import batches, mix, open_source, read_all
from keras_splitmask.data.sources import ArraySource

SHAPE = (4, 4, 1)


def numbered(count=20):
    """A source whose image i has the pixels i, of class i % 3."""
    images = np.broadcast_to(np.arange(count, dtype="uint8")[:, None, None, None], (count, *SHAPE))
    return ArraySource(np.array(images), labels=np.arange(count) % 3)


def textured(count=20):
    return ArraySource(np.random.default_rng(0).integers(256, size=(count, 9, 12, 3)).astype("uint8"))


def numbers(batch):
    return batch[:, 0, 0, 0].tolist()


def take(dataset, count):
    return list(itertools.islice(dataset, count))


def test_each_image_once_per_epoch_and_the_tail_joins_the_next():
    drawn = np.concatenate([numbers(batch) for batch in batches(numbered(20), SHAPE, 6, "none", steps=20)])  # 6 epochs
    epochs = drawn.reshape(6, 20)
    assert (np.sort(epochs, axis=1) == np.arange(20)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 6 and (epochs[0] != np.arange(20)).any()


def test_the_order_mixes():
    where = np.array([numbers(batch) for batch in batches(numbered(20), SHAPE, 20, "none", steps=300)])
    # Each image is equally likely everywhere: 15 times of 300, with a deviation of 3.8.
    counts = np.array([np.bincount(where[:, place], minlength=20) for place in range(20)])
    assert counts.min() >= 2 and counts.max() <= 36


def test_the_same_for_any_number_of_workers():
    once = take(batches(textured(), (8, 8, 3), 6, workers=0), 12)
    assert len({batch.tobytes() for batch in once}) == 12 and once[0].dtype == np.uint8 and once[0].shape == (6, 8, 8, 3)
    for workers in (1, 2, 5):
        assert all((a == b).all() for a, b in zip(once, take(batches(textured(), (8, 8, 3), 6, workers=workers), 12), strict=True))


def test_a_later_start_gives_the_rest():
    whole = take(batches(textured(), (8, 8, 3), 6, seed=3), 12)
    for start in (1, 5, 11):
        rest = take(batches(textured(), (8, 8, 3), 6, seed=3, start=start), 12 - start)
        assert all((a == b).all() for a, b in zip(whole[start:], rest, strict=True))
    far = take(batches(textured(), (8, 8, 3), 6, start=10**9), 1)
    assert far[0].shape == (6, 8, 8, 3)
    assert len(list(batches(textured(), (8, 8, 3), 6, start=5, steps=3))) == 3


def test_only_what_is_asked_for_is_read():
    source, read = textured(), []
    source.image = lambda i, image=source.image: read.append(i) or image(i)
    source.image_shape  # reads the first image, once
    read.clear()
    take(batches(source, (8, 8, 3), 6, start=10**6, workers=0), 1)
    assert len(read) == 6


def test_the_seed_changes_order_and_augmentation():
    one, other = (take(batches(textured(), (8, 8, 3), 6, seed=seed), 1)[0] for seed in (0, 1))
    assert (one != other).any()
    # One image only: all that is left to differ is the augmentation, which differs between places and steps too.
    crops = take(batches(ArraySource(textured().images[:1].repeat(6, 0)), (8, 8, 3), 6), 2)
    assert len({crop.tobytes() for batch in crops for crop in batch}) == 12


def test_iterating_again_starts_again():
    dataset = batches(textured(), (8, 8, 3), 6, steps=3)
    assert all((a == b).all() for a, b in zip(dataset, dataset, strict=True))


def test_labels_stay_with_their_images():
    for images, labels in batches(numbered(), SHAPE, 6, "none", steps=5, labels=True):
        assert labels.dtype == np.int32 and images.dtype == np.uint8
        assert labels.tolist() == [number % 3 for number in numbers(images)]


def test_mixed_batches():
    arguments = {"mixup": 0.8, "cutmix": 0.0, "smoothing": 0.0}
    for step, (images, labels) in enumerate(batches(numbered(), SHAPE, 6, "none", seed=4, steps=5, mix=arguments)):
        assert images.dtype == labels.dtype == np.float32 and labels.shape == (6, 3) and np.allclose(labels.sum(1), 1)
        raw, raw_labels = take(batches(numbered(), SHAPE, 6, "none", seed=4, start=step, labels=True), 1)[0]
        expected, expected_labels = mix(raw, raw_labels, np.random.default_rng((4, step, 6)), 3, **arguments)
        assert (images == expected).all() and (labels == expected_labels).all()


def test_read_all():
    source = open_source("sample", "test")
    images, labels = read_all(source, (28, 28, 1))
    assert (images == source.images).all() and (labels == source.labels).all()
    images, labels = read_all(source, (28, 28, 1), limit=300)
    assert len(images) == 300 and (images[1] == source.images[6]).all() and labels[1] == source.labels[6]
    assert read_all(source, (14, 20, 1), limit=5)[0].shape == (5, 14, 20, 1)
    assert len(read_all(source, (28, 28, 1), limit=10**6)[0]) == 2000
    by_class = ArraySource(np.zeros((90, 4, 4), "uint8"), labels=np.repeat(np.arange(3), 30))
    assert np.bincount(read_all(by_class, SHAPE, limit=12)[1]).tolist() == [4, 4, 4]
    assert read_all(textured(), (9, 12, 3))[1] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 21}, "Expected a batch size from 1 to the 20 images there are, received batch_size=21; choose a smaller"),
        ({"batch_size": 0}, "received batch_size=0"),
        ({"image_shape": (8, 8, 1)}, r"Expected images of 1 channels, received 3 in train\[0\]; open the source with channels=1"),
        ({"image_shape": (8, 8)}, r"Expected image_shape=\(height, width, channels\), received \(8, 8\)"),
        ({"augmentation": "crops"}, "Expected augmentation to be one of crop_flip, .*, received 'crops'"),
        ({"labels": True}, "Expected a labelled source, received one without labels"),
        ({"mix": {}}, "Expected a labelled source, received one without labels"),
        ({"start": -1}, "Expected start and workers >= 0 and steps >= 1, received -1, 2 and None"),
        ({"steps": 0}, "Expected start and workers >= 0 and steps >= 1, received 0, 2 and 0"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        batches(**{"source": textured(), "image_shape": (8, 8, 3), "batch_size": 6, **changes})
    assert "\n" not in str(error.value)


def test_read_all_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="Expected images of 1 channels, received 3"):
        read_all(textured(), (8, 8, 1))
    with pytest.raises(ValueError, match="Expected a limit of at least 1 image, received limit=0"):
        read_all(textured(), (8, 8, 3), limit=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_with_its_name(tmp_path, workers):
    for i in range(6):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    (tmp_path / "4.png").write_text("not an image")
    with pytest.raises(ValueError, match="Expected a readable image, received 4.png"):
        take(batches(open_source(f"folder:{tmp_path}"), (8, 8, 3), 6, workers=workers), 1)


class Watched(keras.Model):
    """A linear classifier that notes the batches it is shown. (keras.Sequential would cast them to float32 before that.)"""

    def __init__(self, note):
        super().__init__()
        self.note = note
        self.head = keras.layers.Dense(3)

    def call(self, images):
        try:
            self.note(np.array(keras.ops.convert_to_numpy(images)))
        except Exception:  # Keras looks at the shapes beforehand, with tensors that have no values
            pass
        return self.head(keras.ops.cast(keras.ops.reshape(images, (-1, 16)), "float32") / 255)


def fitted(dataset, epochs, steps, loss):
    """The batches that a model sees in `fit`."""
    seen = []
    model = Watched(lambda images: seen.append(images))
    model.compile("sgd", loss, run_eagerly=True)
    model.fit(dataset, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    return seen[-epochs * steps :]  # what comes before is shown to build the model


@pytest.mark.backend
def test_fit_goes_through_the_run_batch_by_batch():
    arguments = (numbered(), SHAPE, 6, "none")
    expected = [images for images, _ in take(batches(*arguments, labels=True), 12)]
    dataset = batches(*arguments, labels=True)
    seen = fitted(dataset, epochs=4, steps=3, loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert len(seen) == 12 and all(batch.dtype == np.uint8 for batch in seen)
    assert [numbers(batch) for batch in seen] == [numbers(batch) for batch in expected]


@pytest.mark.backend
def test_fit_goes_on_from_a_later_step():
    arguments = (numbered(), SHAPE, 6, "none")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    whole = fitted(batches(*arguments, labels=True), 4, 3, loss)
    rest = fitted(batches(*arguments, labels=True, start=6), 2, 3, loss)
    assert [numbers(batch) for batch in rest] == [numbers(batch) for batch in whole[6:]]


@pytest.mark.backend
def test_fit_takes_mixed_batches():
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    seen = fitted(batches(numbered(), SHAPE, 6, mix={}, steps=4), 2, 2, loss)
    assert len(seen) == 4 and all(batch.dtype == np.float32 for batch in seen)
