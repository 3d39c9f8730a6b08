"""Write facts about data to a JSON file, such as the data.json of a run."""

import json
import os
from pathlib import Path

LONG = 1000  # files; more are written without indentation, which would take six times as long


def write(facts, path):
    """Write a dictionary to a JSON file, completely or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    # ASCII, since JSON escapes the rest: so any file name can be written and read again.
    with open(aside, "w", encoding="ascii") as file:
        file.write(json.dumps(facts, indent=1 if len(facts.get("files", ())) < LONG else None))
        file.flush()
        # Else the new name could hold an empty file after a power cut.
        os.fsync(file.fileno())
    os.replace(aside, path)
