"""Names of the files that are written for images, one of its own for each image."""

import collections
import pathlib
import zlib

LONGEST = 160  # bytes of a file's or folder's name, with room for a number, an ending and .part; most disks take 255
DEEPEST = 800  # bytes of a whole path


def unique_names(names, folder):
    """Name a PNG file in `folder` for each image, always inside of it, and the same whenever the images are.

    Args:
        names: names of the images, relative or absolute paths that may repeat.
        folder: name of the folder.

    Returns:
        A list of different paths with "/". They differ also where capitals do not count, and none is the folder of
        another. photos/a.jpg becomes FOLDER/photos/a.png, or a-7.png with the index of the image if a.png is in use.
    """
    stems = [_stem(name, folder) for name in names]
    counts = collections.Counter(stem.casefold() for stem in stems)
    # What no file may be called.
    taken = {str(parent).casefold() for stem in set(stems) for parent in pathlib.PurePosixPath(stem).parents}
    clear = [counts[stem.casefold()] == 1 and _free(f"{stem}.png", taken) for stem in stems]
    taken |= {f"{stem}.png".casefold() for stem, alone in zip(stems, clear, strict=True) if alone}
    found = []
    for index, (stem, alone) in enumerate(zip(stems, clear, strict=True)):
        name, ending = f"{stem}.png", f"-{index}"
        while not alone and not _free(name := f"{stem}{ending}.png", taken):
            ending += "-"
        taken.add(name.casefold())
        found.append(name)
    return found


def _free(name, taken):
    return name.casefold() not in taken and f"{name}.part".casefold() not in taken


def _stem(name, folder):
    """The path of an image in `folder`, without its ending."""
    *parents, last = [part for part in pathlib.PurePosixPath(name).parts if part not in ("/", "..")] or ["image"]
    last = _cut(pathlib.PurePosixPath(last).stem)
    path = pathlib.PurePosixPath(folder, *map(_cut, parents), last)
    return str(path if len(str(path).encode(errors="surrogateescape")) <= DEEPEST else path.parents[-2] / last)


def _cut(part):
    """A name that is too long, cut and with a checksum of the whole."""
    content = part.encode(errors="surrogateescape")
    if len(content) <= LONGEST:
        return part
    return f"{content[: LONGEST - 9].decode(errors='ignore')}-{zlib.crc32(content):08x}"
