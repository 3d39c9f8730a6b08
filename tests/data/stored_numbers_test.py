import struct
import zlib

import numpy as np
import pytest

from keras_splitmask.data.stored_numbers import read_numbers


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits(bits):
    """Grey of `bits` bits, written by hand, since Pillow writes 1 or 8: two rows of 8 / bits pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    numbers = np.random.default_rng(0).integers(2**bits, size=(2, 8 // bits))
    packed = [sum(int(n) << (8 - bits * (place + 1)) for place, n in enumerate(row)) for row in numbers]
    header = struct.pack(">IIBBBBB", 8 // bits, 2, bits, 0, 0, 0, 0)
    rows = zlib.compress(bytes([0, packed[0], 0, packed[1]]))
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    assert read_numbers(content, "it").tolist() == numbers.tolist()


def grey_tiff(bits, inverted):
    """A TIFF of two rows of 8 / bits pixels, written by hand, whose numbers are 0 to 2**bits - 1 in turn; and these
    numbers."""
    numbers = np.arange(2 * 8 // bits).reshape(2, -1) % 2**bits
    rows = bytes(sum(int(n) << (8 - bits * (place + 1)) for place, n in enumerate(row)) for row in numbers)
    tags = {
        256: 8 // bits,
        257: 2,
        258: bits,
        259: 1,
        262: 0 if inverted else 1,
        273: 8 + 2 + 9 * 12 + 4,
        277: 1,
        278: 2,
        279: 2,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + rows, numbers


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_few_bits_in_a_tiff(bits, inverted):
    content, numbers = grey_tiff(bits, inverted)
    assert read_numbers(content, "it").tolist() == numbers.tolist()


@pytest.mark.parametrize("largest", [2, 20, 255, 300, 65535])
@pytest.mark.parametrize("text", [False, True])
def test_numbers_in_a_pgm_whatever_its_largest(largest, text):
    """Pillow scales them, so that the largest is white."""
    numbers = np.array([[0, 1, 2], [2, 1, min(largest, 299)]])
    values = (
        " ".join(map(str, numbers.ravel())).encode()
        if text
        else numbers.astype("u1" if largest < 256 else ">u2").tobytes()
    )
    found = read_numbers(b"P%d\n3 2\n%d\n" % (2 if text else 5, largest) + values, "it")
    assert found.tolist() == numbers.tolist() and found.dtype.isnative
