"""Classify, detect or segment new images with a trained model.

    python recipes/predict.py --init_from=runs/tuned --images=photos --output=predictions
    python recipes/predict.py --init_from=runs/tuned --images=cat.jpg

The model decides what is predicted:
  - a classifier (finetune.py): predictions.csv and predictions.json with the class and score of each image;
  - a detector (detect.py): predictions.json in COCO's format of results, with boxes and, by Mask R-CNN, masks;
    images.json with the images and categories; predictions.csv with one row per object;
  - a segmenter (segment.py): label_maps/NAME.png with the class of every pixel, numbered as in the data set
    (NAME-INDEX.png if two images would share a name; predictions.csv lists which is whose);
    classes.json with the names; predictions.csv and predictions.json with the fraction of each class.

Boxes and label maps have the size of the given image. Without --output the results are printed only. Files that cannot
be read are listed in left_out.csv with the reason. Run the same command again to resume.
"""

import contextlib
import csv
import functools
import itertools
import os
import pathlib

from absl import flags

from recipes.shared import (
    commandline,
    earlier,
    journal,
    new_images,
    prediction_files,
    results,
    screen,
    writing,
)

# These change the result.
flags.DEFINE_string("init_from", None, "Run folder or .keras file of a classifier, a detector or a segmenter.")
flags.DEFINE_integer("top", 1, lower_bound=1, help="With a classifier, list this many of the likeliest classes.")
flags.DEFINE_float(
    "least_score",
    None,
    lower_bound=0,
    upper_bound=1,
    help="With a detector, leave out objects with a lower score. The model gives those from about 0.05 on.",
)
flags.DEFINE_enum(
    "inference",
    None,
    ["whole", "slide"],
    "With a segmenter, resize an image as a whole, or move a window over it. Default: as in its run, or whole.",
)

# These do not.
flags.DEFINE_string("output", None, "Folder of the results. Default: none, the results are printed.")
flags.DEFINE_integer("pictures", 0, lower_bound=0, help="Images to draw with their results, in pictures of --output.")
flags.adopt_module_key_flags(new_images)
flags.adopt_module_key_flags(results)
FLAGS = flags.FLAGS
PART, LAST, LEFT_OUT = "predictions.part", "predictions.json", "left_out.csv"
PRINTED = 10  # results that are printed, with --output
TILES = 24  # images in one picture
FORMAT = 1  # of partial results


def load_predictor():
    """Load the model of --init_from: a `prediction.Predictor`."""
    import keras_splitmask as ks

    reports = []
    model = ks.interchange.load(FLAGS.init_from, reports.append)
    options = {name: FLAGS[name].value for name in ("crop_ratio", "least_score", "inference")}
    if isinstance(model, ks.transfer.Classifier):
        options["crop_ratio"] = FLAGS.crop_ratio or earlier.crop_ratio(FLAGS.init_from, model)
    if isinstance(model, ks.transfer.Segmenter):
        options["inference"] = FLAGS.inference or earlier.flag_of_run(FLAGS.init_from, "inference") or None
    try:
        return ks.prediction.predictor_for(model, FLAGS.batch_size, **options)
    except ks.prediction.NoHead:
        reasons = {why for report in reports for why in report.dropped.values() if why.startswith("of a head")}
        raise _no_head(model, "".join(f" and weights {why}" for why in reasons)) from None


def _no_head(model, beside):
    tuned = f"{screen.program('finetune')} --init_from={FLAGS.init_from} --dataset=folder:PATH --workdir=runs/tuned"
    features = f"{screen.program('embed')} --init_from={FLAGS.init_from} --images={FLAGS.images[0]}"
    return commandline.BadInput(
        f"{FLAGS.init_from} has no classes yet: it holds a model of type {type(model).__name__}{beside}. Fine-tune"
        f" it first: {tuned}. Or get its features: {features} --output=features.npz"
    )


def writer_for(predictor, source, folder):
    """Choose the `prediction_files.Writer` for what the model predicts."""
    if predictor.kind == "classes":
        return prediction_files.ClassWriter(predictor, source, folder, FLAGS.top)
    name = "category_ids" if predictor.kind == "objects" else "class_numbers"
    numbers = earlier.class_numbers(FLAGS.init_from, name, len(predictor.class_names))
    writer = prediction_files.ObjectWriter if predictor.kind == "objects" else prediction_files.MapWriter
    return writer(predictor, source, folder, numbers)


def predicted(predictor, source, writer, start=0):
    """Yield for each batch, from batch `start` on, a dictionary of its records and of what cannot be read."""
    from keras_splitmask import prediction

    batches = prediction.predictions(predictor, source, start, FLAGS.workers)
    for number, found, unreadable in new_images.show_progress(batches, predictor.step, len(source)):
        yield {
            "batch": number,
            "images": [[index, writer.to_record(index, result)] for index, result in found.items()],
            "left_out": {source.name(index): reason for index, reason in unreadable.items()},
        }


def print_only(predictor, source, writer):
    """Predict and print all results."""
    left_out, found = dict(source.left_out), 0
    for batch in predicted(predictor, source, writer):
        found += len(batch["images"])
        for _, record in batch["images"]:
            print(writer.line(record), flush=True)
        left_out |= batch["left_out"]
    if not found:
        raise new_images.none_readable(left_out)
    for name, reason in left_out.items():
        print(f"{name}  left out ({reason})")
    screen.check_result()


