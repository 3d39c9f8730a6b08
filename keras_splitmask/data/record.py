"""Facts about data in a JSON file, such as a run's data.json."""

import json
import os
from pathlib import Path

LONG = 1000  # files; indented, more take six times as long to write


def write(facts, path):
    """Writes a dictionary into a JSON file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    with open(
        aside, "w", encoding="ascii"
    ) as file:  # JSON escapes all else, so any file name can be written and read again
        file.write(json.dumps(facts, indent=1 if len(facts.get("files", ())) < LONG else None))
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
