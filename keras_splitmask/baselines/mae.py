"""MAE (He et al., 2021, "Masked autoencoders are scalable vision learners") on SplitMask's encoder."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.layers import Dense
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.decoder import Decoder
from keras_splitmask.encoder import Encoder
from keras_splitmask.patches import denormalise, normalise, normalise_patches, to_images, to_patches
from keras_splitmask.split import Split, gather, masked_count
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import check_absolute
from keras_splitmask.training.objective_model import ObjectiveModel

# 512 / 16 in MAE's code.
HEAD = 32  # width of a head in the decoder


def decoder_size(depth: int, width: int) -> tuple[int, int]:
    """Choose the decoder's size, (depth, width): two thirds of the encoder's, at most the paper's (8, 512)."""
    # Two thirds of ViT-B's 12 blocks of 768 are the paper's 8 blocks of 512.
    return min(8, max(1, round(depth * 2 / 3))), min(512, max(1, round(width * 2 / 3 / HEAD)) * HEAD)


@keras.saving.register_keras_serializable("keras_splitmask")
class MAE(ObjectiveModel):
    """Encode a quarter of an image's patches, and let a decoder predict the pixels of the others.

    The positions are the encoder's. The decoder learns positions for its mask tokens only; in the paper it has fixed
    ones for all tokens.

    Args:
        encoder: an `Encoder`.
        mask_ratio: fraction of the patches that are masked, in (0, 1); 0.75 in the paper.
        decoder_depth, decoder_width: size of the decoder. Default: as `decoder_size` computes it. A head is 32 wide;
            the width must be a multiple of it.
        augmentation: an `Augment` for the images of a training step.
        seed: decides all random numbers of training, together with the number of the step.
    """

    def __init__(
        self,
        encoder: Encoder,
        mask_ratio: float = 0.75,
        decoder_depth: int | None = None,
        decoder_width: int | None = None,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "mae",
        **kwargs,
    ):
        super().__init__(encoder, seed=seed, augmentation=augmentation, name=name, **kwargs)
        check_absolute(encoder)
        depth, width = decoder_size(encoder.depth, encoder.width)
        depth = depth if decoder_depth is None else decoder_depth
        width = width if decoder_width is None else decoder_width
        if width < HEAD or width % HEAD:
            raise ValueError(f"Expected a decoder_width that is a multiple of {HEAD}, received decoder_width={width}.")
        policy = self.dtype_policy
        self.mask_ratio = mask_ratio
        self.split = Split(encoder.grid, kind="random", dtype=policy, name="split")
        self.masked_count = masked_count(self.split.count, mask_ratio)
        self.narrow = Dense(width, dtype=policy, name="narrow")
        self.decoder = Decoder(self.split.count, width, width // HEAD, depth, dtype=policy)
        self.pixels = Dense(encoder.patch_size**2 * encoder.image_shape[-1], dtype=policy, name="pixels")
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.narrow.build((None, None, self.encoder.width))
        for layer in (self.decoder, self.pixels):
            layer.build((None, None, self.decoder.width))
        super().build(images_shape)

    def masked(
        self, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"], training: bool = False
    ) -> Float[Array, "B m d"]:
        """Encode and decode the images, and return the outputs at the masked patches: (B, m, decoder_width).

        Args:
            images: (B, H, W, C).
            order: (B, N) int32, from `split`; the first m patches are masked, and the encoder does not see them.
        """
        masked, seen = order[:, : self.masked_count], order[:, self.masked_count :]
        tokens = self.encoder.embed(images, indices=seen)  # (B, N - m, D)
        tokens = self.narrow(self.encoder.encode(tokens, training=training))  # (B, 1 + N - m, decoder_width)
        return self.decoder.only_unseen(tokens, masked, training=training)

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the mean squared error of the masked patches' normalised pixels (section 3)."""
        images = batch.images  # (B, H, W, C)
        order = self.split(images)  # (B, N)
        # `losses.reconstruct` normalises each patch once more, by itself, which the paper found better.
        targets = gather(to_patches(images, self.encoder.patch_size), order[:, : self.masked_count])  # (B, m, P)
        targets = normalise_patches(targets, images.shape[-1])
        predicted = self.pixels(self.masked(images, order, training))  # (B, m, P)
        return ops.mean(losses.reconstruct(predicted, targets)), {}

    def paint(self, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
        """Images (B, H, W, C) in 0..1 with predicted pixels where they are masked, at the true brightness and contrast
        of each patch."""
        patches = gather(to_patches(normalise(images), self.encoder.patch_size), order)  # (B, N, P)
        mean, deviation = losses.patch_statistics(patches[:, : self.masked_count])  # (B, m, 1) each
        predicted = ops.stop_gradient(self.pixels(self.masked(images, order)))  # (B, m, P)
        predicted = ops.cast(predicted, "float32") * deviation + mean
        patches = ops.concatenate([predicted, patches[:, self.masked_count :]], axis=1)  # (B, N, P)
        # The argsort of a permutation is its inverse: it leads back to the grid.
        patches = gather(patches, ops.argsort(order, axis=1))
        return denormalise(to_images(patches, self.encoder.image_shape, self.encoder.patch_size))

    def get_config(self):
        own = {"mask_ratio": self.mask_ratio, "decoder_depth": self.decoder.depth, "decoder_width": self.decoder.width}
        return {**super().get_config(), **own}
