"""Check the tags of a TIFF file or an EXIF block before a decoder copies them."""

import struct

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # how they begin: of either byte order, with offsets of 32 or 64 bits
WIDTHS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # bytes of each type
TEXTS = (1, 2, 6, 7)  # types that are not taken apart into numbers
MAX_NUMBERS = 1_000_000  # in all tags; each takes 40 bytes once it is a Python number


def check_tags(read, size):
    """Raise ValueError if the tags claim more than the file has: many that share their bytes would each get a copy of
    them.

    Args:
        read: a function (place, length) -> bytes of the file or block, fewer at its end.
        size: bytes of it.
    """
    start = read(0, 16)
    if start[:4] not in STARTS:
        return
    # 43 marks a BigTIFF: its offsets and counts have 64 bits, its entries 20 bytes instead of 12.
    order, large = "<" if start[:2] == b"II" else ">", 43 in start[2:4]
    place = struct.unpack_from(order + ("Q" if large else "I"), start.ljust(16, b"\0"), 8 if large else 4)[0]
    width, entry = (8, 20) if large else (2, 12)
    head = read(place, width)
    if place >= size or len(head) < width:
        return
    entries = read(place + width, min(size, entry * int.from_bytes(head, "little" if order == "<" else "big")))
    claimed = numbers = 0
    for _, kind, count in struct.iter_unpack(
        order + ("HHQ8x" if large else "HHI4x"), entries[: len(entries) // entry * entry]
    ):
        if (length := WIDTHS.get(kind, 1) * count) <= size:  # a longer one is cut short, which its reader notices
            claimed += length
            numbers += 0 if kind in TEXTS else count
    if claimed > size + (1 << 16):
        raise ValueError(f"tags of {claimed} bytes in {size}: they share their bytes")
    if numbers > MAX_NUMBERS:
        raise ValueError(f"tags of {numbers} numbers, more than {MAX_NUMBERS}")


def check_block(content):
    """`check_tags` of bytes, with or without what EXIF blocks begin with."""
    content = content.removeprefix(b"Exif\0\0")
    check_tags(lambda place, length: content[place : place + length], len(content))
