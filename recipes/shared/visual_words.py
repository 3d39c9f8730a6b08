"""The visual words of a run: the tokenizer of the flags, and fitting it to the images."""

from absl import flags

from recipes.shared import commandline

FLAGS = flags.FLAGS
TOKENIZERS = {"random_projection": "RandomProjection", "random_patches": "RandomPatches", "kmeans": "KMeans"}


def build_tokenizer(encoder):
    """Build the tokenizer of the flags for the encoder's images; not fitted."""
    import keras_splitmask as ks

    if FLAGS.tokenizer != "dalle":
        if FLAGS.dalle_weights or FLAGS.dalle_sha256:
            raise commandline.BadInput(
                f"Expected --tokenizer=dalle with --dalle_weights, received --tokenizer={FLAGS.tokenizer}."
            )
        make = getattr(ks.tokenizers, TOKENIZERS[FLAGS.tokenizer])
        return make(encoder.image_shape, FLAGS.patch_size, FLAGS.vocabulary, FLAGS.word_resolution, FLAGS.seed)
    commandline.require("dalle_weights")
    if FLAGS.word_resolution:
        raise commandline.BadInput("--tokenizer=dalle does not read --word_resolution; leave it out.")
    if len(FLAGS.dalle_weights) not in (1, 2):
        raise commandline.BadInput(
            f"Expected --dalle_weights=ENCODER_FILE[,DECODER_FILE], received {len(FLAGS.dalle_weights)} files."
        )
    tokenizer = ks.tokenizers.Dalle.from_files(
        encoder.image_shape, FLAGS.patch_size, *FLAGS.dalle_weights, sha256=FLAGS.dalle_sha256
    )
    if tokenizer.vocabulary != FLAGS.vocabulary:
        raise commandline.BadInput(
            f"Expected --vocabulary={tokenizer.vocabulary}, the number of words in {FLAGS.dalle_weights[0]},"
            f" received {FLAGS.vocabulary}."
        )
    return tokenizer


def fit_words(model, source, patches=None, report=lambda line: None):
    """Fit the tokenizer, if the method has one, to this many patches of the images; 100,000 by default."""
    from keras_splitmask import data

    if not (FLAGS.tokenizer and model.tokenizer):
        return
    # At most 25 patches of an image, for variety, and not many fewer, since decoding takes most of the time.
    limit = max(FLAGS.vocabulary, (patches or 100_000) // 25)
    images = data.Reader(source, model.encoder.image_shape, limit, workers=max(1, FLAGS.workers))
    report(f"words     reading {min(limit, len(source))} images to make them from")
    model.tokenizer.fit(images, **({"max_patches": patches} if patches else {}), report=report)
