"""Pre-train a Vision Transformer on your own images, without labels (but for --method=deit) and without any other data.

python recipes/pretrain.py --flagfile=recipes/flags/quickstart.flags
python recipes/pretrain.py --dataset=folder:photos --workdir=runs/photos
"""

from absl import flags

from recipes.shared import commandline, fitting, hardware, image_sets, methods, trouble, value_range

# These change the result.
flags.DEFINE_string(
    "dataset",
    None,
    "Images to learn from: sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME. Labels are not looked at.",
)
flags.DEFINE_string(
    "subset",
    None,
    "Learn from a part of the images. 5000: that many; of labelled ones the same number of each class, or all of a"
    " class that has fewer. 10%: this share, of each class if they are labelled. Drawn by the seed and listed in"
    " subset.txt. Or the path of such a file.",
)
flags.DEFINE_string(
    "image_size",
    None,
    "Pixels, as 224 or 48x80 (height x width); left out, 224, or for arrays and the sample their own size.",
)
flags.DEFINE_integer(
    "channels", None, lower_bound=1, help="Convert images to 1 (grey) or 3 (colour) channels; left out, as they are."
)
flags.DEFINE_enum(
    "method",
    "splitmask",
    list(methods.METHODS),
    "Pre-training method; random leaves the encoder as it was initialised. Flags that end in [names] are read by these"
    " methods alone.",
)
flags.DEFINE_string(
    "size",
    "vit_small",
    "Encoder: vit_micro, vit_tiny, vit_small, vit_base or vit_large. Small data sets and machines want small ones.",
)
flags.DEFINE_integer(
    "patch_size",
    16,
    lower_bound=1,
    help="Side of a patch in pixels; divides the image. Take about a tenth of the image; smaller costs more.",
)
flags.DEFINE_enum("positions", "learned", ["learned", "sine_cosine"], "Position table.")
flags.DEFINE_enum(
    "tokenizer",
    "random_projection",
    ["random_projection", "random_patches", "kmeans", "dalle"],
    "What a visual word is. kmeans spreads its words best, random_projection needs no fitting; dalle costs most, and"
    " has seen other images. [splitmask, beit]",
)
flags.DEFINE_list(
    "dalle_weights",
    None,
    "For --tokenizer=dalle, ENCODER_FILE[,DECODER_FILE]: https://cdn.openai.com/dall-e/encoder.pkl, downloaded, and for"
    " pictures decoder.pkl. Or .safetensors, .npz. [splitmask, beit]",
)
flags.DEFINE_string(
    "dalle_sha256", None, "Checksum of that encoder file; left out, it is not compared. [splitmask, beit]"
)
flags.DEFINE_integer(
    "vocabulary",
    8192,
    "Visual words. 8192 in the paper; 512 are enough for tens of thousands of small images, and cheaper. [splitmask,"
    " beit]",
)
flags.DEFINE_integer(
    "fit_patches",
    None,
    lower_bound=1,
    help=(
        "Patches that kmeans and random_patches learn from, and pictures of words are made from; left out, 100000, for"
        " dalle 10000. 3000000 in the paper. [splitmask, beit]"
    ),
)
flags.DEFINE_enum(
    "word_resolution",
    None,
    ["half", "full"],
    "Resolution at which words are chosen; left out, half for even patches from 8 pixels up. [splitmask, beit]",
)
flags.DEFINE_float(
    "keep",
    0.5,
    "Share of the patches that each half sees, in (0, 0.5]. The paper lowers it to 0.25 for its smallest data sets."
    " [splitmask]",
)
flags.DEFINE_enum(
    "split",
    "block",
    ["block", "random"],
    "How patches are dealt out: in blocks (harder, the paper's default) or one by one. [splitmask, beit]",
)
flags.DEFINE_integer("decoder_depth", 2, lower_bound=0, help="Blocks of the decoder. [splitmask]")
flags.DEFINE_float("inpaint_weight", 1.0, "Weight of the inpainting loss; 0 leaves its work out. [splitmask]")
flags.DEFINE_float("match_weight", 1.0, "Weight of the match loss; 0 leaves its work out. [splitmask]")
flags.DEFINE_float("temperature", 0.2, "Of the match loss. Lower it to push images apart harder. [splitmask]")
flags.DEFINE_float(
    "mask_ratio", None, "Share of the patches to mask; left out, the papers' 0.4 for beit and 0.75 for mae. [beit, mae]"
)
flags.DEFINE_integer(
    "mae_decoder_depth",
    None,
    lower_bound=1,
    help="Blocks of the decoder; left out, two thirds of the encoder's, at most 8. [mae]",
)
flags.DEFINE_integer(
    "mae_decoder_width",
    None,
    lower_bound=32,
    help="Width of the decoder, a multiple of 32; left out, two thirds of the encoder's, at most 512. [mae]",
)
flags.DEFINE_float("label_smoothing", 0.1, "Probability that is spread over all classes. [deit]")
flags.DEFINE_float("mixup", 0.8, "Mixup's alpha; 0 for none. [deit]")
flags.DEFINE_float("cutmix", 1.0, "CutMix's alpha; 0 for none. [deit]")
flags.DEFINE_float(
    "rand_augment", 9.0, lower_bound=0, upper_bound=10, help="Magnitude of RandAugment; 0 for none. [deit]"
)
flags.DEFINE_float(
    "random_erasing",
    0.25,
    lower_bound=0,
    upper_bound=1,
    help="Share of the images of which a rectangle is erased. [deit]",
)
flags.DEFINE_integer(
    "repeats", 3, lower_bound=1, help="Times that an image comes up in a row, each time augmented anew. [deit]"
)
flags.DEFINE_integer(
    "local_crops",
    8,
    lower_bound=0,
    help="Small crops of each image, besides two large ones. Fewer are cheaper, and teach less per step. [dino]",
)
flags.DEFINE_integer(
    "prototypes",
    65536,
    lower_bound=1,
    help="Answers of the head. 4096 are enough for small sets, and much cheaper. [dino]",
)
flags.DEFINE_float(
    "teacher_momentum",
    0.996,
    lower_bound=0,
    upper_bound=1,
    help="Of the first step; it rises to 1. 0.9995 is advised for batches of 256. [dino]",
)
flags.DEFINE_float(
    "teacher_temperature",
    0.04,
    lower_bound=0.001,
    help="Raise it, to 0.07 at most, if the answers become too few; lower it if the loss stays at its start. [dino]",
)
flags.DEFINE_float(
    "frozen_epochs",
    1.0,
    lower_bound=0,
    help="Epochs in which the head's last layer stays as it is. Raise it if the loss does not fall. [dino]",
)
flags.DEFINE_float("final_weight_decay", 0.4, lower_bound=0, help="Where half a cosine leads --weight_decay to. [dino]")
flags.DEFINE_string(
    "augmentation",
    None,
    "Left out, dino for --method=dino and crop_flip for others. none, flip, crop_flip, quarter_crop_flip, beit,"
    " three_augment or dino; deit knows the first three.",
)
flags.DEFINE_integer(
    "batch_size",
    256,
    lower_bound=1,
    help="Images per step, which are also each other's negatives in the match loss. Lower it if memory runs out.",
)
flags.DEFINE_float(
    "epochs",
    100,
    lower_bound=0,
    help="Times that each image is seen. Few images want many epochs: the paper has 5,000 for sets below 100,000.",
)
flags.DEFINE_integer("steps", None, lower_bound=1, help="Optimizer steps, in place of --epochs.")
flags.DEFINE_float(
    "learning_rate",
    None,
    lower_bound=0,
    help=(
        "Peak; left out, 1.5e-3 x batch size / 2048, but not below 5e-4; for mae 1.5e-4 x batch size / 256, deit 5e-4 x"
        " batch size / 512, dino 5e-4 x batch size / 256."
    ),
)
flags.DEFINE_float(
    "min_learning_rate", None, lower_bound=0, help="At the end of the cosine; left out, 1e-5, for mae 0."
)
flags.DEFINE_float(
    "warmup",
    None,
    lower_bound=0,
    upper_bound=1,
    help=(
        "Share of the steps in which the learning rate rises. Raise it if the loss jumps early. Left out, 10 of 300,"
        " for mae 40 of 800, deit 5 of 300."
    ),
)
flags.DEFINE_float(
    "weight_decay",
    None,
    "Left out, 0.05, for dino 0.04 at first. Not applied to biases, norms, positions, cls and mask tokens.",
)
flags.DEFINE_float(
    "clip_norm",
    None,
    lower_bound=0,
    help=(
        "Clip gradients to this norm, for dino that of each weight by itself. 0 disables clipping. Left out, 3, for mae"
        " and deit 0."
    ),
)
flags.DEFINE_float(
    "beta_2",
    None,
    lower_bound=0,
    upper_bound=1,
    help=(
        "AdamW's decay of the second moment. Lower it if the loss jumps in large batches. Left out, 0.999, for mae"
        " 0.95."
    ),
)
flags.DEFINE_float(
    "drop_path", None, "Stochastic depth of the last block. Lower it for short runs. Left out, 0.1, for mae 0."
)
flags.DEFINE_integer("seed", 0, lower_bound=0, upper_bound=2**31 - 1, help="Seed of all random numbers.")
flags.DEFINE_string(
    "cache",
    None,
    "Folder to pack the images in, decoded and resized to 8/7 of --image_size, once; later runs read them from there.",
)
flags.DEFINE_string(
    "init_from",
    None,
    "Run folder, .keras file, or .safetensors file or folder of Hugging Face or timm, whose encoder to start from.",
)
flags.DEFINE_bool(
    "jit",
    None,
    "Compile the step with XLA on the TensorFlow backend, which changes random numbers; left out, on accelerators"
    " alone.",
)

