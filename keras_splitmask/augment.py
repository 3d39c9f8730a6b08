"""Augmentation inside the step: flips and colours, on the accelerator, from the step's randomness."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask.backend import distribution
from keras_splitmask.backend.typing import Array, Float, Num, Shaped
from keras_splitmask.options import check_seed
from keras_splitmask.patches import to_pixels

BLUR_RADIUS = (0.1, 2.0)  # standard deviation in pixels, as in DINO and 3-Augment

# name: (what the host does, a name in `data.CROPS`; what the step does, arguments of `Augment`).
# The paper has crop_flip, with quarter_crop_flip for ADE20k (crops of at most 25% of the area). For Cars, Clipart,
# Sketch and Painting it adds greyscale, solarisation, blur and jitter of strengths that it does not state:
# three_augment has those of DeiT III (Touvron et al., 2022), dino those of DINO, with the blur of its small crops
# (Caron et al., 2021). crop_colour has SimCLR's colours (Chen et al., 2020) without hue, which takes the longest.
PRESETS = {
    "none": ("none", {}),
    "flip": ("none", {"flip": True}),
    "crop_flip": ("crop", {"flip": True}),
    "quarter_crop_flip": ("quarter_crop", {"flip": True}),
    "beit": ("crop", {"flip": True, "jitter": (0.4, 0.4, 0.4, 0.0)}),
    "crop_colour": (
        "crop",
        {"flip": True, "grey": 0.2, "jitter": (0.4, 0.4, 0.4, 0.0), "jitter_share": 0.8},
    ),
    "three_augment": (
        "crop",
        {"flip": True, "grey": 1 / 3, "solarise": 1 / 3, "blur": 1 / 3, "one_of": True, "jitter": (0.3, 0.3, 0.3, 0.0)},
    ),
    "dino": (
        "crop",
        {"flip": True, "grey": 0.2, "solarise": 0.2, "blur": 0.5, "jitter": (0.4, 0.4, 0.2, 0.1), "jitter_share": 0.8},
    ),
}


def preset(name, seed=0):
    """The two halves of a named augmentation: the host's, a name in `data.CROPS`; the step's, an `Augment` or None."""
    if name not in PRESETS:
        raise ValueError(f"Expected augmentation to be one of {', '.join(PRESETS)}, received {name!r}.")
    host, arguments = PRESETS[name]
    return host, Augment(**arguments, seed=seed) if arguments else None


def host_preset(name):
    """A named augmentation that happens on the host alone, as {"crop": ..., "flip": ...}, arguments of `data.batches`.

    Fine-tuning needs it, since images are mixed on the host after they are augmented.

    Raises:
        ValueError: if there is no such name, or the augmentation does more than crop and flip.
    """
    names = [name for name, (_, arguments) in PRESETS.items() if set(arguments) <= {"flip"}]
    if name not in names:
        raise ValueError(f"Expected augmentation to be one of {', '.join(names)}, received {name!r}.")
    host, arguments = PRESETS[name]
    return {"crop": host, "flip": bool(arguments)}


def views_preset(name, seed=0):
    """The step's half of a named augmentation for the crops of `data.MultiCrop`: an `AugmentViews`.

    "dino" blurs and solarises as DINO does (section 3.1, the fractions of BYOL); others treat every crop alike.
    """
    host, augment = preset(name, seed)
    if name != "dino":
        return AugmentViews(augment, augment, augment)
    fractions = ({"blur": 1.0, "solarise": 0.0}, {"blur": 0.1, "solarise": 0.2}, {"blur": 0.5, "solarise": 0.0})
    return AugmentViews(*(Augment(**{**PRESETS[name][1], **fraction}, seed=seed) for fraction in fractions))


@keras.saving.register_keras_serializable("keras_splitmask")
class AugmentViews(keras.layers.Layer):
    """Augment crops "global" (B, 2, H, W, C) and "local" (B, k, h, w, C), each on its own, to float32 in 0..1.

    Args:
        first, second, local: an `Augment` or None, for the first and the second global crop and for all local ones.
    """

    def __init__(self, first, second, local, name="augment_views", **kwargs):
        super().__init__(**{**kwargs, "name": name, "dtype": "float32"})
        self.first, self.second, self.local = first, second, local
        self.built = True

    def call(self, views, training=None):
        if not training:
            return views
        large = [_augmented(layer, views["global"][:, i : i + 1]) for i, layer in enumerate((self.first, self.second))]
        return {"global": ops.concatenate(large, axis=1), "local": _augmented(self.local, views["local"])}

    def compute_output_shape(self, views_shape):
        return views_shape

    def get_config(self):
        own = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("first", "second", "local")}
        return {**super().get_config(), **own}

    @classmethod
    def from_config(cls, config):
        layers = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("first", "second", "local")}
        return cls(**{**config, **layers})


def _augmented(layer, crops):
    """Augment each of the crops (B, k, h, w, C) on its own; float32 in 0..1."""
    # Without crops, the -1 in a reshape would have no definite value.
    if not crops.shape[1]:
        return ops.cast(crops, "float32")
    return to_pixels(crops) if layer is None else layer(crops, training=True)


# Not by Keras' own layers: RandomGaussianBlur draws one deviation for a whole batch, Solarization's threshold cannot be
# fixed, and RandomColorJitter adds brightness instead of scaling it. None of them draws a fraction of the images.
@keras.saving.register_keras_serializable("keras_splitmask")
class Augment(keras.layers.Layer):
    """Augment images, uint8 or uint16 or float in 0..1, to float32 in 0..1: (B, H, W, C), or several crops of each
    image, (B, k, H, W, C), each on its own.

    Random numbers are drawn for each image. The order is flip, grey, solarise, blur, jitter; an operation that is off
    costs nothing. Outside of training images stay as they are. Flip, solarise, blur, brightness and contrast work for
    any number of channels. Grey, saturation and hue need three channels and do nothing to other images.

    Args:
        flip: mirror half of the images.
        grey, solarise, blur: the fractions of the images that lose their colour, have the brighter half of the pixel
            values inverted, and are blurred by a Gaussian, whose standard deviation is drawn from `BLUR_RADIUS`.
        one_of: apply at most one of these three to an image; by default they are independent.
        jitter: strengths of brightness, contrast, saturation and hue, applied in this order. A strength s scales by a
            factor drawn from 1 - s to 1 + s. Hue turns the colour circle by up to that fraction in either direction.
        jitter_share: the fraction of the images that are jittered.
        seed: seed of the layer's random numbers; a pre-training model seeds them by the step.
    """

    def __init__(
        self,
        flip=False,
        grey=0.0,
        solarise=0.0,
        blur=0.0,
        one_of=False,
        jitter=(0.0, 0.0, 0.0, 0.0),
        jitter_share=1.0,
        seed=0,
        name="augment",
        **kwargs,
    ):
        # In float32 whatever the precision of training, so that the words do not depend on it.
        super().__init__(**{**kwargs, "name": name, "dtype": "float32"})
        fractions = (grey, solarise, blur, jitter_share)
        if not all(0 <= fraction <= 1 for fraction in fractions) or (one_of and sum(fractions[:3]) > 1 + 1e-6):
            raise ValueError(
                "Expected fractions of the images in [0, 1], with one_of=True summing up to at most 1, "
                f"received {grey=}, {solarise=}, {blur=}, {one_of=}, {jitter_share=}."
            )
        if len(jitter) != 4 or not all(0 <= strength <= 1 for strength in jitter) or jitter[3] > 0.5:
            raise ValueError(
                "Expected jitter=(brightness, contrast, saturation, hue), strengths in [0, 1], that of hue up to 0.5, "
                f"received jitter={tuple(jitter)}."
            )
        self.flip = flip
        self.grey = grey
        self.solarise = solarise
        self.blur = blur
        self.one_of = one_of
        self.jitter = tuple(jitter)
        self.jitter_share = jitter_share
        self.seed = check_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(
        self, images: Shaped[Array, "B *views H W C"], training: bool | None = None
    ) -> Shaped[Array, "B *views H W C"]:
        if not training:
            return images
        # Several views of an image (B, 2, H, W, C) are augmented each on its own.
        x = ops.reshape(to_pixels(images), (-1, *images.shape[-3:]))
        if self.flip:
            x = ops.where(self._uniform(x) < 0.5, ops.flip(x, axis=2), x)  # left and right change places
        x = self._recolour(x)
        # All images are changed and some are chosen: how many is not known while a step is compiled.
        if any(self.jitter) and self.jitter_share:
            x = ops.where(self._uniform(x) < self.jitter_share, self._jittered(x), x)
        return ops.reshape(x, (-1, *images.shape[1:]))

    def _recolour(self, x):
        """Greyscale, solarisation and blur of some of the images, or of each image at most one."""
        # With one_of, each change has a part of 0..1 of its own, and one number decides among them.
        low, draw = 0.0, self._uniform(x) if self.one_of else None
        for fraction, change in ((self.grey, grey), (self.solarise, solarise), (self.blur, self._blurred)):
            if fraction:
                draw = draw if self.one_of else self._uniform(x)
                x = ops.where((draw >= low) & (draw < low + fraction), change(x), x)
                low += fraction if self.one_of else 0.0
        return x

    def _blurred(self, x):
        return blur(x, self._uniform(x, *BLUR_RADIUS))

    def _jittered(self, x):
        # In a fixed order. torchvision draws one for each image, which a compiled step for a whole batch cannot.
        brightness, contrast, saturation, hue = self.jitter
        coloured = x.shape[-1] == 3
        if brightness:
            x = self._scaled(x, brightness)
        if contrast:
            # Towards the mean brightness of the image, as Pillow and torchvision define contrast.
            x = self._scaled(x, contrast, ops.mean(grey(x), axis=(1, 2, 3), keepdims=True))
        if saturation and coloured:
            x = self._scaled(x, saturation, grey(x))
        if hue and coloured:
            angle, rest = ops.split(ops.image.rgb_to_hsv(x, data_format="channels_last"), [1], axis=-1)
            angle = ops.mod(angle + self._uniform(x, -hue, hue), 1.0)  # a circle from 0 to 1
            x = ops.clip(
                ops.image.hsv_to_rgb(ops.concatenate([angle, rest], axis=-1), data_format="channels_last"), 0.0, 1.0
            )
        return x

    def _scaled(self, x, strength, origin=None):
        """Scale the distance of the pixels from `origin`, or from 0, by a factor drawn for each image."""
        factor = self._uniform(x, 1 - strength, 1 + strength)
        # As a sum of products, since `origin` has fewer numbers than the pixels have.
        x = factor * x if origin is None else factor * x + (1 - factor) * origin
        return ops.clip(x, 0.0, 1.0)

    def _uniform(self, x, low=0.0, high=1.0):
        """A number for each image: (B, 1, 1, 1) float32."""
        return distribution.uniform((ops.shape(x)[0], 1, 1, 1), low, high, self.seed_generator)

    def compute_output_shape(self, images_shape):
        return images_shape

    def get_config(self):
        own = ("flip", "grey", "solarise", "blur", "one_of", "jitter", "jitter_share", "seed")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def grey(x: Num[Array, "B H W C"]) -> Num[Array, "B H W c"]:
    """Pixels (B, H, W, 3) to their luminance (B, H, W, 1); pixels of other depths are returned as they are."""
    return ops.image.rgb_to_grayscale(x, data_format="channels_last") if x.shape[-1] == 3 else x


def solarise(x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Pixels (B, H, W, C) in 0..1, inverted where they are of the brighter half."""
    return ops.where(x < 0.5, x, 1.0 - x)


def blur(x, radius):
    """Blur pixels (B, H, W, C) by Gaussians of the standard deviations `radius` (B, 1, 1, 1) in pixels.

    Pixels outside of the image have no weight. Blurring is two products with band matrices: a convolution has one
    kernel for the whole batch, and a depthwise convolution took 40 times as long on JAX and a CPU.
    """

    def weights(side):
        place = ops.arange(side, dtype="float32")
        squares = ops.square(ops.expand_dims(place, 1) - place)  # (side, side)
        band = ops.exp(-squares / (2 * ops.square(radius[..., 0])))  # (B, side, side)
        return band / ops.sum(band, axis=-1, keepdims=True)

    # Down the columns, then along the rows: a Gaussian of two axes is the product of two of one axis.
    x = ops.einsum("bij,bjwc->biwc", weights(x.shape[1]), x)
    return ops.einsum("bij,bhjc->bhic", weights(x.shape[2]), x)
