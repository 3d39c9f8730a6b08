"""Images of tensorflow-datasets."""

import functools
import io

import numpy as np

from keras_splitmask.backend.optional import optional
from keras_splitmask.data.decoding import keeps_depth, open_picture, read_pixels
from keras_splitmask.data.labels import check_labels
from keras_splitmask.data.reasons import reason_of
from keras_splitmask.data.sources import SPLITS, NoSuchSplit, Source, part_of
from keras_splitmask.data.tfrecord import TfRecords


class TfdsSource(Source):
    """Records of tensorflow-datasets: an "image", still encoded or an array, and optionally a "label".

    Args:
        records: a sequence of records.
        features: the features that tensorflow-datasets describes.
        channels: wanted number of channels, to convert between grey and colour.
        place: name of the data set, its version and its split.
        split: "train", "val" or "test".
    """

    unlabelled = 'there is no feature "label", or it is -1; choose another split or data set'

    def __init__(self, records, features, channels=None, place="", split="train"):
        super().__init__()
        self.records = records
        self.features = features
        self.place = place
        self.split = split
        self.channels = channels or features["image"].shape[-1] or 3  # None where images differ
        if "label" in features:
            self.classes = getattr(features["label"], "names", None)
        self._labelled = "label" in features

    def __len__(self):
        return len(self.records)

    def name(self, i):
        return f"{self.split}[{i}]"

    # Reads all records once, so only if labels are asked for.
    @functools.cached_property
    def labels(self):
        if not self._labelled:
            return None
        labels = np.array([record["label"] for record in self.records])
        if (labels == -1).all():  # what tensorflow-datasets gives for test sets whose labels are kept secret
            return None
        return check_labels(labels, len(self), self.split, self.classes)[0]

    def label(self, i):
        return int(self.records[i]["label"]) if self._labelled else None

    def example(self, i):
        """Read the record of image `i`: a dictionary.

        Raises:
            ValueError: with the name, if it is damaged.
        """
        try:
            return self.records[i]
        except Exception as error:  # each file format has its own error for a damaged record
            raise ValueError(
                f"Expected a readable record, received {self.name(i)} ({reason_of(error)}); prepare the data set again."
            ) from error

    def size(self, i, feature="image"):
        """Return (height, width) of an image of record `i`, as stored."""
        image = self.example(i)[feature]
        if not isinstance(image, bytes):
            return image.shape[:2]
        try:
            with open_picture(io.BytesIO(image)) as picture:
                return picture.height, picture.width
        except ImportError:
            raise
        except Exception as error:  # a damaged header raises whatever its reader stumbles over
            raise ValueError(
                f"Expected a readable image, received {self.name(i)} ({reason_of(error)}); prepare the data set again."
            ) from error

    def keeps_depth(self, i):
        return not isinstance(image := self.example(i)["image"], bytes) or keeps_depth(image)

    def read_pixels(self, i, plan=None):
        image = self.example(i)["image"]
        return read_pixels(image, self.name(i), plan) if isinstance(image, bytes) else part_of(image, plan)

    def identity(self):
        return [self.place, len(self)]


def open_tfds(name, split, channels=None, data_dir=None):
    """A `TfdsSource`. See `opening.open_source`."""
    tfds = optional("tensorflow_datasets", "tf")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        features = builder.info.features
        if not ("image" in features and isinstance(features["image"], tfds.features.Image)):
            raise ValueError(f'no feature "image" among {", ".join(features)}')
        there = list(builder.info.splits)
        own_split = next((name for name in SPLITS[split] if name in there), None)
        if there and own_split is None:
            raise NoSuchSplit(f"no split {split} among {', '.join(there)}")
        records = _records(tfds, name, own_split or split, data_dir, features)
        return TfdsSource(records, features, channels, f"{builder.info.full_name} {own_split}", split)
    except Exception as error:  # unknown names, failed downloads, missing packages: many types, many lines
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        kind = NoSuchSplit if isinstance(error, NoSuchSplit) else ValueError
        raise kind(
            f"Expected images of tensorflow-datasets, received tfds:{name} ({reason}); correct the name."
        ) from error


def _records(tfds, name, split, data_dir, features):
    # Grey and colour images stay encoded until they are read; Pillow cannot decode two or four channels. Label maps are
    # called "annotation".
    images = [
        name for name in ("image", "annotation") if name in features and isinstance(features[name], tfds.features.Image)
    ]
    encoded = {name: tfds.decode.SkipDecoding() for name in images if features[name].shape[-1] in (None, 1, 3)}
    try:
        return tfds.data_source(name, split=split, data_dir=data_dir, decoders=encoded)
    except NotImplementedError:  # another file format than array_record
        info = tfds.builder(name, data_dir=data_dir).info
        if info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(
                f"files in {info.file_format.value}, which are not read at random; prepare it with"
                " file_format=array_record"
            ) from None
        decode = functools.partial(features.deserialize_example_np, decoders=encoded)
        return TfRecords(info.splits[split].filepaths, decode)
