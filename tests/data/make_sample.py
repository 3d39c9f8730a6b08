"""Draw the embedded sample from the four official files of Fashion-MNIST.

    python -m tests.data.make_sample FOLDER

FOLDER holds {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz; Debian's package dataset-fashion-mnist puts them into
/usr/share/datasets/fashion-mnist. The same files give the same bytes (with the same zlib).
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

from keras_splitmask.data.arrays import SAMPLE

PER_CLASS = {"train": 1000, "test": 200}
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
# Of the unzipped contents, because Debian's package drops the file name from the gzip header.
SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_idx(path):
    """The uint8 array in a gzipped idx file: a magic number of 4 bytes, the last the number of axes; their lengths; the
    values."""
    content = gzip.decompress(path.read_bytes())
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, "uint8", offset=4 + 4 * axes).reshape(shape)


def draw(labels, per_class, seed=0):
    """Indices of `per_class` randomly drawn examples of each class in `labels` (B,), ascending."""
    random = np.random.RandomState(seed)  # its stream is frozen for all versions of NumPy; default_rng's is not
    drawn = [random.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(len(CLASSES))]
    return np.sort(np.concatenate(drawn))


def main(folder):
    folder = Path(folder)
    for name, expected in SHA256.items():
        received = hashlib.sha256(gzip.decompress((folder / name).read_bytes())).hexdigest()
        if received != expected:
            raise SystemExit(
                f"Expected the official {name} with content {expected}, received {received}; download it again."
            )
    arrays = {"classes": np.array(CLASSES)}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")  # (B, 28, 28)
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")  # (B,)
        drawn = draw(labels, PER_CLASS[split])
        arrays |= {f"{split}_images": images[drawn], f"{split}_labels": labels[drawn]}
    SAMPLE.parent.mkdir(exist_ok=True)
    np.savez_compressed(SAMPLE, **arrays)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"Expected one argument, the folder with {', '.join(SHA256)}, received {len(sys.argv) - 1}.")
    main(sys.argv[1])
