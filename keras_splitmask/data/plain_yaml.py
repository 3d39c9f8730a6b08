"""Read the few keys that a data.yaml of YOLO has: texts, numbers, and lists or tables of them.

This is the part of YAML that such files use, so that no other package is needed. Nested values deeper than that,
anchors and tags are refused where they are asked for, and skipped elsewhere.
"""

import re

KEY = re.compile(r"""("[^"]*"|'[^']*'|[^\s:#"'{}\[\],&*!|>][^:]*):(?:\s+(.*))?$""")
QUOTED = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^']|'')*)')\s*(?:#.*)?$""")
PART = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^,]*)\s*(?:,|$)""")
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


def read(text, keys):
    """Return {key: text, list or dictionary of texts} of those of `keys` that are at the top level of the file.

    Raises:
        ValueError: with the line, if a value cannot be read.
    """
    blocks, block = {}, None  # {key: (number of its line, rest of the line, lines below it)}
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        bare = _bare(line)
        if not bare or bare in ("---", "..."):
            continue
        found = KEY.match(bare) if not (line[0].isspace() or bare.startswith("- ")) else None
        if found:
            block = blocks.setdefault(_plain(found[1], number), (number, found[2] or "", []))
        elif block:  # indented, or a list below its key, which need not be
            block[2].append((number, bare.strip()))
    return {key: _value(*blocks[key]) for key in keys if key in blocks}


def _value(number, rest, lines):
    if rest[:1] in ("[", "{") or not (rest or lines):
        end = next((i for i, (_, line) in enumerate(lines) if line[-1] in "]}"), len(lines))
        more = [] if rest[-1:] in ("]", "}") else [line for _, line in lines[: end + 1]]  # a list over several lines
        return _inline(" ".join([rest, *more]), number) if rest else ""
    if rest:
        if lines or rest[0] in "&*!|>":
            raise _unreadable(number, rest)
        return _plain(rest, number)
    if all(line[:1] == "-" for _, line in lines):
        return [_plain(line[1:].strip(), at) for at, line in lines]
    return dict(_pair(line, at) for at, line in lines)


def _inline(text, number):
    """[a, b] or {0: a, 1: b}."""
    if text[0] + text[-1] not in ("[]", "{}") or len(text) < 2 or set(text[1:-1]) & set("[]{}"):
        raise _unreadable(number, text)
    parts = [part for part in (match[1].strip() for match in PART.finditer(text[1:-1])) if part]
    return [_plain(part, number) for part in parts] if text[0] == "[" else dict(_pair(part, number) for part in parts)


def _pair(text, number):
    found = KEY.match(text)
    if not found or not found[2]:
        raise _unreadable(number, text)
    return _plain(found[1], number), _plain(found[2], number)


def _plain(text, number):
    """A text without its quotes."""
    if text[:1] not in ("'", '"'):
        if text[:1] in tuple("[{&*!|>"):
            raise _unreadable(number, text)
        return text.strip()
    found = QUOTED.match(text)
    if not found:
        raise _unreadable(number, text)
    if found[2] is not None:
        return found[2].replace("''", "'")
    return re.sub(r"\\(.)", lambda match: ESCAPES.get(match[1], match[1]), found[1])


def _bare(line):
    """A line without its comment."""
    quote, first = None, len(line) - len(line.lstrip())
    for i, c in enumerate(line):
        if quote:
            quote = None if c == quote else quote
        elif c in "'\"" and (i == first or line[i - 1] in " [{,:-"):
            quote = c
        elif c == "#" and (i == 0 or line[i - 1].isspace()):
            return line[:i].rstrip()
    return line.rstrip()


def _unreadable(number, text):
    return ValueError(f"line {number} cannot be read: {text[:60]}")
