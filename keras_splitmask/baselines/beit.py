"""BEiT (Bao et al., 2021, "BEiT: BERT pre-training of image transformers") on SplitMask's encoder."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask.backend.layers import Dense
from keras_splitmask.backend.linear_cross_entropy import linear_cross_entropy
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.encoder import Encoder
from keras_splitmask.split import Split, gather, masked_count, words_at
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import check_absolute, check_fitted, check_tokenizer
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.word_perplexity import WordPerplexity


@keras.saving.register_keras_serializable("keras_splitmask")
class BEiT(ObjectiveModel):
    """Replace blocks of patches by a mask token, and let the encoder predict the visual words of the masked patches.

    As the SplitMask paper compares it: absolute positions and no layer scale. Exactly floor(N * mask_ratio) patches are
    masked; the original masks about this many.

    Args:
        encoder: an `Encoder`.
        tokenizer: a layer from images to words (B, N) int32 with `vocabulary`.
        mask_ratio: share of the patches that are masked, in (0, 1); 0.4 in the paper.
        split: "block" (the paper's default) or "random".
        augmentation: an `Augment` of the images that a training step is given; its words are of the same view.
        seed: with the step's number, it decides all randomness of training.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: keras.layers.Layer,
        mask_ratio: float = 0.4,
        split: str = "block",
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "beit",
        **kwargs,
    ):
        super().__init__(
            encoder,
            logged=["inpaint_loss", "inpaint_accuracy"],
            seed=seed,
            augmentation=augmentation,
            name=name,
            **kwargs,
        )
        check_absolute(encoder)
        check_tokenizer(tokenizer, encoder)
        self.tokenizer = tokenizer
        self.mask_ratio = mask_ratio
        self.split = Split(encoder.grid, kind=split, dtype=self.dtype_policy, name="split")
        self.masked_count = masked_count(self.split.count, mask_ratio)
        self.words = Dense(tokenizer.vocabulary, dtype=self.dtype_policy, name="words")
        self.word_perplexity = WordPerplexity(tokenizer.vocabulary)
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        small = keras.initializers.TruncatedNormal(stddev=0.02)
        self.mask_token = self.add_weight(shape=(self.encoder.width,), initializer=small, name="mask_token")
        self.words.build((None, None, self.encoder.width))
        if not self.tokenizer.built:
            self.tokenizer.build(images_shape)
        super().build(images_shape)

    def check_ready(self):
        check_fitted(self.tokenizer)

    def masked(
        self, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"], training: bool = False
    ) -> Float[Array, "B m D"]:
        """Encode the images, and return the outputs at the masked patches: (B, m, D).

        Attention does not depend on the order of tokens, so the tokens stay in the order of the split: masked last.

        Args:
            images: (B, H, W, C).
            order: (B, N) int32, from `split`; the first m patches are masked.
        """
        masked, seen = order[:, : self.masked_count], order[:, self.masked_count :]
        seen = self.encoder.embed(images, indices=seen)  # (B, N - m, D)
        # The mask token replaces a patch's embedding before its position is added, as in BEiT's code.
        masks = self.mask_token + self.encoder.patch_embedding.positions_at(masked)  # (B, m, D)
        tokens = ops.concatenate([seen, ops.cast(masks, seen.dtype)], axis=1)  # (B, N, D)
        return self.encoder.encode(tokens, training=training)[:, -self.masked_count :]  # (B, m, D)

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Compute the cross entropy of the masked patches' words (equation 1 of the paper)."""
        images = batch.images  # (B, H, W, C)
        order = self.split(images)  # (B, N)
        targets = words_at(self.tokenizer, images, order[:, : self.masked_count])  # (B, m)
        hidden = self.masked(images, order, training)  # (B, m, D)
        kernel, bias = self.words.float_weights()  # (D, V), (V,)
        loss, accuracy = linear_cross_entropy(hidden, kernel, bias, targets)
        return loss, {"inpaint_loss": loss, "inpaint_accuracy": accuracy, "word_perplexity": targets}

    def paint(self, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"]) -> Float[Array, "B H W C"]:
        """Images (B, H, W, C) in 0..1 with predicted words drawn where they are masked; elsewhere they mean nothing."""
        words = ops.argmax(self.words(self.masked(images, order)), axis=-1)  # (B, m)
        # In the order of the split, with word 0 for seen patches.
        ids = ops.concatenate([ops.cast(words, "int32"), ops.zeros_like(order[:, self.masked_count :])], axis=1)
        # The argsort of a permutation is its inverse: it leads back to the grid.
        return self.tokenizer.draw(gather(ids, ops.argsort(order, axis=1)))

    def get_config(self):
        tokenizer = keras.saving.serialize_keras_object(self.tokenizer)
        own = {"tokenizer": tokenizer, "mask_ratio": self.mask_ratio, "split": self.split.kind}
        return {**super().get_config(), **own}
