"""Write numbers of things in words."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Write a number of things, such as "1 image" or "2 images". The plural of the noun has an s, or es after an s."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"
