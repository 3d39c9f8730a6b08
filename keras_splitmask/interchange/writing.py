"""Write an encoder, or a whole classifier, into a folder that another library reads."""

import contextlib
import json
import os
import pathlib
import tempfile

import numpy as np

from keras_splitmask.interchange.configuration import TIMM_EPSILON, described
from keras_splitmask.interchange.folding import KERNEL, PARTS, POSITIONS
from keras_splitmask.interchange.heads import arrays_for_timm
from keras_splitmask.interchange.names import HUGGING_FACE, LAYOUTS, TIMM, WEIGHTS, names_of
from keras_splitmask.interchange.safetensors_files import safetensors_content


@contextlib.contextmanager
def new_folder(folder):
    """Yield a temporary folder that becomes `folder` at the end. On an error neither it nor its new parents are left.

    Raises:
        ValueError: if it exists, or cannot be written.
    """
    folder = pathlib.Path(folder).expanduser()
    made = []
    try:
        if os.path.lexists(folder):
            raise ValueError(f"Expected a folder that does not exist yet, received {folder}.")
        made = [parent for parent in folder.parents if not parent.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, since a rename must stay on one file system; and one folder deeper, since only its owner
        # may enter a temporary one.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            aside = pathlib.Path(temporary, folder.name)
            aside.mkdir()
            yield aside
            os.rename(aside, folder)
    except BaseException as error:
        for parent in made:
            with contextlib.suppress(OSError):  # it has other files by now, or is not there
                parent.rmdir()
        if isinstance(error, (OSError, UnicodeEncodeError)):
            reason = getattr(error, "strerror", None) or error
            raise ValueError(f"Expected a folder that can be written, received {str(folder)!r} ({reason}).") from error
        raise


def write(folder, arguments, arrays, layout, head=None):
    """Write the weights of an encoder by the names of a layout, and what their library wants to know of it, into a new
    folder.

    Args:
        folder: written whole or not at all.
        arguments: those of the `Encoder`, by name.
        arrays: its weights by name, of any floating type; written as float32.
        layout: one of `LAYOUTS`.
        head: the `Head` of a classifier, which only timm takes; or None to write the encoder alone.

    Raises:
        ValueError: if the folder exists or cannot be written, the layout is unknown or cannot hold the head, or
            its model is another function than the encoder's.
    """
    with new_folder(folder) as aside:
        _check(arguments, layout, head)
        content = _by_their_names(arguments, arrays, layout)
        if head:
            content |= arrays_for_timm(head)
        (aside / WEIGHTS).write_bytes(safetensors_content(content, {"format": "pt"}))  # transformers insists on "pt"
        for name, text in described(arguments, layout, head).items():
            (aside / name).write_text(json.dumps(text, indent=1) + "\n")


def _check(arguments, layout, head):
    if layout not in LAYOUTS:
        raise ValueError(f"Expected a layout among {', '.join(LAYOUTS)}, received {layout!r}.")
    if head and layout != "timm":
        raise ValueError(
            f"Expected the layout timm for a whole classifier, received {layout}, whose classifiers do not take the"
            " mean of the patches as ours does; choose timm, or save_encoder."
        )
    extra, wanted = arguments["extra_tokens"], int(layout == "deit")
    if extra != wanted:
        advice = {0: "choose vit", 1: "choose deit"}.get(extra, "no layout has more than one")
        raise ValueError(
            f"Expected an encoder with extra_tokens={wanted} for the layout {layout}, received {extra}; {advice}."
        )
    if arguments.get("relative_positions") and layout != "beit":
        raise ValueError(
            f"Expected an encoder without relative positions for the layout {layout}, received one with them; choose"
            " beit."
        )
    height, width, _ = arguments["image_shape"]
    if layout == "beit" and height != width:
        raise ValueError(
            f"Expected square images for the layout beit, received {height}x{width}, at which BeitModel fails; choose"
            " vit."
        )
    if layout == "timm" and arguments["epsilon"] != TIMM_EPSILON:
        raise ValueError(
            f"Expected an encoder with epsilon={TIMM_EPSILON} for the layout timm, received {arguments['epsilon']};"
            f" choose vit, or load_encoder(PATH, epsilon={TIMM_EPSILON})."
        )


def _by_their_names(arguments, arrays, layout):
    side, channels = arguments["patch_size"], arguments["image_shape"][-1]
    table, arrays = (
        TIMM if layout == "timm" else HUGGING_FACE,
        {name: array.astype("float32") for name, array in arrays.items()},
    )
    arrays[KERNEL] = arrays[KERNEL].reshape(side, side, channels, -1).transpose(3, 2, 0, 1)  # (D, C, side, side)
    others = np.zeros(
        (1 + arguments["extra_tokens"], arguments["width"]), "float32"
    )  # the tokens that have no position of their own
    arrays[POSITIONS] = np.concatenate([others, arrays[POSITIONS]])[None]  # (1, 1 + extra + N, D)
    if table is HUGGING_FACE:
        # The thirds of our qkv are their query, key and value.
        for name in [name for name in arrays if "/qkv/" in name]:
            arrays.update(
                zip((name.replace("qkv", part) for part in PARTS), np.split(arrays.pop(name), 3, axis=-1), strict=True)
            )
    if layout == "beit":
        arrays = {
            name: array for name, array in arrays.items() if not name.endswith("key/bias")
        }  # adds the same to all of a row of a softmax
    theirs = {}
    for ours, (their_name, *_) in table.items():
        for i in range(arguments["depth"] if "{}" in ours else 1):
            theirs.update(
                {b: arrays.pop(a) for a, b in names_of(ours.format(i + 1), their_name.format(i)) if a in arrays}
            )
    assert not arrays, arrays.keys()
    # Their kernels are (out, in).
    return {name: np.ascontiguousarray(array.T if _is_kernel(name, array) else array) for name, array in theirs.items()}


def _is_kernel(name, array):
    return array.ndim == 2 and name.endswith(".weight")
