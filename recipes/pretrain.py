"""Pre-train a Vision Transformer on your own images. It needs no other data, and no labels except for --method=deit.

python recipes/pretrain.py --flagfile=recipes/flags/quickstart.flags
python recipes/pretrain.py --dataset=folder:photos --workdir=runs/photos
"""

import shlex

from absl import flags

from recipes.shared import (
    children,
    commandline,
    earlier,
    feature_pictures,
    fitting,
    hardware,
    image_sets,
    inpainting_pictures,
    measured,
    methods,
    pretrain_flags,
    screen,
    settings,
    time_limit,
    trouble,
    visual_words,
)

flags.adopt_module_key_flags(pretrain_flags)
FLAGS = flags.FLAGS


def build_model(source, image_shape, augmentation, steps):
    """Build and compile the model of --method for a run of `steps` steps."""
    import keras_splitmask as ks

    model = methods.build(source, image_shape, augmentation, max(1, steps))
    optimizer = ks.training.adamw(
        methods.learning_rate(),
        max(1, steps),
        warmup=round(FLAGS.warmup * steps),
        floor=FLAGS.min_learning_rate,
        clip_norm=FLAGS.clip_norm or None,
        beta_2=FLAGS.beta_2,
        **methods.chosen().optimizer(source),
    )
    model.compile(optimizer=optimizer, jit_compile=fitting.jit(), steps_per_execution=FLAGS.steps_per_execution)
    return model


def measure(source, image_shape, augmentation, batches, devices):
    """Time a training step, and print how long the run will take. With --time, set --steps to what fits into it."""
    from keras_splitmask.backend.keras_private import set_random_seed
    from keras_splitmask.data.counting import counted

    model = build_model(source, image_shape, augmentation, time_limit.MODEL_STEPS)
    visual_words.fit_words(model, source, max(FLAGS.vocabulary or 0, 1000))
    seconds = time_limit.seconds_of_a_step(model, batches, devices)
    set_random_seed(FLAGS.seed)  # as if nothing had been measured
    if FLAGS.steps is None and FLAGS.epochs is None:
        FLAGS.steps = settings.steps_in(time_limit.seconds_of(FLAGS.time), seconds)
    steps = count_steps(len(source))
    print(f"time      {screen.in_words(steps * seconds)} for {counted(steps, 'step')} of {seconds:.2g} s", flush=True)


def count_steps(images):
    """Return the optimizer steps of the whole run, for this number of images."""
    import keras

    trains = methods.chosen().trains
    steps = (FLAGS.steps or max(1, round(FLAGS.epochs * images / FLAGS.batch_size))) if trains else 0
    at_once = FLAGS.steps_per_execution
    FLAGS.log_every = fitting.interval(steps)
    if trains and (steps % at_once or FLAGS.log_every % at_once):
        raise commandline.BadInput(
            f"Expected --steps_per_execution to divide --log_every={FLAGS.log_every} and the {steps} steps of the run,"
            f" received {at_once}."
        )
    if trains and at_once > 1 and keras.backend.backend() == "torch":
        raise commandline.BadInput(
            f"Expected --steps_per_execution=1 on torch, where Keras runs one step at a time, received {at_once}."
        )
    return steps


def initialise(model, source):
    """Prepare a new run: fit the tokenizer to the images, and load the weights of --init_from."""
    import keras_splitmask as ks

    visual_words.fit_words(model, source, FLAGS.fit_patches, lambda line: print(line, flush=True))
    if FLAGS.init_from:
        print(ks.interchange.initialise(model, FLAGS.init_from), flush=True)
        methods.chosen().after_loading(model)


