"""Read from the header of a JPEG how much work its decoding takes."""

import dataclasses

from keras_splitmask.data.tags import check_block

START = b"\xff\xd8\xff"  # how a JPEG begins
APP1, APP2, START_OF_SCAN = 0xE1, 0xE2, 0xDA
ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length: TEM, RST0 to RST7 and the start of the image
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))  # SOF0 to SOF15
PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
MAX_SEGMENTS = 10_000  # before the pixels; an ICC profile of 16 MB takes 255


@dataclasses.dataclass
class Jpeg:
    """The header of a JPEG.

    Attributes:
        samples: stored for each pixel: 3 for colour, 1.5 if its chroma has a quarter of the resolution. 4 if there is
            no such header.
        buffered: whether a decoder keeps all coefficients, 2 bytes a sample, since the pixels come in several scans.
        scans: how many there may be in this content.
        may_turn: whether there is an APP1 segment, where EXIF and XMP say how to turn the image.
        whole: whether the content reaches up to the pixels.
    """

    samples: float = 4.0
    buffered: bool = True
    scans: int = 1
    may_turn: bool = False
    whole: bool = False


def look(content):
    """The `Jpeg` header of a file's content.

    Raises:
        ValueError: if a decoder would take very long, or much memory, for the header alone.
    """
    found = Jpeg(scans=count_scans(content))
    components, exif = 0, b""
    for number, (marker, segment) in enumerate(_segments(content)):
        if number > MAX_SEGMENTS:
            raise ValueError(f"a header of more than {MAX_SEGMENTS} segments")
        if marker == APP1:
            found.may_turn = True
            exif += segment.removeprefix(b"Exif\0\0") if segment.startswith(b"Exif\0\0") else b""
        elif marker == APP2 and segment.startswith(b"MPF\0"):
            check_block(segment[4:])
        elif marker in FRAMES and len(segment) >= 9:
            components = segment[5]
            # A byte for each component: how often it is sampled across (upper half) and down (lower half).
            sides = [(code >> 4, code & 15) for code in segment[7 : 6 + 3 * components : 3]]
            largest = max(across for across, _ in sides) * max(down for _, down in sides)
            # Chroma of half the resolution in both directions: (2 x 2 + 1 + 1) / (2 x 2) = 1.5 samples a pixel.
            found.samples = sum(across * down for across, down in sides) / max(1, largest)
            found.buffered = marker in PROGRESSIVE
        elif marker == START_OF_SCAN:
            # A first scan of some components only: the decoder keeps all coefficients until the others have come.
            found.buffered |= segment[:1] != bytes([components])
            found.whole = True
    check_block(exif)
    return found


def count_scans(content):
    """Count the scans that begin in some bytes of a file."""
    # Among coded pixels a byte 0xFF is followed by 0, so this pair is a marker.
    return content.count(bytes((0xFF, START_OF_SCAN)))


def _segments(content):
    """The second bytes of the markers up to the first scan, with what belongs to each."""
    place = 2  # behind FF D8, the start of the image
    while (place := content.find(b"\xff", place)) >= 0:
        while content[place : place + 1] == b"\xff":  # any number of fill bytes may stand before the second byte
            place += 1
        if place >= len(content):
            return
        marker, length = content[place], int.from_bytes(content[place + 1 : place + 3])
        place += 1
        if marker not in ALONE and marker != 0:  # zero: no marker, but bytes that a decoder skips
            yield marker, content[place + 2 : place + length]
            place += length  # which counts its own two bytes
        if marker == START_OF_SCAN:
            return
