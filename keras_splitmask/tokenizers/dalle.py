"""Visual words of DALL-E's dVAE (Ramesh et al., 2021, "Zero-Shot Text-to-Image Generation"), as BEiT predicts them.

Its weights come from a file that the user names: `encoder.pkl` as published, or the same arrays in a .safetensors or
.npz. The network is described by its convolutions, which keep their published names.
"""

import itertools
import math

import keras
import numpy as np
from keras import ops

from keras_splitmask.interchange.weight_files import open_weights
from keras_splitmask.patches import grid_shape, to_images, to_patches, to_pixels
from keras_splitmask.resampling import resampling_matrix
from keras_splitmask.training.pixels import check_pixels

ADDRESS = "https://cdn.openai.com/dall-e/{}.pkl"
MARGIN = 0.1  # pixels in 0..1 are mapped to 0.1..0.9, away from the ends of the logit-Laplace distribution
STRIDE = 8  # pixels of the encoder's image to a word
BLOCKS = 2  # to a group, of which there are four
DECODER_INPUT = 128  # width at which the decoder begins, whatever its other widths


class Network(keras.layers.Layer):
    """Half of the dVAE, (B, rows, columns, C) to (B, rows', columns', D) float32: convolutions without norms, in four
    groups.

    Args:
        convolutions: {published name: (channels out, channels in, side of the kernel)}, in order, as
            `encoder_convolutions` and `decoder_convolutions` list them.
        between: the change of size between groups, a function of an array (B, rows, columns, D).
    """

    def __init__(self, convolutions, between, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.convolutions = convolutions
        self.between = between
        self.kernels, self.biases = {}, {}

    def build(self, x_shape):
        rng = np.random.default_rng(0)

        def initial(shape, dtype=None):  # by NumPy, since JAX compiles a generator for each shape: half a minute
            return ops.convert_to_tensor(
                rng.standard_normal(shape, "float32") / np.float32(math.prod(shape[:-1]) ** 0.5), dtype
            )

        for name, (n_out, n_in, side) in self.convolutions.items():
            shape, path = (side, side, n_in, n_out), name.replace(".", "_")  # torch allows no points in names
            self.kernels[name] = self.add_weight(shape=shape, initializer=initial, trainable=False, name=f"{path}_w")
            self.biases[name] = self.add_weight(shape=(n_out,), initializer="zeros", trainable=False, name=f"{path}_b")
        self.built = True

    def call(self, x):
        x = self._convolve("blocks.input", x)
        gain = 1 / (4 * BLOCKS) ** 2
        for group, block in itertools.product(range(1, 5), range(1, BLOCKS + 1)):
            if group > 1 and block == 1:
                x = self.between(x)
            path = f"blocks.group_{group}.block_{block}"
            y = x
            for i in range(1, 5):
                y = self._convolve(f"{path}.res_path.conv_{i}", ops.relu(y))
            if f"{path}.id_path" in self.kernels:
                x = self._convolve(f"{path}.id_path", x)
            x = x + gain * y
        return self._convolve("blocks.output.conv", ops.relu(x))

    def _convolve(self, name, x):
        return ops.conv(x, self.kernels[name], padding="same", data_format="channels_last") + self.biases[name]

    def load(self, arrays):
        """Take arrays in the published layout, kernels (out, in, side, side): {name.w or name.b: array}."""
        for name in self.convolutions:
            self.kernels[name].assign(arrays[f"{name}.w"].transpose(2, 3, 1, 0))
            self.biases[name].assign(arrays[f"{name}.b"])


def encoder_convolutions(hidden, vocabulary):
    """Of the half from images (B, 8 rows, 8 columns, 3) to logits (B, rows, columns, V)."""
    widths = [hidden, hidden, 2 * hidden, 4 * hidden, 8 * hidden]
    return _convolutions((hidden, 3, 7), widths, (3, 3, 3, 1), (vocabulary, 8 * hidden, 1))


def decoder_convolutions(hidden, vocabulary):
    """Of the half from words (B, rows, columns, V) to the mean and the spread of pixels (B, 8 rows, 8 columns, 6)."""
    widths = [DECODER_INPUT, 8 * hidden, 4 * hidden, 2 * hidden, hidden]
    return _convolutions((DECODER_INPUT, vocabulary, 1), widths, (1, 3, 3, 3), (6, hidden, 1))


def _convolutions(first, widths, sides, last):
    found = {"blocks.input": first}
    for group, (before, width) in enumerate(itertools.pairwise(widths), 1):
        for block in range(1, BLOCKS + 1):
            path, n_in = f"blocks.group_{group}.block_{block}", before if block == 1 else width
            if n_in != width:
                found[f"{path}.id_path"] = (width, n_in, 1)
            line = (n_in, width // 4, width // 4, width // 4, width)
            found.update({f"{path}.res_path.conv_{i + 1}": (line[i + 1], line[i], sides[i]) for i in range(4)})
    return {**found, "blocks.output.conv": last}


def _halve(x):
    return ops.max_pool(x, (2, 2), (2, 2), data_format="channels_last")


def _double(x):
    return ops.repeat(ops.repeat(x, 2, axis=1), 2, axis=2)


@keras.saving.register_keras_serializable("keras_splitmask")
class Dalle(keras.layers.Layer):
    """Images (B, H, W, 1 or 3) to words (B, N) int32, one a patch: the dVAE's most likely word for each 8x8 pixels.

    The image is resized so that a patch becomes 8x8 pixels; 224 pixels in patches of 16 are looked at as 112, as in
    BEiT. A grey image is repeated as three channels. The dVAE learnt from photographs of its own (Conceptual Captions
    and a part of YFCC100M): with it, the images at hand are no longer the only data; and its licence asks that its use
    be indicated. Built by the constructor alone it has random weights; `from_files` reads the published ones, and a
    saved model holds them.

    Args:
        image_shape: (height, width, channels), of 1 or 3 channels.
        patch_size: side of a patch in pixels.
        vocabulary: V, number of words.
        hidden: width of the dVAE's first group, a multiple of 4; the last is 8 times as wide.
        decoder: whether there is the decoder, which `draw` then shows words by.

    Raises:
        ValueError: of the constructor, if an argument is none of these; of the call, if the images are of another
            shape.
    """

    def __init__(self, image_shape, patch_size, vocabulary=8192, hidden=256, decoder=False, name="tokenizer", **kwargs):
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
                "Expected images of 1 or 3 channels, which is all that DALL-E's words are for, received"
                f" image_shape={self.image_shape}; take another tokenizer or convert the images."
            )
        self.size = tuple(STRIDE * count for count in self.grid)
        self.vocabulary = vocabulary
        self.hidden = hidden
        self.encoder = Network(encoder_convolutions(hidden, vocabulary), _halve, name="encoder")
        self.decoder = Network(decoder_convolutions(hidden, vocabulary), _double, name="decoder") if decoder else None
        self.build((None, *self.image_shape))

    def build(self, images_shape):
        self._to_dvae = _resizing(self.image_shape[:2], self.size)
        self._to_image = _resizing(self.size, self.image_shape[:2])
        self.encoder.build((None, *self.size, 3))
        if self.decoder:
            self.decoder.build((None, *self.grid, self.vocabulary))
        else:
            shape = (self.vocabulary, STRIDE * STRIDE * self.image_shape[-1])
            self.mean_patches = self.add_weight(
                shape=shape, initializer=keras.initializers.Constant(0.5), trainable=False, name="portraits"
            )
        self.built = True

    @classmethod
    def from_files(cls, image_shape, patch_size, encoder, decoder=None, sha256=None, **kwargs):
        """With the weights of files, which also say the size of the dVAE.

        Args:
            encoder, decoder: paths; the decoder's can be left out, and is for drawing alone. Files are as published, or
                hold the same arrays by name; see `weight_files.open_weights`.
            sha256: checksum of the encoder's file, to be compared.

        Raises:
            ValueError: if a file is not there, cannot be read as data alone, or does not fit: each weight that is
                missing, left over or of another shape is named before any is read.
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

    def call(self, images):
        logits = self.logits(images)
        ids = ops.cast(ops.argmax(logits, axis=-1), "int32")  # (B, rows, columns)
        return ops.reshape(ids, (-1, self.grid[0] * self.grid[1]))

    def encoder_pixels(self, images):
        """Images (B, H, W, C) to what the dVAE looks at: (B, 8 rows, 8 columns, C) float32 in 0..1."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(f"Expected images of {self.image_shape}, received {tuple(images.shape[1:])}.")
        return _resize(to_pixels(images), self._to_dvae)

    def logits(self, images):
        """Images (B, H, W, C) to logits (B, rows, columns, V) float32."""
        x = self.encoder_pixels(images)
        if self.image_shape[-1] == 1:
            x = ops.repeat(x, 3, axis=-1)
        return self.encoder((1 - 2 * MARGIN) * x + MARGIN)

    def same_words(self, other):
        """Whether another tokenizer has the same dVAE and patches of the same size; around a patch, it sees the image
        as well."""
        if type(self) is not type(other):
            return False
        mine, theirs = ((t.patch_size, t.image_shape[-1], t.vocabulary, t.hidden) for t in (self, other))
        pairs = zip(self.encoder.weights, other.encoder.weights)
        return mine == theirs and all(np.array_equal(*map(ops.convert_to_numpy, pair)) for pair in pairs)

    def fit(self, images, max_patches=10_000, batch_size=16, report=lambda line: None):
        """Learn what `draw` shows if there is no decoder: each word as the mean of its patches in images (B, H, W, C).

        The words are what they are. At most `max_patches` patches are looked at; a word that is not among them stays
        grey.
        """
        if self.decoder:
            return self
        per_image = self.grid[0] * self.grid[1]
        sums, counts = np.zeros(self.mean_patches.shape), np.zeros((self.vocabulary, 1))
        count = min(len(images), max(1, max_patches // per_image))
        chosen = np.linspace(0, len(images) - 1, count).round().astype(int)
        for start in range(0, count, batch_size):
            batch = np.asarray(images[chosen[start : start + batch_size]])
            check_pixels(batch, chosen[start : start + batch_size])
            words = ops.convert_to_numpy(self(batch)).reshape(-1)
            patches = ops.convert_to_numpy(to_patches(self.encoder_pixels(batch), STRIDE))  # (b, N, d)
            np.add.at(sums, words, patches.reshape(len(words), -1))
            np.add.at(counts, words, 1)
        self.mean_patches.assign(np.where(counts > 0, sums / np.maximum(counts, 1), 0.5).astype("float32"))
        return self

    def draw(self, ids):
        """Words (B, N) to images (B, H, W, C) float32 in 0..1: by the decoder, or without one each word as `fit` met
        it."""
        if self.decoder:
            words = ops.one_hot(ops.reshape(ids, (-1, *self.grid)), self.vocabulary)
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
    """The matrices that resize rows and columns; nothing where there is nothing to do."""
    return [resampling_matrix(*sides, "bilinear").astype("float32") for sides in zip(old, new)] if old != new else None


def _resize(x, matrices):
    """(B, H, W, C) to (B, H', W', C), antialiased; by matrices, since XLA on TensorFlow has no such operation."""
    if matrices is None:
        return x
    rows, columns = matrices
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
        f"Expected a file with the weights of DALL-E's {half}, received {path}, which does not exist; "
        f"download {ADDRESS.format(half)} and pass the path of that file (to a recipe, as --dalle_weights=FILE)."
    )


def _check(stored, convolutions, half, path):
    expected = {f"{name}.w": (n_out, n_in, side, side) for name, (n_out, n_in, side) in convolutions.items()}
    expected.update({f"{name}.b": (n_out,) for name, (n_out, _, _) in convolutions.items()})
    wrong = [f"{name} is missing" for name in expected if name not in stored]
    wrong += [f"{name} is left over" for name in stored if name not in expected]
    wrong += [
        f"{n} has shape {stored[n].shape}, expected {expected[n]}"
        for n in expected
        if n in stored and stored[n].shape != expected[n]
    ]
    if wrong:
        more = f"; and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise ValueError(
            f"Expected the weights of DALL-E's {half}, received {path}, which does not fit:"
            f" {'; '.join(wrong[:6])}{more}."
        )
