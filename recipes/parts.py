"""What the parts of a SplitMask step cost, for benchmark.py: steps that end earlier and earlier."""

from keras import ops

import keras_splitmask as ks
from keras_splitmask.split import gather

PARTS = ("optimizer", "encoder", "decoder", "tokenizer", "head and losses")


class Partial(ks.SplitMask):
    """A SplitMask whose objective consists of the first `count` of `PARTS`; with all of them it is SplitMask's."""

    def __init__(self, *arguments, count, **options):
        self.count = count
        super().__init__(*arguments, **options)

    def objective(self, images, training):
        idle = 1e-9 * sum(ops.mean(weight) for weight in self.trainable_variables)  # so that the optimizer moves all of them
        if self.count == len(PARTS):
            loss, report = super().objective(images, training)
            return loss + idle, report
        report = {}
        if self.count > PARTS.index("encoder"):
            order = self.split(images)
            hidden = self.split.seen(gather(self.encoder.embed(images), order))
            hidden = self.encoder.encode(hidden, training=training)
        if self.count > PARTS.index("decoder"):
            hidden = self.decoder(hidden, self.split.unseen(order), training=training)
        if self.count > PARTS.index("encoder"):
            idle = idle + ops.mean(ops.square(ops.cast(hidden, "float32")))
        if self.count > PARTS.index("tokenizer"):
            report = {"word_perplexity": self.tokenizer(images)}
        return idle, report


def shares(seconds):
    """From the seconds of the partial steps, in the order of `PARTS`, to the share of each part in the whole step."""
    return {part: max(0.0, now - before) / seconds[-1] for part, before, now in zip(PARTS, (0.0, *seconds), seconds)}
