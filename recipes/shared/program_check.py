"""Compare the answers of what was exported with its model's, and refuse it if they differ too much."""

from recipes.shared import commandline

# How far answers may be apart, relative to the largest. Whole numbers of 8 bits are compared by the share of equal
# classes, which is printed.
TOLERANCE = {"none": 1e-4, "float16": 1e-2, "int8": 1.0, "calibrated_int8": 1.0}
SAME = {"none": 0.99, "float16": 0.95, "int8": 0.0, "calibrated_int8": 0.0}  # the least share of equal labels
# How far pixels that the program resizes may be from those of `predict`, in the mean, of 255. Those of
# cykooz-resizer are within 0.01, those of Pillow, which rounds columns first, within 0.3; another filter is above 1.
PIXELS = 0.5
OBJECT = 1e-3  # how far box, score and mask may be from those of the same object, relative to the largest
OBJECTS = 0.9  # the least share of objects that both have; rounding decides between boxes with nearly equal scores


class Differs(commandline.BadInput):
    """What was exported answers otherwise than its model."""


def check(expected, received, quantize):
    """Print how far apart answers to the same batches of images are, lists of {name: (n, ...)}. Raises Differs.

    Args:
        expected, received: answers of the model, and of what was exported.
        quantize: see export.py.
    """
    import numpy as np

    if "boxes" in expected[0]:
        return _check_objects(expected, received)
    for name in expected[0]:
        pairs = [(one[name], other[name]) for one, other in zip(expected, received, strict=True)]
        if wrong := next((pair for pair in pairs if pair[0].shape != pair[1].shape), None):
            raise Differs(f"The exported {name} have the shape {wrong[1].shape}, expected {wrong[0].shape}.")
        shapes = {"x".join(map(str, value.shape[1:])) for value, _ in pairs}
        title = f"{name:<12} {shapes.pop() if len(shapes) == 1 else f'{len(shapes)} sizes':<12}"
        if np.issubdtype(pairs[0][0].dtype, np.integer):  # since rounding decides between classes, too
            same = float(np.concatenate([(value == other).ravel() for value, other in pairs]).mean())
            print(f"{title} {same:.2%} are the same after reloading")
            if same < SAME[quantize]:
                raise Differs(f"Of the exported {name} {same:.2%} are the model's; nothing was written.")
            continue
        largest = max(1.0, *(np.abs(value).max() for value, _ in pairs))
        differences = np.concatenate([np.abs(value - other).ravel() for value, other in pairs]) / largest
        difference = differences.max()
        print(f"{title} differs by {difference:.1e} after reloading")
        if not difference <= TOLERANCE[quantize]:
            raise Differs(f"The exported {name} differ by {difference:.1e} from the model's; nothing was written.")


def _check_objects(expected, received):
    """Compare objects (n, K, ...), whatever their order."""
    import numpy as np

    same = count = 0
    for one, other in zip(expected, received, strict=True):
        for i in range(len(one["boxes"])):
            pairs = one["labels"][i][:, None] == other["labels"][i]  # (K, K)
            for name in set(one) - {"labels"}:
                values, others = (np.reshape(each[name][i], (len(pairs), -1)) for each in (one, other))
                apart = np.abs(values[:, None] - others).max(axis=-1)  # (K, K)
                pairs &= apart <= OBJECT * max(1.0, np.abs(values).max())
            for found, labels in ((pairs.any(axis=1), one["labels"][i]), (pairs.any(axis=0), other["labels"][i])):
                same, count = same + int(found[labels >= 0].sum()), count + int((labels >= 0).sum())
    share = same / max(1, count)
    print(f"objects      {share:.2%} of {count // 2} are the same after reloading")
    if count and not share >= OBJECTS:
        raise Differs(f"Of the exported program's objects {share:.1%} are the model's; nothing was written.")


def check_pixels(expected, received):
    """Print how far apart images are that predict and the program have resized, lists of (n, H, W, C). Raises
    Differs."""
    import numpy as np

    pairs = zip(expected, received, strict=True)
    difference = np.mean([np.abs(one.astype("float32") - other).mean() for one, other in pairs])
    print(f"resized      the pixels differ by {difference:.2f} of 255")
    if not difference <= PIXELS:
        raise Differs(f"The exported program resizes otherwise, by {difference:.2f} of 255; nothing was written.")


def check_classes(expected, received, quantize):
    """Print for how many images the class is the same, from scores (n, classes). Raises Differs, for a program in
    float32, if one is another."""
    same = int((expected.argmax(axis=-1) == received.argmax(axis=-1)).sum())
    print(f"class        the same for {same} of {len(expected)}")
    if same < len(expected) and quantize == "none":
        raise Differs("The exported classes differ from the model's; nothing was written.")