def announce(source, model, steps, devices):
    """Print one line about the run: images, encoder, steps and devices."""
    import keras

    from keras_splitmask.data.counting import counted

    height, width, channels = model.encoder.image_shape
    epochs = steps * FLAGS.batch_size / len(source)
    several = f" on {devices.replicas} devices" if devices.replicas > 1 else ""
    print(
        f"{counted(len(source), 'image')} of {height}x{width}x{channels},"
        f" {model.encoder.count_params() / 1e6:.1f} M weights in the encoder,"
        f" {counted(steps, 'step')} of {counted(FLAGS.batch_size, 'image')} ({epochs:.1f} epochs),"
        f" {keras.backend.backend()}{several}",
        flush=True,
    )


def finish(run, model, source, probed, drawn):
    """Write the pictures, the report and the model at the end of a run.

    `probed` is the source of the probe's images, and `drawn` its `InpaintingPictures`; both may be None.
    """

    if drawn:
        drawn.finish()
    if FLAGS.pictures:
        feature_pictures.draw(run, model.encoder, source, count_steps(len(source)) * FLAGS.batch_size)
    image_sets.save_record(source, probed, "probe")  # again, with files that broke during the run
    run.write_report()
    run.save_model(model)
    run.show_files()
    if children.is_child():  # reproduce.py says what comes next
        return
    if doubts := earlier.doubts(run.home):
        print(f"warning   {' '.join(doubts)}", flush=True)
    if FLAGS.preset and FLAGS.dataset != "sample":  # docs/sample.md has the sample's results
        *found, advice = measured.sentences(FLAGS.preset, len(source), count_steps(len(source)))
        print("measured  " + "\n          ".join(found if doubts else [*found, advice]))  # doubts advise, too
    _show_next(run, source, compares=not doubts)


def _show_next(run, source, compares):
    """Print commands for what usually comes next; with `compares`, also one that compares images by their features."""
    kind, _, path = FLAGS.dataset.partition(":")
    given = f"--init_from={shlex.quote(str(run.home))}"
    labelled = shlex.quote(FLAGS.dataset) if source.classes else "folder:LABELLED"
    images = shlex.quote({"folder": path, "sample": "sample"}.get(kind, "FOLDER"))
    tuned, features = (shlex.quote(f"{run.home}-{end}") for end in ("tuned", "features.npz"))
    print(f"next      {screen.program('finetune')} {given} --dataset={labelled} --workdir={tuned}")
    if compares:
        print(f"          {screen.program('embed')} {given} --images={images} --output={features} --duplicates")


def main(devices, run):
    from keras_splitmask import evaluation
    from keras_splitmask.backend.keras_private import set_random_seed

    set_random_seed(FLAGS.seed)
    method = methods.chosen()
    source = image_sets.open_images(run, FLAGS.channels, FLAGS.subset)
    settings.settle(source, devices, run.resumed)
    hardware.divide(FLAGS.batch_size, devices.replicas, FLAGS.accumulate)
    host, augmentation = method.augmentation()
    image_shape = image_sets.image_shape(source)
    read = method.batches(source, image_shape, host)
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

    batches(0)  # stop at bad options before anything is written
    probed, probe = image_sets.read_probe(image_shape)
    source = image_sets.packed(source, image_shape)
    if method.trains and (FLAGS.dry_run or (FLAGS.time and FLAGS.steps is None)):  # a run that resumes knows its steps
        measure(source, image_shape, augmentation, batches, devices)
    if FLAGS.dry_run:
        raise SystemExit(0)
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
    drawn = None
    if FLAGS.pictures and evaluation.has_picture(model):
        drawn = inpainting_pictures.InpaintingPictures(run, model, source, probe, steps)
        measures.append(drawn)
    log = trouble.log(run, model, source, batches, steps, checkpoints, measures, shift, FLAGS.repeats or 1)
    fitting.fit(model, batches, steps, log, checkpoints)
    with checkpoints.finishing():
        finish(run, model, source, probed, drawn)


if __name__ == "__main__":
    commandline.run(
        hardware.spread(main, free={"time", "dry_run"}, auto=(*settings.AUTO, "log_every")),
        settings.settle_flags,
        required=("dataset", "workdir"),
    )
