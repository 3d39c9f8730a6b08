"""--preset of pretrain.py: SplitMask as published, or as it learns most in minutes to hours.

docs/results.md has what was measured of both.
"""

# Values of flags. The paper's keep follows from the images; see `auto`.
PRESETS = {
    "paper": {"views": "1", "split": "block", "decoder_depth": 2, "predicted": 1.0, "projector": 0, "temperature": 0.2},
    "small": {
        "views": "2",
        "keep": 0.25,
        "split": "random",
        "decoder_depth": 1,
        "predicted": 0.25,
        "projector": 256,
        "temperature": 0.1,
    },
}
FLAGS = ("keep", *PRESETS["paper"])
LEARNING_RATES = {"small": 1e-3, "paper": 5e-4}  # at least, whatever the batch
STEPS = {"small": 8_000}  # at least; they take as long as 3,000 of the paper's
LARGE = 80  # pixels of a side: from here on, dino's hue and blur take longer than the model does


def augmentation(preset, height, width):
    """The augmentation of a preset for images of this size; None for the paper's, which follows from the images."""
    if preset == "paper":
        return None
    return "crop_colour" if height * width >= LARGE**2 else "dino"
