import io
import json

import numpy as np
import pytest
from PIL import Image

from keras_splitmask.data import NoSuchSplit, batches, open_source
from keras_splitmask.data.published import TfdsSource
from keras_splitmask.data.tfrecord import TfRecords

tfds = pytest.importorskip("tensorflow_datasets")


class TwoColours(tfds.core.GeneratorBasedBuilder):
    """Images of one colour each, with boxes that need not be read, made by tfds' own tools."""

    __module__ = "two_colours"  # tfds looks for checksums beside the module of a data set, and finds none for this one
    VERSION = tfds.core.Version("1.0.0")
    shape = (4, 6, 3)

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=self.shape),
            "label": tfds.features.ClassLabel(names=["x", "y"]),
            "objects": tfds.features.Sequence({"bbox": tfds.features.BBoxFeature()}),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(3), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        box = {"bbox": tfds.features.BBox(0.0, 0.0, 0.5, 0.5)}
        for i in range(count):
            yield i, {"image": np.full(self.shape, 10 * i, "uint8"), "label": i % 2, "objects": [box] * i}


class FourChannels(TwoColours):
    __module__ = "four_channels"
    shape = (4, 6, 4)


@pytest.mark.parametrize("form", ["array_record", "tfrecord"])
def test_a_data_set_written_here(tmp_path, form):
    TwoColours(data_dir=tmp_path, file_format=form).download_and_prepare()
    source = open_source("tfds:two_colours", data_dir=tmp_path)
    assert len(source) == 3 and source.classes == ["x", "y"] and source.image_shape == (4, 6, 3)
    seen = sorted((int(source.image(i)[0, 0, 0]), source.label(i)) for i in range(3))
    assert seen == [(0, 0), (10, 1), (20, 0)] and sorted(source.labels.tolist()) == [0, 0, 1]
    assert isinstance(source.records, TfRecords) == (form == "tfrecord")
    for images, labels in batches(source, (4, 4, 3), 2, steps=6, labels=True):
        assert set(map(tuple, zip(images[:, 0, 0, 0].tolist(), labels.tolist(), strict=True))) <= set(seen)
    source.record = tmp_path / "run" / "data.json"  # as a run sets it
    source.save_record()
    assert json.loads(source.record.read_text())["summary"] == "3 images" and source.image(0).shape == (4, 6, 3)
    assert len(open_source("tfds:two_colours", "val", data_dir=tmp_path)) == 2
    assert open_source("tfds:two_colours", "val", data_dir=tmp_path).fingerprint != source.fingerprint
    with pytest.raises(
        NoSuchSplit, match="received tfds:two_colours .no split test among train, validation.; correct"
    ) as error:
        open_source("tfds:two_colours", "test", data_dir=tmp_path)
    assert "\n" not in str(error.value)


def test_records_of_several_files_are_read_at_random(tmp_path):
    tf = pytest.importorskip("tensorflow")
    contents = [[b"a", b"", b"ccc"], [], [bytes(70_000), b"e"]]
    paths = [tmp_path / f"{i}.tfrecord" for i in range(3)]
    for path, records in zip(paths, contents, strict=True):
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in records:
                writer.write(record)
    records = TfRecords(paths, len)
    assert len(records) == 5 and [records[i] for i in (4, 0, 3, 2, 1)] == [1, 1, 70_000, 3, 0]
    content = paths[2].read_bytes()
    paths[2].write_bytes(content[:100])
    source = TfdsSource(TfRecords(paths[:2], len), {"image": tfds.features.Image(shape=(None, None, 3))})
    source.records = records
    with pytest.raises(ValueError, match=r"Expected a readable record, received train\[3\] .*cut short"):
        source.example(3)
    paths[2].write_bytes(content[:-3])
    with pytest.raises(ValueError, match="2.tfrecord is cut short or damaged"):
        TfRecords(paths, len)


def test_four_channels(tmp_path):
    FourChannels(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = open_source("tfds:four_channels", data_dir=tmp_path)
    assert source.image_shape == (4, 6, 4) and sorted(int(source.image(i)[0, 0, 3]) for i in range(3)) == [0, 10, 20]


def test_an_unknown_name(tmp_path):
    with pytest.raises(
        ValueError, match="Expected images of tensorflow-datasets, received tfds:no_such .*not found"
    ) as error:
        open_source("tfds:no_such", data_dir=tmp_path)
    assert "\n" not in str(error.value) and not isinstance(error.value, NoSuchSplit)


def encoded(level, size=(6, 4)):
    content = io.BytesIO()
    Image.new("RGB", size, (level,) * 3).save(content, "PNG")
    return content.getvalue()


def with_boxes(builder, split, **options):
    """Five examples as COCO and Cars have them, whose boxes tfds' own random ones are not: their corners are in
    disorder."""
    box, boxes = np.array([0, 0, 0.5, 0.5], "float32"), {"bbox": np.zeros((2, 4), "float32"), "label": np.array([1, 2])}
    extra = {"objects": boxes} if "objects" in builder.info.features else {"label": np.int64(7), "bbox": box}
    return [{"image": encoded(50 * i, (60, 50)), **extra} for i in range(5)]


@pytest.mark.parametrize(
    ("name", "classes", "examples"),
    [
        ("imagenet2012", 1000, None),
        ("imagenet2012_subset", 1000, None),
        ("coco", None, with_boxes),
        ("food101", 101, None),
        ("cars196", 196, with_boxes),
        ("i_naturalist2018", 8142, None),
        ("domainnet", 345, None),
    ],
)
def test_the_data_sets_of_the_paper(tmp_path, name, classes, examples):
    """With the features that they have, and random images; their splits are known to tfds only once they are
    prepared."""
    with tfds.testing.mock_data(num_examples=5, as_data_source_fn=examples):
        source = open_source(f"tfds:{name}", data_dir=tmp_path)
        assert len(source) == 5 and source.channels == 3 and source.image(4).shape[-1] == 3
        assert (source.labels is None) == (classes is None)
        if classes:
            assert len(source.classes) == classes and 0 <= source.label(2) < classes
        (batch,) = batches(source, (32, 48, 3), 4, steps=1)
        assert batch.shape == (4, 32, 48, 3) and batch.std() > 5 and not source.broken


class Damaged(list):
    def __getitem__(self, i):
        if i == 1:
            raise RuntimeError("Corrupted Riegeli/records file:\nchunk data hash mismatch")
        return super().__getitem__(i)


def test_a_damaged_record_is_replaced_and_named():
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, None))})
    source = TfdsSource(Damaged({"image": encoded(10 * i)} for i in range(4)), features)
    (batch,) = batches(source, (4, 4, 3), 4, steps=1)
    assert source.labels is None and set(batch[:, 0, 0, 0].tolist()) == {0, 20, 30}
    assert (
        list(source.broken) == ["train[1]"]
        and "hash mismatch); prepare the data set again" in source.broken["train[1]"]
    )
