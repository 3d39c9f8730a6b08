"""RandAugment (Cubuk et al., 2020) and random erasing (Zhong et al., 2020) on the host, as in DeiT and BEiT.

Not Keras' layer of that name: it draws one operation for a whole batch, and computes all eleven of them to keep one.
"""

import functools

import numpy as np

from keras_splitmask.backend.optional import optional

OPERATIONS = 2  # per image; each is applied with probability 1/2
SPREAD = 0.5  # standard deviation of the magnitude
GREY = 128  # what is shown where an image was moved away


def rand_augment(image, rng, magnitude=9.0):
    """Two operations drawn from `NAMES`, each done with probability 0.5 at a magnitude from a normal distribution
    around `magnitude`.

    What DeiT's recipe calls rand-m9-mstd0.5-inc1: from 0 to 10 every operation gets stronger.

    Args:
        image: (H, W, C) uint8 with C = 1 or 3.
        rng: NumPy random generator.
        magnitude: 0 to 10; 9 in DeiT and BEiT.

    Returns:
        (H, W, C) uint8.

    Raises:
        ValueError: if there are other than 1 or 3 channels.
    """
    if image.shape[-1] not in (1, 3):
        raise ValueError(
            f"Expected images of 1 or 3 channels for RandAugment, received {image.shape[-1]}; leave it out."
        )
    Image = optional("PIL.Image", "data")
    picture = Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])
    for i in rng.integers(len(NAMES), size=OPERATIONS):
        strength = min(10.0, max(0.0, rng.normal(magnitude, SPREAD))) / 10  # in 0..1
        # Drawn for every operation, used or not, so that the numbers after it do not depend on which was chosen.
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < 0.5:
            picture = _operations()[NAMES[i]](picture, strength, sign)
    return np.asarray(picture).reshape(image.shape)


NAMES = (
    *(
        "auto_contrast",
        "equalize",
        "invert",
        "posterize",
        "solarize",
        "solarize_add",
        "colour",
        "contrast",
        "brightness",
        "sharpness",
    ),
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
)


@functools.cache
def _operations():
    """name: a function of an image of Pillow, a strength in 0..1 and a sign, that gives another."""
    Image, ops, enhance = (optional(f"PIL.{name}", "data") for name in ("Image", "ImageOps", "ImageEnhance"))

    def affine(x, matrix):
        return x.transform(
            x.size,
            Image.Transform.AFFINE,
            matrix,
            Image.Resampling.BICUBIC,
            fillcolor=(GREY,) * 3 if x.mode == "RGB" else GREY,
        )

    def enhanced(kind):
        # From 0.1 to 1.9; at 1 the image stays as it is.
        return lambda x, s, sign: kind(x).enhance(max(0.1, 1 + 0.9 * s * sign))

    # At a strength of 1 the changes are timm's largest: 30 degrees, a shear of 0.3, 45% of a side, 110 of 255.
    return {
        "auto_contrast": lambda x, s, sign: ops.autocontrast(x),
        "equalize": lambda x, s, sign: ops.equalize(x),
        "invert": lambda x, s, sign: ops.invert(x),
        "posterize": lambda x, s, sign: ops.posterize(x, max(1, 4 - int(4 * s))),  # to 4 bits and fewer
        "solarize": lambda x, s, sign: ops.solarize(x, 256 - int(256 * s)),  # a threshold of 256 inverts nothing
        "solarize_add": lambda x, s, sign: x.point(
            [min(255, value + int(110 * s)) if value < 128 else value for value in range(256)] * len(x.getbands())
        ),
        "colour": enhanced(enhance.Color),
        "contrast": enhanced(enhance.Contrast),
        "brightness": enhanced(enhance.Brightness),
        "sharpness": enhanced(enhance.Sharpness),
        "rotate": lambda x, s, sign: x.rotate(
            30 * s * sign, Image.Resampling.BICUBIC, fillcolor=(GREY,) * 3 if x.mode == "RGB" else GREY
        ),
        "shear_x": lambda x, s, sign: affine(x, (1, 0.3 * s * sign, 0, 0, 1, 0)),
        "shear_y": lambda x, s, sign: affine(x, (1, 0, 0, 0.3 * s * sign, 1, 0)),
        "translate_x": lambda x, s, sign: affine(x, (1, 0, 0.45 * s * sign * x.width, 0, 1, 0)),
        "translate_y": lambda x, s, sign: affine(x, (1, 0, 0, 0, 1, 0.45 * s * sign * x.height)),
    }


def erase(image, rng, probability=0.25, area=(0.02, 1 / 3), aspect=(0.3, 1 / 0.3)):
    """Replace a random rectangle of the image by noise, with this probability.

    Each pixel is drawn with ImageNet's mean and standard deviation.

    Args:
        image: (H, W, C) uint8.
        rng: NumPy random generator.
        probability: 0.25 in DeiT and BEiT.
        area: range of its fraction of the image.
        aspect: height : width, drawn on a logarithmic scale.

    Returns:
        (H, W, C) uint8.
    """
    if rng.random() >= probability:
        return image
    height, width, channels = image.shape
    for _ in range(10):
        size, ratio = height * width * rng.uniform(*area), np.exp(rng.uniform(*np.log(aspect)))
        rows, columns = round((size * ratio) ** 0.5), round((size / ratio) ** 0.5)
        if 0 < rows < height and 0 < columns < width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            image = image.copy()
            noise = rng.normal(115, 58, (rows, columns, channels))  # 0.45 and 0.226 of 255
            image[top : top + rows, left : left + columns] = np.clip(noise, 0, 255)
            return image
    return image


def compose(magnitude=0.0, erasing=0.0):
    """Compose RandAugment and erasing into a function (image, rng) -> image; None if both are 0."""
    steps = []
    if magnitude:
        steps.append(functools.partial(rand_augment, magnitude=magnitude))
    if erasing:
        steps.append(functools.partial(erase, probability=erasing))
    return functools.partial(_in_order, steps) if steps else None


def _in_order(steps, image, rng):
    for step in steps:
        image = step(image, rng)
    return image
