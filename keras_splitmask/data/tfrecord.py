"""Read records of TFRecord files at random: an index of their positions takes 8 bytes per record."""

import os
import struct

import numpy as np

LENGTH, CHECK = 8, 4  # bytes before a record, its length and the checksum of that, and CHECK bytes behind it


class TfRecords:
    """The records of some files in order, decoded when they are asked for.

    Args:
        paths: of the files, `pathlib.Path` or those of tfds.
        decode: a function from the bytes of a record to what it holds.

    Raises:
        ValueError: with the name, if a file is cut short.
    """

    def __init__(self, paths, decode):
        self.paths = list(paths)
        self.decode = decode
        places = [_places(path) for path in self.paths]
        self._ends = np.cumsum([len(of_file) for of_file in places])
        self._places = np.concatenate(places) if places else np.empty(0, "int64")

    def __len__(self):
        return len(self._places)

    def __getitem__(self, i):
        """Record `i`. Its checksum is not looked at: TensorFlow's reader, which does, takes 5.7 ms a record at random
        places."""
        path = self.paths[int(np.searchsorted(self._ends, i, side="right"))]
        with _opened(path) as file:
            file.seek(int(self._places[i]))
            (length,) = struct.unpack("<Q", file.read(LENGTH))
            file.seek(CHECK, os.SEEK_CUR)
            content = file.read(length)
        if len(content) < length:
            raise ValueError(f"{path} is cut short")
        return self.decode(content)


def _opened(path):
    # Unbuffered: at random places, what a buffer reads ahead is not needed.
    return open(path, "rb", buffering=0) if os.path.exists(path) else path.open("rb")  # the latter in a bucket


def _places(path):
    """Find the offsets of the records of a file (n,) int64. Each record starts with its length."""
    with _opened(path) as file:
        # Some kinds of files return nothing from `seek`.
        size, place, places = file.seek(0, os.SEEK_END) or file.tell(), 0, []
        while place < size:
            file.seek(place)
            head = file.read(LENGTH)
            places.append(place)
            # A head that is cut short moves beyond the end, which is noticed below.
            place += LENGTH + 2 * CHECK + (struct.unpack("<Q", head)[0] if len(head) == LENGTH else size)
    if place != size:
        raise ValueError(f"{path} is cut short or damaged; prepare the data set again")
    return np.array(places, "int64")
