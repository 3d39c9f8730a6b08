"""Write the names and the values of metrics in words, with their units."""

from __future__ import annotations

import re

LABELS = {
    "seconds": "time",
    "data_wait_fraction": "waiting",
    "knn_accuracy": "kNN accuracy",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "mean_iou": "mean IoU",
    "iou": "IoU",
    "balanced_accuracy": "balanced accuracy, the mean recall of the classes",
    "commonest_class_top1": "accuracy of always naming one class, by the training images",
    "best_val_accuracy": "accuracy of best.keras on val",
    "best_step": "step of best.keras",
    "train_images": "images to train on",
}
# Names that hold the name of a split.
PATTERNS = (
    (r"best_(\w+)_top1", r"top-1 accuracy of best.keras on \1"),
    (r"commonest_(\w+)_class_top1", r"accuracy of always naming one class, by the \1 images"),
    (r"(\w+)_top1", r"top-1 accuracy on \1"),
    (r"(\w+)_images", r"images to evaluate on (\1)"),
    (r"ap_(small|medium|large)", r"AP of \1 objects"),
)
FRACTIONS = re.compile(r"(mask_)?ap\d*(_\w+)?|mean_iou|\w*accuracy|\w+_top1")


def label_of(name: str) -> str:
    """Write the name of a metric in words."""
    if name in LABELS:
        return LABELS[name]
    for pattern, label in PATTERNS:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, label, name)
    return f"mask {label_of(name[5:])}" if name.startswith("mask_ap") else name.replace("_", " ")


def text_of(name: str, value: float) -> str:
    """Write a number as the name of its metric demands: a fraction in percent, seconds in minutes."""
    if name == "seconds":
        return f"{value / 60:.1f} min"
    if isinstance(value, float) and FRACTIONS.fullmatch(name):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
