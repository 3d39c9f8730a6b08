"""Use a trained model on new images: classes, objects, label maps or features."""

from keras_splitmask.prediction.batches import read_batches, run_model
from keras_splitmask.prediction.embedding import FEATURES, Embedding, embed_images
from keras_splitmask.prediction.predicting import (
    Classification,
    Detection,
    NoHead,
    Results,
    Segmentation,
    predict_images,
    predictions,
    predictor_for,
)

__all__ = [
    "Classification",
    "Detection",
    "Embedding",
    "FEATURES",
    "NoHead",
    "Results",
    "Segmentation",
    "embed_images",
    "predict_images",
    "predictions",
    "predictor_for",
    "read_batches",
    "run_model",
]
