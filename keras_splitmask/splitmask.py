"""SplitMask (El-Nouby et al., 2021, "Are large-scale datasets necessary for self-supervised pre-training?")."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.distribution import across_batch
from keras_splitmask.backend.layers import reshape
from keras_splitmask.backend.linear_cross_entropy import linear_cross_entropy
from keras_splitmask.backend.typing import Array, Float, Int, Shaped
from keras_splitmask.decoder import Decoder
from keras_splitmask.encoder import Encoder
from keras_splitmask.options import check_number
from keras_splitmask.projector import OUTPUTS, Projector
from keras_splitmask.split import Split, words_at
from keras_splitmask.training.batch import Batch
from keras_splitmask.training.inputs import check_absolute, check_fitted, check_tokenizer
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.word_perplexity import WordPerplexity

TEMPERATURES = (1e-3, 100)  # beyond, all similarities weigh alike, or only the largest
LARGEST_WEIGHT = 1000


@keras.saving.register_keras_serializable("keras_splitmask")
class SplitMask(ObjectiveModel):
    """Take two parts of an image's patches, predict visual words that each does not see, and match the two parts.

    ```python
    encoder = ks.Encoder.from_size("vit_small", image_shape=(224, 224, 3), patch_size=16)
    model = ks.SplitMask(encoder, ks.tokenizers.RandomProjection(image_shape=(224, 224, 3), patch_size=16))
    model.compile(optimizer=ks.training.adamw(1e-3, steps=10_000))
    model.fit(images)                # (B, H, W, C) uint8, or float in 0..1
    features = model(images)         # the encoder's
    ```

    `fit` also takes two views of each image, (B, 2, H, W, C), as `data.two_view_batches` cuts them. Each part is then
    of a view of its own, so the match loss compares what augmentation leaves of an image (CAN, Mishra et al., 2022).

    Args:
        encoder: an `Encoder`.
        tokenizer: a layer from images to words (B, N) int32 with `vocabulary`; not needed when `inpaint_weight=0`.
        keep: fraction of the patches that one branch sees, in (0, 0.5].
        split: "block" (the paper's default) or "random".
        decoder_depth: number of decoder blocks; 2 in the paper.
        predicted: fraction of a part's unseen patches whose words are predicted; 1 in the paper. Fewer are cheaper, and
            teach nearly as much (CrossMAE, Fu et al., 2024).
        projector: hidden units of a `Projector` of the mean of the encoder's outputs; what it returns is matched.
            None: the mean of the decoder's outputs is matched, as in the paper.
        temperature: of the match loss, from 0.001 to 100; 0.2 in the paper.
        inpaint_weight, match_weight: weights of the two losses, from 0 to 1000; 1 and 1 in the paper. A weight of 0
            also saves the work for its loss.
        augmentation: an `Augment` that changes the images of a training step. Of one view, words and both parts come
            from the same changed image. Of two, each is changed on its own, and a part has the words of its view.
        seed: seed of all random numbers; those of a training step depend on the seed and the step's number only.
        accumulate: number of micro-batches to split each batch into; the match loss still compares all of it.
    """

    views = 2

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: keras.layers.Layer | None = None,
        keep: float = 0.5,
        split: str = "block",
        decoder_depth: int = 2,
        predicted: float = 1.0,
        projector: int | None = None,
        temperature: float = 0.2,
        inpaint_weight: float = 1.0,
        match_weight: float = 1.0,
        augmentation: keras.layers.Layer | None = None,
        seed: int = 0,
        name: str = "splitmask",
        **kwargs,
    ):
        check_number("inpaint_weight", inpaint_weight, 0, LARGEST_WEIGHT)
        check_number("match_weight", match_weight, 0, LARGEST_WEIGHT)
        check_number("temperature", temperature, *TEMPERATURES)
        check_number("predicted", predicted, 0, 1, above=True)
        logged = ["inpaint_loss", "inpaint_accuracy"] if inpaint_weight else []
        logged += ["match_loss", "match_accuracy", "feature_std"] if match_weight else []
        super().__init__(encoder, logged=logged, seed=seed, augmentation=augmentation, name=name, **kwargs)
        check_absolute(encoder)
        if not inpaint_weight + match_weight:
            raise ValueError("Expected a loss weight above 0, received inpaint_weight=0, match_weight=0; raise one.")
        if inpaint_weight and tokenizer is None:
            raise ValueError(
                "Expected a tokenizer, since inpaint_weight is not 0; keras_splitmask.tokenizers has some."
            )
        if tokenizer is not None:
            check_tokenizer(tokenizer, encoder)
        self.tokenizer: keras.layers.Layer = tokenizer  # None without inpainting
        self.keep = keep
        self.decoder_depth = decoder_depth
        self.predicted = predicted
        self.temperature = temperature
        self.inpaint_weight = inpaint_weight
        self.match_weight = match_weight
        self.compares = bool(match_weight)
        self.split = Split(encoder.grid, keep, split, dtype=self.dtype_policy, name="split")
        unseen = self.split.count - self.split.seen_count
        count = max(1, round(predicted * unseen))
        # Spread over the order: of a split in blocks, the first ones alone would be one rectangle.
        self.picked = np.arange(count) * unseen // count
        vocabulary = tokenizer.vocabulary if inpaint_weight and tokenizer is not None else 0
        options = {"dtype": self.dtype_policy}
        self.projector: keras.layers.Layer = Projector(projector, **options) if projector and match_weight else None
        self.compared_width = OUTPUTS if self.projector is not None else encoder.width
        self.decoder: keras.layers.Layer = None  # without inpainting and with a projector nothing reads it
        if inpaint_weight or not self.projector:
            sizes = (self.split.count, encoder.width, encoder.heads, decoder_depth)
            self.decoder = Decoder(*sizes, vocabulary=vocabulary, **options)
        if inpaint_weight:
            self.word_perplexity = WordPerplexity(vocabulary)
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        if self.decoder is not None:
            self.decoder.build((None, None, self.encoder.width))
        if self.projector is not None:
            self.projector.build((None, self.encoder.width))
        if self.tokenizer is not None and not self.tokenizer.built:
            self.tokenizer.build(images_shape)
        super().build(images_shape)

    def check_ready(self):
        if self.inpaint_weight:
            check_fitted(self.tokenizer)

    def halves(
        self, images: Shaped[Array, "B *views H W C"], order: Int[Array, "B N"], training: bool = False
    ) -> Float[Array, "2*B t D"]:
        """Encode what each half sees (Figure 4): the t = 1 + n tokens, cls first.

        Args:
            images: (B, H, W, C), or two views of each, (B, 2, H, W, C); the first half is of the first view.
            order: from `split`. Rows 2i and 2i + 1 of the result are the halves of image i.
        """
        n = self.split.seen_count
        # (2B, n) of two views, (B, 2n) of one.
        seen = self.split.seen(order) if len(images.shape) == 5 else order[:, : 2 * n]
        tokens = self.encoder.embed(reshape(images, (-1, *images.shape[-3:])), indices=seen)
        return self.encoder.encode(reshape(tokens, (-1, n, self.encoder.width)), training=training)

    def branches(
        self, images: Shaped[Array, "B *views H W C"], order: Int[Array, "B N"], training: bool = False
    ) -> tuple[Float[Array, "2*B t D"] | None, Float[Array, "2*B m D"]]:
        """Pass both halves of each image through encoder and decoder, and predict all m = N - n unseen patches of each.

        Returns:
            As `decoded`.
        """
        return self.decoded(self.halves(images, order, training), self.split.unseen(order), training)

    def decoded(
        self, tokens: Float[Array, "b t D"], positions: Int[Array, "b m"], training: bool = False
    ) -> tuple[Float[Array, "b t D"] | None, Float[Array, "b m D"]]:
        """Decode the halves, with mask tokens at these positions.

        Returns:
            The t seen tokens, cls first, and the m predicted ones. Where no match loss reads the seen ones, they are
            None and their work is saved.
        """
        if self.projector is not None or not self.match_weight:
            return None, self.decoder.only_unseen(tokens, positions, training=training)
        return self.decoder(tokens, positions, training=training)

    def pooled(
        self, tokens: Float[Array, "b t D"], seen: Float[Array, "b t D"] | None, unseen: Float[Array, "b m D"] | None
    ) -> Float[Array, "b//2 2 E"]:
        """What the match loss compares of each of the b = 2B halves: the mean over the patches that the decoder
        returned; with a projector, which needs no `seen` and `unseen`, the projected mean of the encoder's tokens."""
        if seen is None:
            vectors = self.projector(ops.mean(tokens[:, 1:], axis=1))
        else:
            fraction = self.split.seen_count / self.split.count
            # A weighted mean of means: in float16 the sum over the patches could overflow.
            vectors = fraction * ops.mean(seen[:, 1:], axis=1) + (1 - fraction) * ops.mean(unseen, axis=1)  # (2B, D)
        return ops.reshape(vectors, (-1, 2, vectors.shape[-1]))

    def _forward(self, images, training):
        """The positions (2B, m) that are predicted, and the tokens of the halves, encoded and decoded."""
        order = self.split(images)  # (B, N)
        tokens = self.halves(images, order, training)  # (2B, 1 + n, D)
        if self.decoder is None:
            return None, tokens, None, None
        positions = self.split.unseen(order)
        if self.predicted < 1:
            positions = ops.take(positions, self.picked, axis=1)
        return positions, tokens, *self.decoded(tokens, positions, training)

    def _targets(self, images, positions):
        """The words (2B, m) at the positions of the halves of images: (B, H, W, C), or two views of each."""
        count = positions.shape[1]
        if len(images.shape) == 4:
            positions = reshape(positions, (-1, 2 * count))  # of each image
        words = words_at(self.tokenizer, reshape(images, (-1, *images.shape[-3:])), positions)
        return reshape(words, (-1, count))

    def compared(self, batch: Batch, training: bool) -> Float[Array, "B 2 E"]:
        """The vectors that the match loss compares, for gradient accumulation."""
        if self.projector is not None:
            return self.pooled(self.halves(batch.images, self.split(batch.images), training), None, None)
        _, *tokens = self._forward(batch.images, training)
        return self.pooled(*tokens)

    def objective(self, batch: Batch, training: bool) -> tuple[Float[Array, ""], dict[str, Array]]:
        """The loss of a batch and the values to log (Figure 4 of the paper)."""
        images = batch.images  # (B, H, W, C) or (B, 2, H, W, C)
        # (2B, m), (2B, 1 + n, D), (2B, 1 + n, D), (2B, m, D)
        positions, tokens, seen, unseen = self._forward(images, training)
        loss: Array = 0.0
        report: dict[str, Array] = {}
        if self.inpaint_weight:
            targets = self._targets(images, positions)  # (2B, m)
            # The mean of `losses.inpaint(self.decoder.words(unseen), targets)`, without the table of all logits.
            kernel, bias = self.decoder.words.float_weights()  # (D, V), (V,)
            inpaint_loss, inpaint_accuracy = linear_cross_entropy(unseen, kernel, bias, targets)
            loss = loss + self.inpaint_weight * inpaint_loss
            report.update(inpaint_loss=inpaint_loss, inpaint_accuracy=inpaint_accuracy, word_perplexity=targets)
        if self.match_weight:
            pooled, everyone, labels = across_batch(self.pooled(tokens, seen, unseen))  # (B, 2, E), (G, 2, E), (B,)
            a, b, all_a, all_b = pooled[:, 0], pooled[:, 1], everyone[:, 0], everyone[:, 1]
            match_loss, match_hits = losses.match(a, b, all_a, all_b, labels, self.temperature)
            match_loss = ops.mean(match_loss)
            loss = loss + self.match_weight * match_loss
            # 1 for vectors spread evenly over the sphere, 0 when all images have collapsed to one vector.
            spread = ops.mean(ops.std(losses.unit(all_a), axis=0)) * self.compared_width**0.5
            report.update(match_loss=match_loss, match_accuracy=ops.mean(match_hits), feature_std=spread)
        return loss, report

    def get_config(self):
        own = ("keep", "decoder_depth", "predicted", "temperature", "inpaint_weight", "match_weight")
        tokenizer = keras.saving.serialize_keras_object(self.tokenizer)
        return {
            **super().get_config(),
            "tokenizer": tokenizer,
            "split": self.split.kind,
            "projector": self.projector and self.projector.width,
            **{name: getattr(self, name) for name in own},
        }
