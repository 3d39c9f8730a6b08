"""Parse small XML files that may come from anyone."""

import xml.etree.ElementTree as ET
from xml.parsers import expat

MAX_XML = 2_000_000  # bytes; an object takes about 300, and the tree of elements up to 50 times the file


def parse(content):
    """Parse the bytes of an XML file to an `Element`.

    A document type is refused before it is read: its entities may expand to any size, or name other files.

    Raises:
        ValueError: with the reason, if it cannot be parsed.
    """
    builder, parser = ET.TreeBuilder(), expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, _refuse
    try:
        parser.Parse(content, True)
        return builder.close()
    except (expat.ExpatError, LookupError, AssertionError) as error:  # LookupError: an unknown encoding
        raise ValueError(f"no XML: {error}") from error


def _refuse(*declaration):
    raise ValueError("an XML file with a document type, which may hide anything; remove its DOCTYPE")


def text_of(element, path):
    """The text of an element below another one, without spaces around it; empty if there is none."""
    return (element.findtext(path) or "").strip()
