import itertools

import keras
import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import (
    MultiCrop,
    Reader,
    batches,
    mix,
    mixed_batches,
    names_of,
    open_source,
    read_all,
    two_view_batches,
    view_batches,
)
from keras_splitmask.data.arrays import ArraySource
from keras_splitmask.data.folders import FolderSource
from keras_splitmask.data.randomness import generator

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
    assert (
        len({batch.tobytes() for batch in once}) == 12 and once[0].dtype == np.uint8 and once[0].shape == (6, 8, 8, 3)
    )
    for workers in (1, 2, 5):
        assert all(
            (a == b).all()
            for a, b in zip(once, take(batches(textured(), (8, 8, 3), 6, workers=workers), 12), strict=True)
        )


def test_a_later_start_gives_the_rest():
    whole = take(batches(textured(), (8, 8, 3), 6, seed=3), 12)
    for start in (1, 5, 11):
        rest = take(batches(textured(), (8, 8, 3), 6, seed=3, start=start), 12 - start)
        assert all((a == b).all() for a, b in zip(whole[start:], rest, strict=True))
    far = take(batches(textured(), (8, 8, 3), 6, start=10**9), 1)
    assert far[0].shape == (6, 8, 8, 3)
    assert len(list(batches(textured(), (8, 8, 3), 6, start=5, steps=3))) == 3


def test_only_requested_images_are_read():
    source, read = textured(), []
    source.image = lambda i, plan, image=source.image: read.append(i) or image(i, plan)
    take(batches(source, (8, 8, 3), 6, start=10**6, workers=0), 1)
    assert len(read) == 6


def test_the_seed_changes_order_and_augmentation():
    one, other = (take(batches(textured(), (8, 8, 3), 6, seed=seed), 1)[0] for seed in (0, 1))
    assert (one != other).any()
    # One image only: all that is left to differ is the augmentation, which differs between places and steps too.
    crops = take(batches(ArraySource(textured().images[:1].repeat(6, 0)), (8, 8, 3), 6), 2)
    assert len({crop.tobytes() for batch in crops for crop in batch}) == 12


@pytest.mark.parametrize(
    ("read", "options"),
    [
        (batches, {"flip": True}),
        (batches, {"labels": True}),
        (mixed_batches, {"mix": {"mixup": 0.8, "cutmix": 1.0}}),
        (view_batches, {"views": MultiCrop(2, (4, 4))}),
        (two_view_batches, {}),
    ],
)
def test_hosts_share_a_batch(read, options):
    """Of each batch every host has its rows, in order."""
    source = textured()
    source.labels = np.arange(20) % 3
    whole, *parts = (
        take(read(source, (8, 8, 3), 6, workers=0, shard=shard, **options), 4)
        for shard in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    for step in range(4):
        together = keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *(part[step] for part in parts))
        keras.tree.map_structure(np.testing.assert_array_equal, together, whole[step])


def test_a_host_reads_only_its_shard():
    read = []
    source = numbered()
    image = source.image
    source.image = lambda index, *arguments: read.append(index) or image(index, *arguments)
    batch = take(batches(source, SHAPE, 6, "none", workers=0, shard=(1, 2)), 1)[0]
    assert read == numbers(batch) and len(read) == 3
    with pytest.raises(ValueError, match="divisor of the batch size 6"):
        batches(source, SHAPE, 6, shard=(0, 4))


def test_iterating_again_starts_again():
    dataset = batches(textured(), (8, 8, 3), 6, steps=3)
    assert all((a == b).all() for a, b in zip(dataset, dataset, strict=True))


def test_labels_stay_with_their_images():
    for images, labels in batches(numbered(), SHAPE, 6, "none", steps=5, labels=True):
        assert labels.dtype == np.int32 and images.dtype == np.uint8
        assert labels.tolist() == [number % 3 for number in numbers(images)]


def test_mixed_batches():
    arguments = {"mixup": 0.8, "cutmix": 0.0, "smoothing": 0.0}
    for step, (images, labels) in enumerate(mixed_batches(numbered(), SHAPE, 6, arguments, "none", seed=4, steps=5)):
        assert images.dtype == labels.dtype == np.float32 and labels.shape == (6, 3) and np.allclose(labels.sum(1), 1)
        raw, raw_labels = take(batches(numbered(), SHAPE, 6, "none", seed=4, start=step, labels=True), 1)[0]
        expected, expected_labels = mix(raw, raw_labels, generator("batch", 4, step), 3, **arguments)
        assert (images == expected).all() and (labels == expected_labels).all()


