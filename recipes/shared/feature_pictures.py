"""Pictures of the features at the end of pre-training: a map of them, and nearest neighbours."""

from absl import flags

FLAGS = flags.FLAGS
FEWEST, MOST = 100, 500  # images; of fewer, a map says little


def draw(run, encoder, source, seen):
    """Write pictures/feature_map.png and pictures/neighbours.png from a few hundred images of a source.

    Args:
        run: the `workdir.Run`.
        encoder: an `Encoder`.
        source: the training images.
        seen: number of images that the run trained on, repeats included. No more are encoded, so that the pictures
            take a small part of the run's time.
    """
    import numpy as np

    from keras_splitmask import data, evaluation

    reader = data.Reader(source, encoder.image_shape, MOST, workers=max(1, FLAGS.workers))
    count = min(len(reader), seen)
    if count < FEWEST:
        return
    rows = np.linspace(0, len(reader) - 1, count).round().astype(int)
    images, groups = reader[rows], groups_of(source, reader.indices[rows])
    features = evaluation.extract(encoder, images, batch_size=min(FLAGS.batch_size, 256))
    path = run.file("pictures/neighbours.png")
    evaluation.save_neighbours(path, images, features, groups)
    print(f"picture   {path}", flush=True)
    try:
        path = run.file("pictures/feature_map.png")
        evaluation.save_feature_map(path, features, groups)
    except ImportError as error:
        print(f"There is no map of the features: {error}", flush=True)
    else:
        print(f"picture   {path}", flush=True)


def groups_of(source, indices):
    """Return the class of each image, or the outermost folder in which some differ; None if there is neither."""
    if source.labels is not None:
        labels = source.labels[indices]
        return [source.classes[label] if source.classes else str(label) for label in labels]
    folders = [source.name(int(i)).split("/")[:-1] for i in indices]
    for parts in zip(*folders, strict=False):
        if len(set(parts)) > 1:
            return list(parts)
    return None
