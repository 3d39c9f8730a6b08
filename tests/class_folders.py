"""Class folders of small images, and the flags of finetune.py that train on them in seconds."""

from PIL import Image

FOLDERS = (
    "--size=vit_micro",
    "--patch_size=4",
    "--image_size=8",
    "--batch_size=4",
    "--steps=1",
    "--workers=1",
    "--drop_path=0",
)


def noise(root, rng, **counts):
    """Images of noise in a folder for each class: a=10, or train__a=10 for train/a."""
    for folder, count in counts.items():
        folder = root / folder.replace("__", "/")
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), "uint8")).save(folder / f"{i}.png")
    return f"--dataset=folder:{root}"


def splits_of(path):
    """{split: names} of a split.csv without names that hold commas."""
    found = {}
    for line in path.read_text().splitlines()[1:]:
        name, split = line.rsplit(",", 1)
        found.setdefault(split, set()).add(name)
    return found
