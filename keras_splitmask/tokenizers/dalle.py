"""Visual words of DALL-E's dVAE (Ramesh et al., 2021, "Zero-Shot Text-to-Image Generation"), as BEiT predicts them.

The weights come from a file of the user: `encoder.pkl` as published, or the same arrays in a .safetensors or .npz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.interchange.weight_files import open_weights
from keras_splitmask.misfits import misfits
from keras_splitmask.patches import grid_shape, to_images, to_patches, to_pixels
from keras_splitmask.resampling import resampling_matrix
from keras_splitmask.tokenizers.dvae import Network, decoder_convolutions, double, encoder_convolutions, halve
from keras_splitmask.training.pixels import check_pixels

ADDRESS = "https://cdn.openai.com/dall-e/{}.pkl"
MARGIN = 0.1  # pixels in 0..1 are mapped to 0.1..0.9, away from the ends of the logit-Laplace distribution
STRIDE = 8  # pixels per visual word, along each side of the encoder's input


@keras.saving.register_keras_serializable("keras_splitmask")
class Dalle(keras.layers.Layer):
    """Map images (B, H, W, 1 or 3) to visual words (B, N) int32: the dVAE's most likely word for each patch.

    The image is resized so that a patch becomes 8x8 pixels: 224 pixels in patches of 16 become 112 pixels, as in BEiT.
    A grey image is repeated as three channels. The dVAE was trained on other photographs (Conceptual Captions and a
    part of YFCC100M), so your images are no longer the only data. Its licence asks that you mention its use. The
    constructor makes random weights; `from_files` reads the published ones, and a saved model includes them.

    Args:
        image_shape: (height, width, channels), of 1 or 3 channels.
        patch_size: side of a patch in pixels.
        vocabulary: V, number of words.
        hidden: width of the dVAE's first group, a multiple of 4; the last is 8 times as wide.
        decoder: include the decoder, which `draw` then uses.

    Raises:
        ValueError: if an argument is out of range, or images have another shape.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        patch_size: int,
        vocabulary: int = 8192,
        hidden: int = 256,
        decoder: bool = False,
        name: str = "tokenizer",
        **kwargs,
    ):
        # float32 always, so that the targets do not depend on the precision of training.
        super().__init__(**{"trainable": False, **kwargs, "name": name, "dtype": "float32"})
        if vocabulary < 2:
            raise ValueError(f"Expected a vocabulary of at least two words, received vocabulary={vocabulary}.")
        if hidden < 4 or hidden % 4:
            raise ValueError(f"Expected hidden to be a multiple of 4, received hidden={hidden}.")
        self.image_shape = tuple(image_shape)
        self.patch_size = patch_size
        self.grid = grid_shape(image_shape, patch_size)
        if self.image_shape[-1] not in (1, 3):
            raise ValueError(
                "Expected images of 1 or 3 channels for DALL-E's words, received"
                f" image_shape={self.image_shape}; choose another tokenizer or convert the images."
            )
        self.size = tuple(STRIDE * count for count in self.grid)  # of the dVAE's input
        self.vocabulary = vocabulary
        self.hidden = hidden
        self.encoder = Network(encoder_convolutions(hidden, vocabulary), halve, name="encoder")
        self.decoder = Network(decoder_convolutions(hidden, vocabulary), double, name="decoder") if decoder else None
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        self._to_dvae = _resizing(self.image_shape[:2], self.size)
        self._to_image = _resizing(self.size, self.image_shape[:2])
        self.encoder.build((None, *self.size, 3))
        if self.decoder:
            self.decoder.build((None, *self.grid, self.vocabulary))
        else:
            shape = (self.vocabulary, STRIDE * STRIDE * self.image_shape[-1])
            # Grey until `fit` has seen a patch of a word. "portraits" is the name in checkpoints, as in codebooks.py.
            self.mean_patches = self.add_weight(
                shape=shape, initializer=keras.initializers.Constant(0.5), trainable=False, name="portraits"
            )
        self.built = True

    @classmethod
    def from_files(cls, image_shape, patch_size, encoder, decoder=None, sha256=None, **kwargs):
        """Build a tokenizer with the weights of files, whose shapes give the size of the dVAE.

        Args:
            encoder, decoder: paths; the decoder is optional and only draws. Files are as published, or have the same
                arrays by name; see `weight_files.open_weights`.
            sha256: checksum of the encoder's file, to compare.

        Raises:
            ValueError: if a file is missing, is not plain data, or does not fit. Each weight that is missing, left
                over or of another shape is named, before any is read.
        """
        files = [("encoder", encoder, sha256)] + ([("decoder", decoder, None)] if decoder else [])
        found = {half: _open(half, path, checksum) for half, path, checksum in files}
        hidden = _channels_out(found["encoder"], "blocks.input.w", 256)
        vocabulary = _channels_out(found["encoder"], "blocks.output.conv.w", 8192)
        tables = {"encoder": encoder_convolutions, "decoder": decoder_convolutions}
        for half, path, _ in files:
            _check(found[half], tables[half](hidden, vocabulary), half, path)
        tokenizer = cls(image_shape, patch_size, vocabulary, hidden, "decoder" in found, **kwargs)
        for half in found:
            getattr(tokenizer, half).load({name: stored.read() for name, stored in found[half].items()})
        return tokenizer

    def call(self, images: Shaped[Array, "B H W C"]) -> Int[Array, "B N"]:
        # Not kept for each image: with augmentation, every view has words of its own.
        logits = self.logits(images)
        ids = ops.cast(ops.argmax(logits, axis=-1), "int32")  # (B, rows, columns)
        return ops.reshape(ids, (-1, self.grid[0] * self.grid[1]))

    def encoder_pixels(self, images: Shaped[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        """Resize images (B, H, W, C) to the input of the dVAE: (B, 8 rows, 8 columns, C) float32 in 0..1."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"Expected images of {self.image_shape}, received {tuple(images.shape[1:])}.")
        return _resize(to_pixels(images), self._to_dvae)

    def logits(self, images: Shaped[Array, "B H W C"]) -> Float[Array, "B rows columns V"]:
        """Map images (B, H, W, C) to logits (B, rows, columns, V) float32."""
        x = self.encoder_pixels(images)
        if self.image_shape[-1] == 1:
            x = ops.repeat(x, 3, axis=-1)
        return self.encoder((1 - 2 * MARGIN) * x + MARGIN)  # `map_pixels` of DALL-E's code

    def same_words(self, other: Any) -> bool:
        """Return whether another tokenizer has the same dVAE and patch size.

        Its words may still differ, since a word also depends on the pixels around its patch.
        """
        if type(self) is not type(other):
            return False
        mine, theirs = ((t.patch_size, t.image_shape[-1], t.vocabulary, t.hidden) for t in (self, other))
        pairs = zip(self.encoder.weights, other.encoder.weights, strict=True)
        return mine == theirs and all(np.array_equal(*map(ops.convert_to_numpy, pair)) for pair in pairs)

    def fit(
        self,
        images: Any,
        max_patches: int = 10_000,
        batch_size: int = 16,
        report: Callable[[str], Any] = lambda line: None,
    ) -> Dalle:
        """Learn the mean patch of each word from images (B, H, W, C), which `draw` shows if there is no decoder.

        The words themselves do not change. At most `max_patches` patches are read; words not among them stay grey.
        """
        if self.decoder:
            return self
        per_image = self.grid[0] * self.grid[1]
        sums, counts = np.zeros(self.mean_patches.shape), np.zeros((self.vocabulary, 1))
        count = min(len(images), max(1, max_patches // per_image))
        # Spread over the images, which may be sorted by class.
        chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
        for start in range(0, count, batch_size):
            batch = np.asarray(images[chosen[start : start + batch_size]])
            check_pixels(batch, chosen[start : start + batch_size])
            words = ops.convert_to_numpy(self(batch)).reshape(-1)
            patches = ops.convert_to_numpy(to_patches(self.encoder_pixels(batch), STRIDE))  # (b, N, d)
            # `sums[words] += ...` would add a word that occurs twice only once.
            np.add.at(sums, words, patches.reshape(len(words), -1))
            np.add.at(counts, words, 1)
        self.mean_patches.assign(np.where(counts > 0, sums / np.maximum(counts, 1), 0.5).astype("float32"))
        return self

    def draw(self, ids: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
        """Draw words (B, N) as images (B, H, W, C) float32 in 0..1: by the decoder, or else by the mean patches."""
        if self.decoder:
            words = ops.one_hot(ops.reshape(ids, (-1, *self.grid)), self.vocabulary)
            # The first three channels are the means of the pixels' distribution, the other three its spread.
            x = (ops.sigmoid(self.decoder(words)[..., :3]) - MARGIN) / (1 - 2 * MARGIN)
            if self.image_shape[-1] == 1:
                x = ops.mean(x, axis=-1, keepdims=True)
        else:
            x = to_images(ops.take(self.mean_patches, ids, axis=0), (*self.size, self.image_shape[-1]), STRIDE)
        return ops.clip(_resize(x, self._to_image), 0.0, 1.0)

    def compute_output_shape(self, images_shape):
        return images_shape[0], self.grid[0] * self.grid[1]

    def get_config(self):
        own = {name: getattr(self, name) for name in ("image_shape", "patch_size", "vocabulary", "hidden")}
        return {**super().get_config(), **own, "decoder": self.decoder is not None}


def _resizing(old, new):
    """The matrices that resize rows and columns; None if the sizes are the same."""
    # BEiT resizes this view by Lanczos; these matrices are bilinear, with antialiasing.
    return (
        [resampling_matrix(*sides, "bilinear").astype("float32") for sides in zip(old, new, strict=True)]
        if old != new
        else None
    )


def _resize(x, matrices):
    """Resize (B, H, W, C) with antialiasing, by matrices: XLA on TensorFlow has no such operation."""
    if matrices is None:
        return x
    rows, columns = matrices
    # (B, H, W, C) to (B, r, W, C), then to (B, r, c, C).
    return ops.einsum("cj,brjk->brck", columns, ops.einsum("ri,bijk->brjk", rows, x))


def _channels_out(stored, name, otherwise):
    return stored[name].shape[0] if name in stored and stored[name].shape else otherwise


def _open(half, path, sha256):
    try:
        return open_weights(path, sha256)
    except ValueError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    raise ValueError(
        f"File not found: {path}, expected to hold the weights of DALL-E's {half}; "
        f"download {ADDRESS.format(half)} and pass the path of that file."
    )


def _check(stored, convolutions, half, path):
    expected = {f"{name}.w": (n_out, n_in, side, side) for name, (n_out, n_in, side) in convolutions.items()}
    expected.update({f"{name}.b": (n_out,) for name, (n_out, _, _) in convolutions.items()})
    if wrong := misfits(stored, expected):
        raise ValueError(f"Expected the weights of DALL-E's {half}, received {path}, which does not fit: {wrong}.")