def predict_into(folder, record, predictor, source, writer):
    """Predict into a folder, from where an earlier process was stopped, and write the results.

    Args:
        folder: `pathlib.Path`.
        record: the `Record` of its files.
        predictor, source, writer: see `predicted`.
    """
    from keras_splitmask.data.counting import counted

    record.add(PART)
    part = journal.Journal(folder / PART)
    if part.count:
        print(f"resumed at image {min(part.count * predictor.step, len(source))} of {len(source)}", flush=True)
    with results.removed_if_empty(record, part, lambda: any(batch["images"] for batch in part)):
        fill(part, predictor, source, writer)

    def records():
        return (one for batch in part for _, one in batch["images"])

    left_out, indices = dict(source.left_out), []
    for batch in part:
        left_out |= batch["left_out"]
        for index, one in batch["images"]:
            indices.append(index)
            writer.count(one)
    for name in (*writer.files(), LEFT_OUT, LAST):
        record.add(name)
    finish = writer.write(records, left_out)
    if left_out:
        with writing.csv_file(folder / LEFT_OUT, ["file", "reason"]) as rows:
            rows.writerows(left_out.items())
    draw(folder, record, part, indices, source, writer)
    finish()
    part.close()
    (folder / PART).unlink()
    print(f"{counted(len(indices), 'image')}, {writer.summary()}", flush=True)
    new_images.list_left_out(left_out, folder / LEFT_OUT)
    print(f"results   {folder / 'predictions.csv'}", flush=True)
    if not FLAGS.pictures:
        again = new_images.typed(f"--init_from={FLAGS.init_from}", f"--output={folder}-drawn", "--pictures=24")
        print(f"next      {screen.program('predict')} {again}", flush=True)


def fill(part, predictor, source, writer):
    """Predict the batches that are missing in a journal, and stop if there is no result in the end."""
    for batch in predicted(predictor, source, writer, part.count):
        for _, one in batch["images"][: max(0, PRINTED - batch["batch"] * predictor.step)]:
            print(writer.line(one), flush=True)
        part.add(batch)
    if len(source) > PRINTED:
        print(f"...       the first {PRINTED} of {len(source)}; all are written to files", flush=True)
    if not any(batch["images"] for batch in part):
        raise new_images.none_readable({name: why for batch in part for name, why in batch["left_out"].items()})


def draw(folder, record, part, indices, source, writer):
    """Draw --pictures images with their results, evenly spread over all, into pictures of at most `TILES` each."""
    import numpy as np

    from keras_splitmask import evaluation

    count = min(FLAGS.pictures, len(indices))
    chosen = {indices[i] for i in np.linspace(0, len(indices) - 1, count).round().astype(int)} if count else ()
    picked = (pair for batch in part for pair in batch["images"] if pair[0] in chosen)
    for number in range(1, -(-count // TILES) + 1):
        name = f"pictures/predictions-{number}.png"
        record.add(name)
        (folder / "pictures").mkdir(exist_ok=True)
        row = [writer.tile(one, source.image(index)) for index, one in itertools.islice(picked, TILES)]
        evaluation.save_sheet(folder / name, [row], legend=writer.legend())
        print(f"picture   {folder / name}", flush=True)


def settings(predictor, source):
    """List what the results depend on, see `results.opened`."""
    options = {
        name: getattr(predictor, name, None) for name in ("batch_size", "crop_ratio", "least_score", "inference")
    }
    top = FLAGS.top if predictor.kind == "classes" else None
    return new_images.settings(source, FLAGS.init_from, **options, top=top, format=FORMAT)


def remove_label_maps(folder):
    """Remove the label maps of earlier results, which only predictions.csv or the partial results list."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
            names = [row["label_map"] for row in csv.DictReader(file)]
        remove_inside(folder, names)
    if (folder / PART).is_file():
        part = journal.Journal(folder / PART)
        part.close()
        remove_inside(folder, [one.get("label_map") for batch in part for _, one in batch["images"]])


def remove_inside(folder, names):
    """Remove these files, if they are label maps of the folder, and the folders that are then empty."""
    home = os.path.realpath(folder / "label_maps")
    paths = [folder / name for name in names if name]
    paths = [path for path in paths if os.path.realpath(path).startswith(os.path.join(home, ""))]
    for path in paths:
        path.unlink(missing_ok=True)
    writing.remove_empty(sorted({path.parent for path in paths} | {folder / "label_maps"}, reverse=True))


def main():
    if FLAGS["precision"].present:
        raise commandline.BadInput("The precision is that of the model of --init_from; leave --precision out.")
    if FLAGS.pictures and not FLAGS.output:
        raise commandline.BadInput("Expected --output with --pictures, received none; name a folder for the pictures.")
    folder = pathlib.Path(FLAGS.output) if FLAGS.output else None
    if folder:
        results.check_apart(folder)
    predictor = load_predictor()
    source = new_images.open_images(predictor.shape[-1], getattr(predictor.model, "value_range", None))
    writer = writer_for(predictor, source, folder)
    if folder is None:
        print_only(predictor, source, writer)
        return
    clear = functools.partial(remove_label_maps, folder)
    with results.opened(folder, settings(predictor, source), LAST, clear) as record:
        if record is None:
            print(f"{folder} already holds these results. --overwrite computes them again.", flush=True)
            return
        predict_into(folder, record, predictor, source, writer)


if __name__ == "__main__":
    commandline.run(main, new_images.settle, required=("init_from", "images"))
