"""--preset of pretrain.py: SplitMask as published, or for small budgets.

docs/results.md has what was measured of both, in 8 to 30 minutes on a CPU.
"""

# Values of flags. The paper's keep and augmentation follow from the images; see `auto`.
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
        "augmentation": "dino",
    },
}
FLAGS = ("keep", *PRESETS["paper"])  # that SplitMask alone reads, or with BEiT
LEARNING_RATES = {"small": 1e-3, "paper": 5e-4}  # at least, whatever the batch
# At least. They take as long as 3,000 to 3,600 of the paper's.
STEPS = {"small": 8_000}
LARGE = 80  # pixels of a side: from here on, dino's hue and blur take as long as the rest of a step
FEW_PATCHES = 16  # below, a quarter of them says little


def values_of(preset, image_size, patches):
    """The values that a preset gives to flags, for images of (height, width) pixels and this many patches."""
    values = dict(PRESETS[preset])
    if preset == "small" and image_size[0] * image_size[1] >= LARGE**2:
        values["augmentation"] = "crop_colour"
    if preset == "small" and patches < FEW_PATCHES:
        del values["keep"]
    return values
