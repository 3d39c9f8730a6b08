"""SplitMask (El-Nouby et al., 2021, "Are large-scale datasets necessary for self-supervised pre-training?")."""

from __future__ import annotations

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.distribution import across_batch
from keras_splitmask.backend.linear_cross_entropy import linear_cross_entropy
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.decoder import Decoder
from keras_splitmask.encoder import Encoder
from keras_splitmask.split import Split, gather
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import check_fitted, check_tokenizer
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.word_perplexity import WordPerplexity


@keras.saving.register_keras_serializable("keras_splitmask")
class SplitMask(ObjectiveModel):
    """Split an image's patches in two, predict the visual words that each half does not see, and match the two halves.

    ```python
    encoder = ks.Encoder.from_size("vit_small", image_shape=(224, 224, 3), patch_size=16)
    model = ks.SplitMask(encoder, ks.tokenizers.RandomProjection(image_shape=(224, 224, 3), patch_size=16))
    model.compile(optimizer=ks.training.adamw(1e-3, steps=10_000))
    model.fit(images)                # (B, H, W, C) uint8, or float in 0..1
    features = model(images)         # the encoder's
    ```

    Args:
        encoder: an `Encoder`.
        tokenizer: a layer from images to words (B, N) int32 with `vocabulary`; not needed when `inpaint_weight=0`.
        keep: fraction of the patches that one branch sees, in (0, 0.5].
        split: "block" (the paper's default) or "random".
        decoder_depth: number of decoder blocks; 2 in the paper.
        temperature: of the match loss; 0.2 in the paper.
        inpaint_weight, match_weight: weights of the two losses, 1 and 1 in the paper. A weight of 0 also saves the work
            for its loss.
        augmentation: an `Augment` that changes the images of a training step; the words and both halves come from the
            same view.
        seed: seed of all random numbers; those of a training step depend on the seed and the step's number only.
        accumulate: number of micro-batches to split each batch into; the match loss still compares all of it.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: keras.layers.Layer | None = None,
        keep: float = 0.5,
        split: str = "block",
        decoder_depth: int = 2,
        temperature: float = 0.2,
        inpaint_weight: float = 1.0,
        match_weight: float = 1.0,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "splitmask",
        **kwargs,
    ):
        logged = ["inpaint_loss", "inpaint_accuracy"] if inpaint_weight else []
        logged += ["match_loss", "match_accuracy", "feature_std"] if match_weight else []
        super().__init__(encoder, logged=logged, seed=seed, augmentation=augmentation, name=name, **kwargs)
        if min(inpaint_weight, match_weight) < 0 or not inpaint_weight + match_weight:
            raise ValueError(
                f"Expected loss weights of at least 0, one of them above, received {inpaint_weight=}, {match_weight=}."
            )
        if temperature <= 0:
            raise ValueError(f"Expected a temperature above 0, received temperature={temperature}.")
        if inpaint_weight and tokenizer is None:
            raise ValueError(
                "Expected a tokenizer, since inpaint_weight is not 0; keras_splitmask.tokenizers has some."
            )
        if tokenizer is not None:
            check_tokenizer(tokenizer, encoder)
        self.tokenizer: keras.layers.Layer = tokenizer  # None without inpainting
        self.keep = keep
        self.decoder_depth = decoder_depth
        self.temperature = temperature
        self.inpaint_weight = inpaint_weight
        self.match_weight = match_weight
        self.compares = bool(match_weight)
        self.split = Split(encoder.grid, keep, split, dtype=self.dtype_policy, name="split")
        vocabulary = tokenizer.vocabulary if inpaint_weight and tokenizer is not None else 0
        self.decoder = Decoder(
            self.split.count,
            encoder.width,
            encoder.heads,
            decoder_depth,
            vocabulary=vocabulary,
            dtype=self.dtype_policy,
        )
        if inpaint_weight:
            self.word_perplexity = WordPerplexity(vocabulary)
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.decoder.build((None, None, self.encoder.width))
        if self.tokenizer is not None and not self.tokenizer.built:
            self.tokenizer.build(images_shape)
        super().build(images_shape)

    def check_ready(self):
        if self.inpaint_weight:
            check_fitted(self.tokenizer)

    def branches(
        self, images: Shaped[Array, "B H W C"], order: Int[Array, "B N"], training: bool = False
    ) -> tuple[Float[Array, "2*B t D"] | None, Float[Array, "2*B m D"]]:
        """Pass both halves of each image, in an order from `split`, through encoder and decoder (Figure 4).

        Returns:
            The t = 1 + n seen, cls first, and the m = N - n unseen; rows 2i and 2i + 1 are the halves of image i.
            Without a match loss nothing reads the seen patches, so they are None and their work is saved.
        """
        tokens = self.split.seen(gather(self.encoder.embed(images), order))  # (2B, n, D)
        tokens = self.encoder.encode(tokens, training=training)  # (2B, 1 + n, D)
        unseen_positions = self.split.unseen(order)  # (2B, N - n)
        if not self.match_weight:
            return None, self.decoder.only_unseen(tokens, unseen_positions, training=training)
        return self.decoder(tokens, unseen_positions, training=training)

    def pooled(self, seen: Float[Array, "b t D"], unseen: Float[Array, "b m D"]) -> Float[Array, "b//2 2 D"]:
        """The mean over all N patches of each of the b = 2B branches, which the match loss compares."""
        fraction = self.split.seen_count / self.split.count
        # A weighted mean of means: in float16 the sum over the patches could overflow.
        means = fraction * ops.mean(seen[:, 1:], axis=1) + (1 - fraction) * ops.mean(unseen, axis=1)  # (2B, D)
        return ops.reshape(means, (-1, 2, self.encoder.width))

    def compared(self, batch: Batch, training: bool) -> Float[Array, "B 2 D"]:
        """The vectors that the match loss compares, for gradient accumulation."""
        return self.pooled(*self.branches(batch.images, self.split(batch.images), training))

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of a batch and the values to log (Figure 4 of the paper)."""
        images = batch.images  # (B, H, W, C)
        order = self.split(images)  # (B, N)
        seen, unseen = self.branches(images, order, training)  # (2B, 1 + n, D), (2B, N - n, D)
        loss: Array = 0.0
        report: dict[str, Array] = {}
        if self.inpaint_weight:
            ids = self.tokenizer(images)  # (B, N)
            targets = self.split.unseen(gather(ids, order))  # (2B, N - n)
            # The mean of `losses.inpaint(self.decoder.words(unseen), targets)`, without the table of all logits.
            kernel, bias = self.decoder.words.float_weights()  # (D, V), (V,)
            inpaint_loss, inpaint_accuracy = linear_cross_entropy(unseen, kernel, bias, targets)
            loss = loss + self.inpaint_weight * inpaint_loss
            report.update(inpaint_loss=inpaint_loss, inpaint_accuracy=inpaint_accuracy, word_perplexity=ids)
        if self.match_weight:
            pooled, everyone, labels = across_batch(self.pooled(seen, unseen))  # (B, 2, D), (G, 2, D), (B,)
            a, b, all_a, all_b = pooled[:, 0], pooled[:, 1], everyone[:, 0], everyone[:, 1]
            match_loss, match_hits = losses.match(a, b, all_a, all_b, labels, self.temperature)
            match_loss = ops.mean(match_loss)
            loss = loss + self.match_weight * match_loss
            # 1 for vectors spread evenly over the sphere, 0 when all images have collapsed to one vector.
            spread = ops.mean(ops.std(losses.unit(all_a), axis=0)) * self.encoder.width**0.5
            report.update(match_loss=match_loss, match_accuracy=ops.mean(match_hits), feature_std=spread)
        return loss, report

    def get_config(self):
        own = ("keep", "decoder_depth", "temperature", "inpaint_weight", "match_weight")
        tokenizer = keras.saving.serialize_keras_object(self.tokenizer)
        return {
            **super().get_config(),
            "tokenizer": tokenizer,
            "split": self.split.kind,
            **{name: getattr(self, name) for name in own},
        }