# These do not.
flags.DEFINE_integer(
    "accumulate",
    1,
    lower_bound=1,
    help=(
        "Take each batch in so many parts, one after the other, in less memory. Images still are negatives of the whole"
        " batch, which costs SplitMask one more forward pass."
    ),
)
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    lower_bound=1,
    help=(
        "Steps that TensorFlow makes before it returns to Python, which TPUs gain by. Must divide --log_every and the"
        " steps of the run."
    ),
)
flags.DEFINE_integer(
    "save_every",
    None,
    lower_bound=1,
    help="Steps between checkpoints, at ends of log intervals; left out, as many as fit in 2% of the time.",
)
flags.DEFINE_integer(
    "keep_every", None, lower_bound=1, help="Keep the checkpoints of every so many steps, besides the last two."
)
flags.DEFINE_integer(
    "rewind",
    0,
    lower_bound=0,
    help="Go on from the last checkpoint with data of so many steps later, after a run that diverged.",
)
flags.DEFINE_float(
    "max_bad_fraction",
    0.1,
    lower_bound=0,
    upper_bound=1,
    help="Share of the files that may be unreadable, of --dataset and of --probe; each is listed in data.json.",
)
flags.DEFINE_string("data_dir", None, "Where tfds keeps its data.")
flags.DEFINE_string(
    "probe",
    None,
    "Labelled set, apart from the training images, for a live kNN curve; named as --dataset. Its test split is used; or"
    " val, or train, if there is no test or it has no labels.",
)
flags.DEFINE_integer("probe_limit", 2000, lower_bound=2, help="Images of --probe to use at most.")
flags.DEFINE_integer(
    "probe_every", None, lower_bound=1, help="Steps between kNN measurements; left out, a tenth of the run."
)
flags.DEFINE_integer("log_every", 50, lower_bound=1, help="Steps between lines of the log.")
flags.DEFINE_integer(
    "pictures", 8, lower_bound=0, help="Images in the picture of inpainting after the run; 0 for no picture."
)
flags.DEFINE_integer("workers", 2, "Threads that read images.")
flags.adopt_module_key_flags(value_range)
FLAGS = flags.FLAGS


