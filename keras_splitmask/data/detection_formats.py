"""Read boxes in one of the formats that people have, by its name or by looking at the folder."""

from keras_splitmask.data import coco_files, voc, yolo
from keras_splitmask.data.scan import printable

FORMATS = {"coco": coco_files, "voc": voc, "yolo": yolo}  # kind of data set: module with `splits` and `read`
NAMES = {"coco": "COCO's JSON", "voc": "XML files of Pascal VOC", "yolo": "text files of YOLO"}


def read(kind, root, split, report, train=None, divide=False):
    """Read the annotations of a split: a `Listing`.

    Args:
        kind: a key of `FORMATS`, or "folder" to find out.
        root: `pathlib.Path` of the data set.
        split: "train", "val" or "test".
        report: a function that receives lines about what was found and the progress, or None.
        train: the source of the train split, or the names of its classes, or None.
        divide: whether to read a data set that is not divided for its split val, too.
    """
    if not root.exists():
        raise ValueError(f"Folder not found: {printable(str(root))}. Check the path.")
    if kind == "folder":
        kind = _kind_of(root)
        if report and train is None:
            report(f"{printable(str(root))}: {NAMES[kind]}; {_splits_of(root, kind)}. The same is {kind}:PATH.")
    if divide and split == "val" and "" in FORMATS[kind].splits(root):
        split = "train"
    if kind == "voc":
        # The split to evaluate on is read as the one to train on is.
        return voc.read(root, split, report, getattr(getattr(train, "listing", None), "from_zero", None))
    return FORMATS[kind].read(root, split, report)


def _kind_of(root):
    """Find the format by the files of a folder."""
    kinds = [kind for kind, form in FORMATS.items() if form.splits(root)]
    if len(kinds) == 1:
        return kinds[0]
    path = printable(str(root))
    if kinds:
        choices = " or ".join(f"{kind}:{path}" for kind in kinds)
        raise ValueError(
            f"Expected boxes in one format in {path}, received {' and '.join(NAMES[kind] for kind in kinds)}; choose"
            f" one, as {choices}."
        )
    inside = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    better = next((folder for folder in inside if any(form.splits(folder) for form in FORMATS.values())), None)
    remedy = f"try folder:{printable(str(better))}" if better else "correct the path, or export in one of these"
    raise ValueError(
        f"Expected images with boxes in {path}, as COCO's JSON (instances.json), XML files of Pascal VOC (Annotations)"
        f" or text files of YOLO (labels), received none of them; {remedy}."
    )


def _splits_of(root, kind):
    names = list(FORMATS[kind].splits(root))
    return "not divided into splits" if names == [""] else f"splits {', '.join(names)}"
