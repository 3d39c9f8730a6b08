"""Compare the answers of what was exported with its model's, and refuse it if they differ too much."""

# How far answers may be apart, relative to the largest. Whole numbers of 8 bits are compared by the share of equal
# classes, which is printed.
TOLERANCE = {"none": 1e-4, "float16": 1e-2, "int8": 1.0, "calibrated_int8": 1.0}
# How far those of a program that resizes may be apart, relative to the spread of the answers to different pictures.
# What rounds in another order is within 0.01; another filter, part or order of channels is above 0.03.
RESIZED = {"none": 0.02, "int8": 0.5}
NEAR_TIE = 0.05  # the class may be another one if the model's probability of it is at most this much smaller


class Differs(RuntimeError):
    """What was exported answers otherwise than its model."""


def check(expected, received, quantize, rounds):
    """Print how far apart answers to the same images are, {name: (n, ...)}. Raises Differs.

    Args:
        expected, received: answers of the model, and of what was exported.
        quantize: see export.py.
        rounds: whether one number in a hundred may differ, since rounding decides between two boxes, or two classes of
            a pixel, with nearly equal scores.
    """
    import numpy as np

    for name, value in expected.items():
        differences = np.abs(value - received[name]) / max(1.0, np.abs(value).max())
        difference = np.quantile(differences, 0.99) if rounds else differences.max()
        print(f"{_titled(name, value)} differs by {difference:.1e} after reloading")
        if not difference <= TOLERANCE[quantize]:
            raise Differs(f"The exported {name} differ by {difference:.1e} from the model's; nothing was written.")


def check_resized(expected, received, groups, quantize):
    """Print how far apart answers to images are, {name: (n, ...)}, that the program resized by itself. Raises Differs.

    Args:
        expected, received, quantize: see `check`.
        groups: numbers of images that are compared together, one after the other.
    """
    import numpy as np

    for name, value in expected.items():
        spread = np.abs(value - value.mean(axis=0)).mean()
        least = 1e-4 * max(1.0, np.abs(value).max())  # of a model that answers nearly the same to all
        apart = np.abs(value - received[name]).reshape(len(value), -1).mean(axis=1)  # (n,)
        means = [group.mean() for group in np.split(apart, np.cumsum(groups)[:-1])]
        difference = max(means) / max(spread, least)
        print(f"{_titled(name, value)} differs by {difference:.2%} of the spread between pictures")
        if not difference <= RESIZED[quantize]:
            raise Differs(
                f"The exported {name} of images of other sizes differ from the model's by {difference:.1%} of the"
                f" spread between pictures, expected at most {RESIZED[quantize]:.0%}; nothing was written."
            )


def check_classes(expected, received, quantize, near_tie=0.0):
    """Print for how many images the class is the same, from scores (n, classes). Raises Differs, for a program in
    float32, if a class differs that is no near tie."""
    import numpy as np

    chosen = received.argmax(axis=-1)
    same = int((expected.argmax(axis=-1) == chosen).sum())
    print(f"class        the same for {same} of {len(expected)}")
    behind = expected.max(axis=-1) - np.take_along_axis(expected, chosen[:, None], axis=-1)[:, 0]
    if behind.max() > near_tie and quantize == "none":
        raise Differs("The exported classes differ from the model's; nothing was written.")


def _titled(name, value):
    return f"{name:<12} {'x'.join(map(str, value.shape[1:])):<12}"
