"""Convert labels of any usual form to numbers of classes."""

import numpy as np

MOST_CLASSES = 100_000  # more are accepted if a tenth of them have images
SHOWN = 5  # names in a message


def check_labels(labels, count, place, classes=None):
    """Check and convert the labels of `count` images.

    Args:
        labels: numbers from 0 on, (B,) or (B, 1), of integers or whole floats; names, (B,); or one-hot rows, (B, K).
        count: B.
        place: description of their origin, for errors.
        classes: the names of the classes in order; by default the sorted names if labels are text.

    Returns:
        Labels (B,) int32, and the names of the classes, or None.

    Raises:
        ValueError: if the labels have another form.
    """
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count:
        raise ValueError(
            f"Expected a label for each of the {count} images, received labels {labels.shape} in {place}; align them."
        )
    names = None if classes is None else [str(name) for name in classes]
    if labels.ndim == 2:
        labels = _from_rows(labels, place)
    if labels.dtype.kind in "US":
        return _from_names(text(labels, place), names, place)
    # Whole floats are accepted: some programs store every number as one.
    if labels.dtype.kind not in "iufb" or not np.all(np.isfinite(labels)) or np.any(labels != labels.astype("int64")):
        raise ValueError(
            f"Expected labels as integers from 0 on or as text, received {labels.dtype} in {place}; number the classes."
        )
    _check_range(labels, names, place)
    return labels.astype("int32"), names


def _from_rows(labels, place):
    rows = labels.dtype.kind in "iufb" and np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
    if not rows:
        raise ValueError(
            f"Expected one label for each image, received labels {labels.shape} in {place} that are not one-hot; choose"
            " one."
        )
    return labels.argmax(axis=1)


def _from_names(labels, names, place):
    names = sorted(set(labels.tolist())) if names is None else names
    number = {name: i for i, name in enumerate(names)}
    if unknown := sorted(set(labels.tolist()) - set(names)):
        raise ValueError(
            f"Expected labels among the classes {some(names)}, received {some(unknown)} in {place}; name each class"
            " once."
        )
    return np.array([number[name] for name in labels.tolist()], "int32"), names


def text(labels, place):
    """Decode an array of str or of UTF-8 bytes to str."""
    try:
        return labels if labels.dtype.kind == "U" else np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"Expected labels as text in UTF-8, received other bytes in {place}; write them as str."
        ) from error


def check_names(names, place):
    """Convert an array (K,) of text or numbers to a list of class names.

    Raises:
        ValueError: if the array has another shape, or a name occurs twice.
    """
    names = text(names, place) if names.dtype.kind in "US" else names
    classes = [str(name) for name in names] if names.ndim == 1 else []
    if not classes or len(set(classes)) < len(classes):
        received = (
            f"{next(name for name in classes if classes.count(name) > 1)!r} twice"
            if classes
            else f"an array {names.shape}"
        )
        raise ValueError(
            f"Expected classes as one name each, (K,), received {received} in {place}; name each class once."
        )
    return classes


def _check_range(labels, names, place):
    if labels.min() < 0:
        raise ValueError(
            f"Expected labels from 0 on, received {labels.min():.0f} in {place}; leave out images without a label."
        )
    if names is not None and labels.max() >= len(names):
        raise ValueError(
            f"Expected labels below {len(names)}, the names of classes, received {labels.max():.0f} in {place}; add its"
            " name."
        )
    # A head has an output for each number up to the largest, so ids of a database would ask for millions.
    if labels.max() >= max(MOST_CLASSES, 10 * len(np.unique(labels))):
        raise ValueError(
            f"Expected labels that count the classes from 0 on, received {labels.max():.0f} in {place}; number them"
            " again."
        )


def some(names):
    """The first names of a list, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(str(name) for name in names[:SHOWN]) + more
