"""Evaluate features by nearest neighbours, linear probes, detection and segmentation, and draw pictures."""

from keras_splitmask.evaluation.detection import average_precision, decode_mask, encode_mask, paste_mask, to_original
from keras_splitmask.evaluation.linear import block_features, linear_probe
from keras_splitmask.evaluation.neighbours import NeighbourProbe, extract, standardise, weighted_knn
from keras_splitmask.evaluation.overlays import palette, save_detections, save_label_maps
from keras_splitmask.evaluation.pictures import has_picture, inpainting_panels, masked_panels, save_inpainting
from keras_splitmask.evaluation.report import read_metrics, write_report
from keras_splitmask.evaluation.segmentation import ConfusionMatrix, segment_sliding, segment_whole

__all__ = [
    "ConfusionMatrix",
    "NeighbourProbe",
    "average_precision",
    "block_features",
    "decode_mask",
    "encode_mask",
    "extract",
    "inpainting_panels",
    "masked_panels",
    "has_picture",
    "linear_probe",
    "palette",
    "paste_mask",
    "read_metrics",
    "save_detections",
    "save_inpainting",
    "save_label_maps",
    "segment_sliding",
    "segment_whole",
    "standardise",
    "to_original",
    "weighted_knn",
    "write_report",
]
