"""Evaluate features by nearest neighbours, linear probes, detection and segmentation, and draw pictures."""

from keras_splitmask.evaluation.classification import classification_metrics, save_confusion, save_mistakes
from keras_splitmask.evaluation.detection import average_precision, decode_mask, encode_mask, paste_mask, to_original
from keras_splitmask.evaluation.feature_map import save_feature_map, save_neighbours
from keras_splitmask.evaluation.linear import best_block, block_features, linear_probe
from keras_splitmask.evaluation.metrics import read_metrics
from keras_splitmask.evaluation.neighbours import NeighbourProbe, extract, standardise, weighted_knn
from keras_splitmask.evaluation.overlays import (
    draw_classes,
    draw_objects,
    draw_plain,
    palette,
    save_detections,
    save_label_maps,
)
from keras_splitmask.evaluation.pictures import (
    has_picture,
    inpainting_panels,
    inpainting_strips,
    masked_panels,
    save_inpainting,
)
from keras_splitmask.evaluation.report import write_comparison, write_report
from keras_splitmask.evaluation.segmentation import ConfusionMatrix, best_class, segment_sliding, segment_whole
from keras_splitmask.evaluation.sheets import framed, save_sheet, side_by_side, thumbnail
from keras_splitmask.evaluation.similarity import directions, most_similar, near_duplicates, oddness

__all__ = [
    "ConfusionMatrix",
    "NeighbourProbe",
    "average_precision",
    "best_block",
    "best_class",
    "block_features",
    "classification_metrics",
    "decode_mask",
    "directions",
    "draw_classes",
    "draw_objects",
    "draw_plain",
    "encode_mask",
    "extract",
    "framed",
    "inpainting_panels",
    "inpainting_strips",
    "masked_panels",
    "has_picture",
    "linear_probe",
    "most_similar",
    "near_duplicates",
    "oddness",
    "palette",
    "paste_mask",
    "read_metrics",
    "save_confusion",
    "save_detections",
    "save_feature_map",
    "save_inpainting",
    "save_label_maps",
    "save_neighbours",
    "save_mistakes",
    "save_sheet",
    "segment_sliding",
    "segment_whole",
    "side_by_side",
    "standardise",
    "thumbnail",
    "to_original",
    "weighted_knn",
    "write_comparison",
    "write_report",
]
