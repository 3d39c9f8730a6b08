"""SplitMask (El-Nouby et al., 2021, "Are large-scale datasets necessary for self-supervised pre-training?"), told
once."""

import keras
from keras import ops

from keras_splitmask import losses
from keras_splitmask.backend.distribution import gather_batch, whole_batch
from keras_splitmask.decoder import Decoder
from keras_splitmask.patches import check_tokenizer
from keras_splitmask.split import Split, gather
from keras_splitmask.training.inputs import check_fitted
from keras_splitmask.training.objective_model import ObjectiveModel
from keras_splitmask.training.word_perplexity import WordPerplexity


@keras.saving.register_keras_serializable("keras_splitmask")
class SplitMask(ObjectiveModel):
    """Split an image's patches in two, inpaint the words of what each half does not see, and match the two halves.

    ```python
    encoder = ks.Encoder.from_size("vit_small", image_shape=(224, 224, 3), patch_size=16)
    model = ks.SplitMask(encoder, ks.tokenizers.RandomProjection(image_shape=(224, 224, 3), patch_size=16))
    model.compile(optimizer=ks.training.adamw(1e-3, steps=10_000))
    model.fit(images)                # (B, H, W, C) uint8, or float in 0..1
    features = model(images)         # the encoder's answer
    ```

    Args:
        encoder: an `Encoder`.
        tokenizer: a layer from images to words (B, N) int32 with `vocabulary`; not needed when `inpaint_weight=0`.
        keep: share of the patches that one branch sees, in (0, 0.5].
        split: "block" (the paper's default) or "random".
        decoder_depth: number of decoder blocks; 2 in the paper.
        temperature: of the match loss; 0.2 in the paper.
        inpaint_weight, match_weight: of the two losses. What a weight of 0 makes useless is not computed.
        augmentation: an `Augment` of the images that a training step is given; its words and both halves are of one
            view.
        seed: with the step's number, it decides all randomness of training.
        accumulate: take each batch in so many parts; the match loss sees all of it nevertheless. See `ObjectiveModel`.
    """

    def __init__(
        self,
        encoder,
        tokenizer=None,
        keep=0.5,
        split="block",
        decoder_depth=2,
        temperature=0.2,
        inpaint_weight=1.0,
        match_weight=1.0,
        augmentation=None,
        seed=0,
        name="splitmask",
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
        self.tokenizer = tokenizer
        self.keep = keep
        self.decoder_depth = decoder_depth
        self.temperature = temperature
        self.inpaint_weight = inpaint_weight
        self.match_weight = match_weight
        self.compares = bool(match_weight)
        self.split = Split(encoder.grid, keep, split, dtype=self.dtype_policy, name="split")
        self.decoder = Decoder(
            self.split.count,
            encoder.width,
            encoder.heads,
            decoder_depth,
            vocabulary=tokenizer.vocabulary if inpaint_weight else 0,
            dtype=self.dtype_policy,
        )
        if inpaint_weight:
            self.word_perplexity = WordPerplexity(tokenizer.vocabulary)
        self.build((None, *encoder.image_shape))

    def build(self, images_shape):
        self.decoder.build((None, None, self.encoder.width))
        if self.tokenizer is not None and not self.tokenizer.built:
            self.tokenizer.build(images_shape)
        super().build(images_shape)

    def check_ready(self):
        if self.inpaint_weight:
            check_fitted(self.tokenizer)

    def branches(self, images, order, training=False):
        """Both halves of each image through encoder and decoder; their 2B rows come in pairs.

        Args:
            images: (B, H, W, C).
            order: (B, N) int32, from `split`.

        Returns:
            (2B, 1 + N, D), cls and seen patches before the unseen ones; the unseen (2B, N - n, D) alone if there is no
            match loss.
        """
        tokens = self.split.seen(gather(self.encoder.embed(images), order))  # (2B, n, D)
        tokens = self.encoder.encode(tokens, training=training)  # (2B, 1 + n, D)
        return self.decoder(tokens, self.split.unseen(order), training=training, only_unseen=not self.match_weight)

    def pooled(self, hidden):
        """What is matched, the mean of each branch's patches: (2B, 1 + N, D) to (B, 2, D)."""
        return ops.reshape(ops.mean(hidden[:, 1:], axis=1), (-1, 2, self.encoder.width))

    def compared(self, batch, training):
        """The vectors (B, 2, D) that the match loss compares."""
        return self.pooled(self.branches(batch.images, self.split(batch.images), training))

    def objective(self, batch, training):
        """The loss of a batch, a scalar, and the values to log (Figure 4 of the paper)."""
        images = batch.images  # (B, H, W, C)
        order = self.split(images)  # (B, N)
        hidden = self.branches(images, order, training)  # (2B, 1 + N, D)
        loss, report = 0.0, {}
        if self.inpaint_weight:
            ids = self.tokenizer(images)  # (B, N)
            targets = self.split.unseen(gather(ids, order))  # (2B, N - n)
            inpaint_loss, inpaint_accuracy = losses.inpaint(self.decoder.words, hidden[:, -targets.shape[1] :], targets)
            loss = loss + self.inpaint_weight * inpaint_loss
            report.update(inpaint_loss=inpaint_loss, inpaint_accuracy=inpaint_accuracy, word_perplexity=ids)
        if self.match_weight:
            pooled = whole_batch(self.pooled(hidden))  # (B, 2, D)
            everyone, labels = gather_batch(pooled)
            a, b, all_a, all_b = pooled[:, 0], pooled[:, 1], everyone[:, 0], everyone[:, 1]
            match_loss, match_hits = losses.match(a, b, all_a, all_b, labels, self.temperature)
            match_loss = ops.mean(match_loss)
            loss = loss + self.match_weight * match_loss
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
