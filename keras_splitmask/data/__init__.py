"""Sources of images, augmentation on the host, and the batches of a run."""

from keras_splitmask.data.augmentation import CROPS, center_box, crop_box, flip, mix
from keras_splitmask.data.cache import cached
from keras_splitmask.data.coco import DetectionSource, Objects
from keras_splitmask.data.detection_sets import open_detection
from keras_splitmask.data.division import copies, divided, joined, read_division, read_groups, write_division
from keras_splitmask.data.framing import letterbox
from keras_splitmask.data.images import open_images
from keras_splitmask.data.label_maps import SegmentationSource, open_segmentation
from keras_splitmask.data.multicrop import MultiCrop
from keras_splitmask.data.opening import open_source
from keras_splitmask.data.order import names_of
from keras_splitmask.data.pipeline import batches, mixed_batches, two_view_batches, view_batches
from keras_splitmask.data.rand_augment import compose
from keras_splitmask.data.reader import Reader, read_all
from keras_splitmask.data.scenes import detection_batches, segmentation_batches
from keras_splitmask.data.sources import NoLabels, NoSuchSplit, Selection, Source
from keras_splitmask.data.subset import Subset, balanced, subset_of

__all__ = [
    "CROPS",
    "DetectionSource",
    "MultiCrop",
    "NoLabels",
    "NoSuchSplit",
    "Objects",
    "Reader",
    "SegmentationSource",
    "Selection",
    "Source",
    "Subset",
    "balanced",
    "batches",
    "cached",
    "center_box",
    "compose",
    "copies",
    "crop_box",
    "detection_batches",
    "divided",
    "flip",
    "joined",
    "letterbox",
    "mix",
    "mixed_batches",
    "names_of",
    "open_detection",
    "open_images",
    "open_segmentation",
    "open_source",
    "read_all",
    "read_division",
    "read_groups",
    "segmentation_batches",
    "subset_of",
    "two_view_batches",
    "view_batches",
    "write_division",
]
