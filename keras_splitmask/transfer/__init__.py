"""Fine-tune a pre-trained encoder to classify, detect, outline and segment."""

from keras_splitmask.transfer.classify import Classifier
from keras_splitmask.transfer.mask_rcnn import MaskRCNN
from keras_splitmask.transfer.pyramid import FeaturePyramid, Pyramid
from keras_splitmask.transfer.retinanet import RetinaNet
from keras_splitmask.transfer.segment import Segmenter

__all__ = [
    "Classifier",
    "FeaturePyramid",
    "MaskRCNN",
    "Pyramid",
    "RetinaNet",
    "Segmenter",
]