def build_model(source, image_shape, augmentation, steps):
    """The method on its encoder, by the flags, for a run of so many steps, compiled."""
    import keras_splitmask as ks

    model = methods.build(source, image_shape, augmentation, max(1, steps))
    rate = methods.learning_rate() if FLAGS.learning_rate is None else FLAGS.learning_rate
    decay, own = methods.weight_decay(source)
    optimizer = ks.training.adamw(
        rate,
        max(1, steps),
        warmup=round(FLAGS.warmup * steps),
        floor=FLAGS.min_learning_rate,
        weight_decay=decay,
        clip_norm=FLAGS.clip_norm or None,
        beta_2=FLAGS.beta_2,
        **own,
    )
    model.compile(optimizer=optimizer, jit_compile=fitting.jit(), steps_per_execution=FLAGS.steps_per_execution)
    return model


def count_steps(images):
    """Optimizer steps of the whole run, for so many images."""
    import keras

    steps = FLAGS.steps or max(1, round(FLAGS.epochs * images / FLAGS.batch_size))
    steps = 0 if FLAGS.method == "random" else steps
    at_once = FLAGS.steps_per_execution
    if steps % at_once or FLAGS.log_every % at_once:
        raise commandline.BadInput(
            f"Expected --steps_per_execution to divide --log_every={FLAGS.log_every} and the {steps} steps of the run,"
            f" received {at_once}."
        )
    if at_once > 1 and keras.backend.backend() == "torch":
        raise commandline.BadInput(
            f"Expected --steps_per_execution=1 on torch, of which Keras makes each step by itself, received {at_once}."
        )
    return steps


