"""The files of a folder that are images by their names, and the folders that are not entered."""

import collections
import dataclasses
import os

from keras_splitmask.data.run_folders import what_is_written

EXTENSIONS = tuple(
    ".avif .bmp .dib .gif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .npy .npz"
    " .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
UNREAD = tuple(
    ".arw .cr2 .dng .exr .hdr .heic .heif .jxl .nef .psd .raw .svg".split()
)  # images too, but listed as left out
MOST_LINKS = 1000  # times that one folder is entered; folders that link to each other would never end
# Folders of a system's own, by their names in lower case, and what is in them.
OF_SYSTEMS = {
    "@eadir": "thumbnails of a Synology",
    "__macosx": "notes of macOS about files",
    "lost+found": "fragments of a repaired disk",
    "system volume information": "notes of Windows about a disk",
    **dict.fromkeys(("#recycle", "@recycle", "$recycle.bin", "recycler"), "deleted files"),
}


@dataclasses.dataclass
class Walk:
    """The content of a folder, by the names of its files.

    Attributes:
        paths: relative paths of what may be images.
        left_out: relative path: reason, of images and folders that cannot be used.
        others: the number of files that are no images by their names.
        not_entered: relative path: reason, of folders that hold no data.
    """

    paths: list = dataclasses.field(default_factory=list)
    left_out: dict = dataclasses.field(default_factory=dict)
    others: int = 0
    not_entered: dict = dataclasses.field(default_factory=dict)

    def sort(self, path, name):
        """Takes in a file by its name."""
        extension = os.path.splitext(name.lower())[1]
        if extension not in EXTENSIONS + UNREAD:
            self.others += 1
        # Before the other hidden files, since these begin with a dot, too.
        elif name.startswith("._"):
            self.left_out[path] = "what macOS notes about a file, no image"
        elif name.startswith("."):
            self.left_out[path] = "hidden"
        elif extension in UNREAD:
            self.left_out[path] = f"the format {extension} is not supported; convert it to .png or .jpg"
        else:
            self.paths.append(path)


def walk(root, skip=()):
    """A `Walk` through all folders under `root`, but for those directly in it that `skip` names.

    Links to folders are followed, each time that there is one, but for those that lead back to a folder around them.
    """
    found, real_paths, entered = Walk(), {root: os.path.realpath(root)}, collections.Counter()

    def unreadable(error):
        found.left_out[os.path.relpath(error.filename, root)] = f"a folder that cannot be read ({error.strerror})"

    for directory, subdirectories, names in os.walk(root, followlinks=True, onerror=unreadable):
        inside = "" if directory == root else os.path.relpath(directory, root) + os.sep
        around = _around(directory, root, real_paths)
        wanted = []
        for name in sorted(set(subdirectories) - (set() if inside else set(skip))):
            path = os.path.join(directory, name)
            real = os.path.realpath(path) if os.path.islink(path) else os.path.join(real_paths[directory], name)
            reason = _why_not(name, real, around, entered) or what_is_written(path)
            if reason:
                found.not_entered[inside + name] = reason
            else:
                real_paths[path] = real
                entered[real] += 1
                wanted.append(name)
        # In place: os.walk enters what remains in its list.
        subdirectories[:] = wanted
        for name in names:
            found.sort(inside + name, name)
    return found


def _around(directory, root, real_paths):
    """The real paths of a folder and of those that it was reached through."""
    around = {real_paths[directory]}
    while directory != root:
        directory = os.path.dirname(directory)
        around.add(real_paths[directory])
    return around


def _why_not(name, real, around, entered):
    """The reason not to enter a folder, or None."""
    if name.lower() in OF_SYSTEMS:
        return OF_SYSTEMS[name.lower()]
    if name.startswith("."):
        return "hidden"
    if real in around:
        return "a link back to a folder around it"
    return f"linked more than {MOST_LINKS} times" if entered[real] >= MOST_LINKS else None
