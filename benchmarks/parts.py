"""What the parts of a SplitMask step cost, for benchmark.py: steps that end earlier and earlier."""

import itertools

from keras import ops

import keras_splitmask as ks
from keras_splitmask.split import gather

PARTS = ("optimizer", "encoder", "decoder", "tokenizer", "head and losses", "input")


class Partial(ks.SplitMask):
    """A SplitMask whose step consists of the first `count` of `PARTS`; with all of them it is that of a run on a
    `source` of images."""

    def __init__(self, *arguments, count, source, **options):
        self.count = count
        self.source = source
        super().__init__(*arguments, **options)

    def batches(self, images):
        """What it is fitted to: these images again and again, or random parts of those of the source."""
        if self.count <= PARTS.index("input"):
            return ((images,) for _ in itertools.count())
        return ((batch,) for batch in ks.data.batches(self.source, images.shape[1:], len(images), "crop"))

    def objective(self, batch, training):
        idle = 1e-9 * sum(
            ops.mean(weight) for weight in self.trainable_variables
        )  # so that the optimizer moves all of them
        if self.count > PARTS.index("head and losses"):
            loss, report = super().objective(batch, training)
            return loss + idle, report
        images, report = batch.images, {}
        if self.count > PARTS.index("encoder"):
            order = self.split(images)
            hidden = self.split.seen(gather(self.encoder.embed(images), order))
            hidden = self.encoder.encode(hidden, training=training)
        if self.count > PARTS.index("decoder"):
            hidden = ops.concatenate(self.decoder(hidden, self.split.unseen(order), training=training), axis=1)
        if self.count > PARTS.index("encoder"):
            # A loss that needs all of the output: a compiler leaves out what nothing reads.
            idle = idle + ops.mean(ops.square(ops.cast(hidden, "float32")))
        if self.count > PARTS.index("tokenizer"):
            report = {"word_perplexity": self.tokenizer(images)}
        return idle, report


def shares(seconds):
    """From the seconds of the partial steps, in the order of `PARTS`, to the share of each part in the whole step."""
    pairs = itertools.pairwise((0.0, *seconds))
    return {part: max(0.0, now - before) / seconds[-1] for part, (before, now) in zip(PARTS, pairs, strict=True)}
