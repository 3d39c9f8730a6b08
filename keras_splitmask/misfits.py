"""Describe arrays that do not fit the weights that they are meant for."""

SHOWN = 6  # of a model with another depth, hundreds of names differ


def misfits(arrays, shapes):
    """Describe mismatched names and shapes; empty if every array fits.

    Args:
        arrays: {name: array}.
        shapes: {name: shape} of the weights.

    Returns:
        One line, the first few of them separated by semicolons.
    """
    wrong = [f"{name} is missing" for name in shapes if name not in arrays]
    wrong += [f"{name} is left over" for name in arrays if name not in shapes]
    wrong += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(shape)}"
        for name, shape in shapes.items()
        if name in arrays and arrays[name].shape != tuple(shape)
    ]
    more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
    return "; ".join(wrong[:SHOWN] + more)


def shapes_of(weights):
    """Return {name: shape} of {name: weight}."""
    return {name: weight.shape for name, weight in weights.items()}