def initialise(model, source):
    """What a run does once: the tokenizer learns from the source, and the weights come from elsewhere."""
    import keras_splitmask as ks
    from keras_splitmask import data

    if getattr(model, "tokenizer", None) is not None:
        # From many images a few patches each, but not so few that most of the time goes into decoding.
        limit = max(FLAGS.vocabulary, (FLAGS.fit_patches or 100_000) // 25)
        images = data.Reader(source, model.encoder.image_shape, limit, workers=max(1, FLAGS.workers))
        count = {"max_patches": FLAGS.fit_patches} if FLAGS.fit_patches else {}
        model.tokenizer.fit(images, **count, report=lambda line: print(line, flush=True))
    if FLAGS.init_from:
        print(ks.interchange.initialise(model, FLAGS.init_from), flush=True)
        if FLAGS.method == "dino":
            model.start_student()


def announce(source, model, steps, devices):
    """Print in one line what the run is about to do."""
    import keras

    height, width, channels = model.encoder.image_shape
    epochs = steps * FLAGS.batch_size / len(source)
    several = f" on {devices.replicas} devices" if devices.replicas > 1 else ""
    print(
        f"{len(source)} images of {height}x{width}x{channels}, {model.encoder.count_params() / 1e6:.1f} M weights in"
        f" the encoder, {steps} steps of {FLAGS.batch_size} images ({epochs:.1f} epochs),"
        f" {keras.backend.backend()}{several}",
        flush=True,
    )


def draw(run, model, images):
    """The picture of inpainting, of a few images that are spread over those given."""
    from keras_splitmask import evaluation

    path = run.file(f"pictures/inpainting_{FLAGS.tokenizer or FLAGS.method}.png")
    evaluation.save_inpainting(path, model, images[:: max(1, len(images) // FLAGS.pictures)][: FLAGS.pictures])
    print(f"picture   {path}")


def finish(run, model, source, probed, probe):
    """What a run leaves behind at its end; `probed` is the source of the images of `probe`."""
    import keras_splitmask as ks
    from keras_splitmask import data, evaluation

    if FLAGS.pictures and evaluation.has_picture(model):
        images, _ = probe or data.read_all(source, model.encoder.image_shape, limit=FLAGS.pictures)
        draw(run, model, images)
    image_sets.save_record(source, probed, "probe")  # with what broke meanwhile
    run.write_report()
    run.save_model(model)
    print(f"model     {run.folder / ks.interchange.MODEL_FILE}\nreport    {run.folder / 'report.html'}")


def main(devices, run):
    hardware.divide(FLAGS.batch_size, devices.replicas, FLAGS.accumulate)
    import keras

    from keras_splitmask import evaluation

    keras.utils.set_random_seed(FLAGS.seed)
    host, augmentation = methods.augmentations()
    source = image_sets.open_images(run, FLAGS.channels, FLAGS.subset)
    image_shape = image_sets.image_shape(source)
    read = methods.batch_function(source, image_shape, host)
    shift = FLAGS.rewind

    def batches(start):
        return read(
            source,
            image_shape,
            FLAGS.batch_size,
            seed=FLAGS.seed,
            start=start + shift,
            workers=FLAGS.workers,
            shard=(devices.host, devices.hosts),
        )

    batches(0)  # what does not fit stops here, before anything is written
    probed, probe = image_sets.read_probe(image_shape)
    source = image_sets.packed(source, image_shape)
    steps = count_steps(len(source))
    model = build_model(source, image_shape, augmentation, steps)
    announce(source, model, steps, devices)
    checkpoints = run.checkpoints(
        model, every=FLAGS.save_every, keep_every=FLAGS.keep_every, devices=devices, advice=trouble.advice()
    )
    if checkpoints.step:
        shift += checkpoints.note["shift"]
    else:
        initialise(model, source)
    checkpoints.note["shift"] = shift

    run.start(source, listed=bool(FLAGS.subset))
    image_sets.save_record(source, probed, "probe")
    measures = (
        [evaluation.NeighbourProbe(model.encoder, *probe, every=FLAGS.probe_every or max(1, steps // 10), last=steps)]
        if probe
        else []
    )
    log = trouble.log(run, model, source, batches, steps, checkpoints, measures, shift, FLAGS.repeats or 1)
    fitting.fit(model, batches, steps, FLAGS.log_every, log, checkpoints)
    with checkpoints.finishing():
        finish(run, model, source, probed, probe)


if __name__ == "__main__":
    commandline.run(hardware.spread(main), methods.settle_flags)
