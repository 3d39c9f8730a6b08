"""keras.json may say channels_first, as older projects wanted it; images are (B, H, W, C) all the same.

Each layer is given its order when it is built, the same on every backend; one of them is enough, since JAX takes a
minute.
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_splitmask.transfer.mask_rcnn import MaskRCNN
from keras_splitmask.transfer.retinanet import RetinaNet
from keras_splitmask.transfer.segment import Segmenter

SHAPE = (32, 64, 3)
MODELS = {
    "retinanet": lambda encoder: RetinaNet(encoder, 2, width=8, score_threshold=0.0),
    "retinanet, simple": lambda encoder: RetinaNet(encoder, 2, width=8, score_threshold=0.0, neck="simple"),
    "mask r-cnn": lambda encoder: MaskRCNN(encoder, 2, width=8, hidden=8, proposals=4, score_threshold=0.0),
    "upernet": lambda encoder: Segmenter(encoder, 2, width=8),
    "upernet, simple": lambda encoder: Segmenter(encoder, 2, width=8, neck="simple"),
}


@pytest.mark.parametrize("name", MODELS)
def test_channels_first_in_keras_json_changes_nothing(make_encoder, make_images, name):
    if "retinanet" in name:
        pytest.importorskip("keras_cv")
    images, outputs = make_images(2, SHAPE), []
    for order in ("channels_last", "channels_first"):
        keras.config.set_image_data_format(order)
        try:
            keras.utils.set_random_seed(0)
            model = MODELS[name](make_encoder(SHAPE, 8, depth=1))
            outputs.append([ops.convert_to_numpy(x) for x in keras.tree.flatten(model(images))])
        finally:
            keras.config.set_image_data_format("channels_last")
    assert any(np.ptp(x) > 0 for x in outputs[0])
    for last, first in zip(*outputs, strict=True):
        np.testing.assert_array_equal(last, first)


OF_KERASCV = {
    "retinanet": lambda encoder: RetinaNet(encoder, 2, width=256),
    "deeplab": lambda encoder: Segmenter(encoder, 2, "deeplab", width=8),
    "segformer": lambda encoder: Segmenter(encoder, 2, "segformer", width=8),
}


@pytest.mark.parametrize("name", OF_KERASCV)
def test_kerascvs_own_parts_are_refused_with_channels_first(make_encoder, name):
    pytest.importorskip("keras_cv")
    keras.config.set_image_data_format("channels_first")
    try:
        with pytest.raises(
            ValueError,
            match='^Expected image_data_format="channels_last" .* received "channels_first"; change it there.*$',
        ):
            OF_KERASCV[name](make_encoder(SHAPE, 8, depth=1))
    finally:
        keras.config.set_image_data_format("channels_last")
