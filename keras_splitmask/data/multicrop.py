"""Cut several large and small crops of each image, as DINO does (Caron et al., 2021, section 3.1)."""

import dataclasses

import numpy as np

from keras_splitmask.data.augmentation import check_scale, crop_box
from keras_splitmask.data.resizing import resize


@dataclasses.dataclass(frozen=True)
class MultiCrop:
    """Two global crops of each image at the size of the batch, and `local` smaller ones at `local_size`.

    Args:
        local: number of local crops, 8 in the paper; may be 0.
        local_size: (height, width) of these in pixels.
        global_scale, local_scale: ranges of the fraction of the image's area, drawn uniformly.
    """

    local: int
    local_size: tuple
    # The scales of DINO's code.
    global_scale: tuple = (0.4, 1.0)
    local_scale: tuple = (0.05, 0.4)

    def __post_init__(self):
        if self.local < 0 or len(self.local_size) != 2 or min(self.local_size) < 1:
            raise ValueError(
                f"Expected local >= 0 crops of local_size=(height, width), received {self.local} of {self.local_size}."
            )
        check_scale(self.global_scale)
        check_scale(self.local_scale)

    def cut(self, image, size, rng):
        """The crops of an image (H, W, C) uint8: "global" (2, *size, C) and "local" (local, *local_size, C), uint8."""
        plan = {"global": (2, size, self.global_scale), "local": (self.local, tuple(self.local_size), self.local_scale)}
        crops = {}
        for name, (count, crop_size, scale) in plan.items():
            crops[name] = np.empty((count, *crop_size, image.shape[-1]), "uint8")
            for i in range(count):
                top, left, height, width = crop_box(*image.shape[:2], rng, scale)
                crops[name][i] = resize(image[top : top + height, left : left + width], crop_size)
        return crops
