"""Images in: sources, augmentation on the host, and the batches of a run."""

from keras_splitmask.data.augmentation import PRESETS, center_crop, flip, mix, random_resized_crop
from keras_splitmask.data.pipeline import batches, read_all
from keras_splitmask.data.sources import Source, open_source
from keras_splitmask.data.subset import Subset, balanced