def test_read_all():
    source = open_source("sample", "test")
    images, labels = read_all(source, (28, 28, 1))
    assert (images == source.images).all() and (labels == source.labels).all()
    images, labels = read_all(source, (28, 28, 1), limit=300)
    again = read_all(source, (28, 28, 1), limit=300)
    assert len(images) == 300 and (images == again[0]).all() and (labels == again[1]).all()
    where = [(source.images == image).all(axis=(1, 2, 3)).argmax() for image in images[:20]]
    assert where == sorted(where) and (labels[:20] == source.labels[where]).all()
    assert read_all(source, (14, 20, 1), limit=5)[0].shape == (5, 14, 20, 1)
    assert len(read_all(source, (28, 28, 1), limit=10**6)[0]) == 2000
    for labels in (np.repeat(np.arange(10), 100), np.tile(np.arange(10), 100)):  # by class, and one after the other
        drawn = read_all(ArraySource(np.zeros((1000, 4, 4), "uint8"), labels=labels), SHAPE, limit=100)[1]
        assert np.bincount(drawn, minlength=10).min() >= 3  # 10, with a deviation of 3
    assert read_all(textured(), (9, 12, 3))[1] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"batch_size": 21},
            "Expected a batch size from 1 to 20, the number of images, received batch_size=21; choose a smaller",
        ),
        ({"batch_size": 0}, "received batch_size=0"),
        (
            {"image_shape": (8, 8, 1)},
            r"Expected images of 1 channels, received 3 in train\[0\]; open the source with channels=1",
        ),
        ({"image_shape": (8, 8)}, r"Expected image_shape=\(height, width, channels\), received \(8, 8\)"),
        ({"crop": "crops"}, "Expected crop to be one of none, crop, quarter_crop, received 'crops'"),
        ({"labels": True}, "Expected labels in the source, received none: there is no array of labels"),
        ({"start": -1}, "Expected start and workers >= 0, steps and repeats >= 1, received start=-1"),
        ({"steps": 0}, "received start=0, workers=2, steps=0, repeats=1"),
    ],
)
def test_misfits_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        batches(**{"source": textured(), "image_shape": (8, 8, 3), "batch_size": 6, **changes})
    assert "\n" not in str(error.value)


def test_images_without_labels_are_not_mixed():
    with pytest.raises(ValueError, match="Expected labels in the source, received none: there is no array of labels"):
        mixed_batches(textured(), (8, 8, 3), 6, {})


def test_read_all_refuses_misfits():
    with pytest.raises(ValueError, match="Expected images of 1 channels, received 3"):
        read_all(textured(), (8, 8, 1))
    with pytest.raises(ValueError, match="Expected a limit of at least 1 image, received limit=0"):
        read_all(textured(), (8, 8, 3), limit=0)


def sequence(**arguments):
    """The source's indices in twelve batches of six."""
    return [numbers(batch) for batch in take(batches(numbered(), SHAPE, 6, "none", seed=1, **arguments), 12)]


def test_the_names_of_a_batch():
    source = numbered()
    expected = [[source.name(i) for i in batch] for batch in sequence()]
    assert [names_of(source, 6, seed=1, step=step) for step in range(12)] == expected


def test_repeats_deal_out_an_image_several_times_in_a_row():
    once, thrice = (np.array(sequence(repeats=repeats)).reshape(-1) for repeats in (1, 3))
    assert thrice.tolist() == np.repeat(once, 3)[:72].tolist()
    assert sequence(repeats=3, start=5)[:7] == sequence(repeats=3)[5:]
    source = numbered()
    assert names_of(source, 6, seed=1, step=2, repeats=3) == [source.name(i) for i in sequence(repeats=3)[2]]
    views = take(batches(textured(), (8, 8, 3), 6, "crop", repeats=3), 1)[0]
    assert len({view.tobytes() for view in views}) == 6  # each augmented anew


def test_a_transform_comes_last_and_depends_only_on_the_position():
    def change(image, rng):
        return image + rng.integers(1, 100, dtype="uint8")

    plain, changed, again = (
        take(batches(textured(), (8, 8, 3), 6, "crop", True, given, seed=2, start=start), 2)
        for start, given in ((0, None), (0, change), (1, change))
    )
    assert (np.ptp((changed[0] - plain[0]).reshape(6, -1), axis=1) == 0).all() and (changed[0] != plain[0]).all()
    np.testing.assert_array_equal(changed[1], again[0])


def test_the_same_images_for_any_number_of_workers_and_any_restart():
    whole = sequence(workers=0)
    for workers in (1, 2, 4):
        assert sequence(workers=workers) == whole
        for start in (1, 3, 7, 11):
            assert sequence(workers=workers, start=start)[: 12 - start] == whole[start:]
    epochs = np.array(whole).reshape(-1)[:60].reshape(3, 20)
    assert (np.sort(epochs) == np.arange(20)).all() and len({tuple(epoch) for epoch in epochs}) == 3


@pytest.fixture
def folder(tmp_path):
    """Twenty images of noise, five of each class."""
    for i in range(20):
        (tmp_path / f"class{i // 5}").mkdir(exist_ok=True)
        Image.effect_noise((12, 10), 90).convert("RGB").save(tmp_path / f"class{i // 5}" / f"{i:02}.png")
    return tmp_path


