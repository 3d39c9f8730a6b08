"""The network of DALL-E's dVAE (Ramesh et al., 2021, appendix A), described by its convolutions.

The convolutions keep their published names, so that published weights can be loaded by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras import ops

from keras_splitmask.backend.typing import Array, Float

BLOCKS = 2  # in a group; there are four groups
DECODER_INPUT = 128  # width at which the decoder begins, whatever its other widths


class Network(keras.layers.Layer):
    """One half of the dVAE: convolutions without norms, in four groups.

    It maps (B, rows, columns, C) to (B, rows', columns', D) float32.

    Args:
        convolutions: {published name: (channels out, channels in, side of the kernel)}, in order, as
            `encoder_convolutions` and `decoder_convolutions` list them.
        between: the change of size between groups, a function of an array (B, rows, columns, D).
    """

    def __init__(self, convolutions: dict[str, tuple[int, int, int]], between: Callable, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.convolutions = convolutions
        self.between = between
        self.kernels: dict[str, keras.Variable] = {}
        self.biases: dict[str, keras.Variable] = {}

    def build(self, x_shape):
        rng = np.random.default_rng(0)

        # NumPy, since JAX would compile a generator for each shape, which takes half a minute.
        def initial(shape, dtype=None):
            # The published deviation: 1 / sqrt(channels in x side^2).
            return ops.convert_to_tensor(
                rng.standard_normal(shape, "float32") / np.float32(math.prod(shape[:-1]) ** 0.5), dtype
            )

        for name, (n_out, n_in, side) in self.convolutions.items():
            shape, path = (side, side, n_in, n_out), name.replace(".", "_")  # torch does not allow dots in names
            self.kernels[name] = self.add_weight(shape=shape, initializer=initial, trainable=False, name=f"{path}_w")
            self.biases[name] = self.add_weight(shape=(n_out,), initializer="zeros", trainable=False, name=f"{path}_b")
        self.built = True

    def call(self, x: Float[Array, "B h w C"]) -> Float[Array, "B rows columns D"]:
        x = self._convolve("blocks.input", x)
        # The published "post_gain": 1 over the squared number of blocks.
        gain = 1 / (4 * BLOCKS) ** 2
        for group, block in itertools.product(range(1, 5), range(1, BLOCKS + 1)):
            if group > 1 and block == 1:
                x = self.between(x)
            path = f"blocks.group_{group}.block_{block}"
            y = x
            for i in range(1, 5):
                y = self._convolve(f"{path}.res_path.conv_{i}", ops.relu(y))
            # A convolution where the width changes, else the identity.
            if f"{path}.id_path" in self.kernels:
                x = self._convolve(f"{path}.id_path", x)
            x = x + gain * y
        return self._convolve("blocks.output.conv", ops.relu(x))

    def _convolve(self, name, x):
        return ops.conv(x, self.kernels[name], padding="same", data_format="channels_last") + self.biases[name]

    def load(self, arrays: Mapping[str, Array]) -> None:
        """Assign arrays in the published layout, {"NAME.w" or "NAME.b": array}, kernels (out, in, side, side)."""
        for name in self.convolutions:
            self.kernels[name].assign(arrays[f"{name}.w"].transpose(2, 3, 1, 0))  # (side, side, in, out)
            self.biases[name].assign(arrays[f"{name}.b"])


def encoder_convolutions(hidden: int, vocabulary: int) -> dict[str, tuple[int, int, int]]:
    """The convolutions of the encoder, from images (B, 8 rows, 8 columns, 3) to logits (B, rows, columns, V)."""
    widths = [hidden, hidden, 2 * hidden, 4 * hidden, 8 * hidden]
    return _convolutions((hidden, 3, 7), widths, (3, 3, 3, 1), (vocabulary, 8 * hidden, 1))


def decoder_convolutions(hidden: int, vocabulary: int) -> dict[str, tuple[int, int, int]]:
    """The convolutions of the decoder, from words (B, rows, columns, V) to the mean and spread of pixels (..., 6)."""
    # The 1x1 convolution comes first in a block of the decoder, and last in one of the encoder.
    widths = [DECODER_INPUT, 8 * hidden, 4 * hidden, 2 * hidden, hidden]
    return _convolutions((DECODER_INPUT, vocabulary, 1), widths, (1, 3, 3, 3), (6, hidden, 1))


def _convolutions(first, widths, sides, last):
    convolutions = {"blocks.input": first}
    for group, (before, width) in enumerate(itertools.pairwise(widths), 1):
        for block in range(1, BLOCKS + 1):
            path, n_in = f"blocks.group_{group}.block_{block}", before if block == 1 else width
            if n_in != width:
                convolutions[f"{path}.id_path"] = (width, n_in, 1)
            # Within a block the width is a quarter.
            channels = (n_in, width // 4, width // 4, width // 4, width)
            convolutions.update(
                {f"{path}.res_path.conv_{i + 1}": (channels[i + 1], channels[i], sides[i]) for i in range(4)}
            )
    return {**convolutions, "blocks.output.conv": last}


def halve(x: Float[Array, "B h w D"]) -> Float[Array, "B h//2 w//2 D"]:
    return ops.max_pool(x, (2, 2), (2, 2), data_format="channels_last")


def double(x: Float[Array, "B h w D"]) -> Float[Array, "B 2*h 2*w D"]:
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)