def broken_since(folder):
    """A source of a folder in which three files break after the scan."""
    said = []
    source = open_source(f"folder:{folder}", report=said.append)
    (folder / "class0" / "03.png").unlink()
    (folder / "class1" / "07.png").write_text("not an image")
    content = (folder / "class3" / "19.png").read_bytes()
    (folder / "class3" / "19.png").write_bytes(content[: len(content) // 2])
    return source, said


def test_broken_images_are_reported_once_and_replaced_alike_everywhere(folder):
    intact = take(batches(open_source(f"folder:{folder}"), (8, 8, 3), 6, labels=True, workers=0), 12)
    source, said = broken_since(folder)
    whole = take(batches(source, (8, 8, 3), 6, labels=True, workers=0), 12)
    assert sorted(source.broken) == ["class0/03.png", "class1/07.png", "class3/19.png"]
    assert len(said) == 3 and all(line.startswith("Expected a readable image, received class") for line in said)
    assert "No such file" in source.broken["class0/03.png"]
    for workers, start in ((1, 0), (2, 0), (4, 5)):
        other = FolderSource(source.scan)  # another process that goes by the same record
        rest = take(batches(other, (8, 8, 3), 6, labels=True, workers=workers, start=start), 12 - start)
        assert all((a[0] == b[0]).all() and (a[1] == b[1]).all() for a, b in zip(whole[start:], rest, strict=True))
    # All other images, and their augmentation, are what they were.
    names = [names_of(source, 6, 0, step) for step in range(12)]
    for step, ((before, _), (after, _)) in enumerate(zip(intact, whole, strict=True)):
        for i in range(6):
            assert (before[i] == after[i]).all() == (names[step][i] not in source.broken)


def test_the_label_is_that_of_the_image_shown(folder):
    for path in folder.glob("*/*.png"):
        Image.new("RGB", (8, 8), (int(path.parent.name[-1]) * 10,) * 3).save(path)
    source, _ = broken_since(folder)
    for images, labels in take(batches(source, (8, 8, 3), 10, labels=True), 10):
        assert (images[:, 0, 0, 0] == labels * 10).all()
    assert len(source.broken) == 3


def test_evaluation_skips_broken_images(folder):
    for i, path in enumerate(sorted(folder.glob("*/*.png"))):
        Image.new("RGB", (8, 8), (i, int(path.parent.name[-1]), 0)).save(path)
    source, said = open_source(f"folder:{folder}"), []
    source.report = said.append
    gone = (3, 11)
    for i in gone:
        (folder / source.paths[i]).unlink()
    images, labels = read_all(source, (8, 8, 3))
    assert images[:, 0, 0, 0].tolist() == [i for i in range(20) if i not in gone]  # each once, no other in its place
    assert images[:, 0, 0, 1].tolist() == labels.tolist()
    assert sorted(source.broken) == [source.paths[i] for i in gone] and all(
        line.endswith("It is skipped.") for line in said
    )
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="Expected images to evaluate, received 20 that cannot be read"):
        read_all(source, (8, 8, 3))


def test_when_everything_breaks_it_stops(folder):
    source = open_source(f"folder:{folder}")
    for path in folder.glob("*/*.png"):
        path.unlink()
    with pytest.raises(
        ValueError, match="Expected a readable image in place of class.*; check that the disk is still there"
    ) as error:
        take(batches(source, (8, 8, 3), 6, workers=0), 1)
    assert "\n" not in str(error.value) and len(source.broken) == 20


@pytest.mark.parametrize("shape", [(48, 80, 5), (8, 8, 1), (16, 24, 2), (12, 8, 4), (9, 33, 13), (1024, 1024, 3)])
def test_any_shape(tmp_path, shape):
    rng = np.random.default_rng(0)
    for i, (rows, columns) in enumerate([(60, 90), (33, 200), (50, 50)]):
        np.save(tmp_path / f"{i}.npy", rng.integers(256, size=(rows, columns, shape[-1])).astype("uint8"))
    source = open_source(f"folder:{tmp_path}")
    for crop in ("crop", "none"):
        (batch,) = batches(source, shape, 2, crop, True, steps=1)
        assert batch.shape == (2, *shape) and batch.dtype == np.uint8 and batch.std() > 5
    assert read_all(source, shape)[0].shape == (3, *shape)


class Watched(keras.Model):
    """A linear classifier that notes the batches it is shown. (keras.Sequential would cast them to float32 before
    that.)"""

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
    seen = fitted(mixed_batches(numbered(), SHAPE, 6, {}, steps=4), 2, 2, loss)
    assert len(seen) == 4 and all(batch.dtype == np.float32 for batch in seen)


def test_reader_and_read_all_read_the_same(tmp_path, rng):
    np.save(tmp_path / "images.npy", rng.integers(0, 256, (20, 9, 7, 3), "uint8"))
    source = open_source(f"npy:{tmp_path / 'images.npy'}")
    images, _ = read_all(source, (6, 4, 3), limit=11)
    reader = Reader(source, (6, 4, 3), limit=11)
    assert len(reader) == 11 and reader.shape == images.shape
    np.testing.assert_array_equal(reader[np.array([10, 0, 3])], images[[10, 0, 3]])
