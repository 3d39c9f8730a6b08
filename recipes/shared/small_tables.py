"""The tables of the paper and its poster at small scale: an encoder of 0.8 M weights, minutes for each cell."""

from recipes.shared.table_parts import Column, Row, Table, best_linear, flags, minutes, percent, top1

WORDS = ("--tokenizer=kmeans", "--vocabulary=512")
BEIT, RANDOM = "--method=beit", "--method=random"
INPAINT, MATCH = "--inpaint_weight=0", "--match_weight=0"
PRESET = ("--preset=small", "--learning_rate=1e-3")  # SplitMask for small budgets
PRESET_AND_COLOURS = (*PRESET, "--augmentation=dino")  # the preset's, in place of the flag file's
ALIKE = ("--layer_decay=1",)  # random weights have nothing to keep


def four_rows(*settings, preset):
    """List the rows of pre-training by `settings`, and of the small preset with more of them."""
    return (
        Row("random weights", (*settings, RANDOM), judge=ALIKE),
        Row("BEiT", (*settings, *WORDS, BEIT)),
        Row("SplitMask paper", (*settings, *WORDS)),
        Row("SplitMask small", (*settings, *WORDS, *preset)),
    )


# 28x28 grey images.

SAMPLE, ANY = flags("small/sample"), flags("small/any")
TUNED = ("fine-tuned on 1000 labels", "finetune", (flags("small/finetune"),), top1)
# DINO takes several times the others' time for a step, and so has half the steps. Its teacher follows faster than over
# 300 epochs.
DINO = (
    "--method=dino",
    "--augmentation=dino",
    "--prototypes=1024",
    "--local_crops=4",
    "--learning_rate=1e-3",
    "--teacher_momentum=0.98",
    "--steps=300",
)

ABLATION = Table(
    "Table 8 at small scale: 600 steps of 64 images of the sample",
    "split / inpaint / match",
    (
        Column(*TUNED),
        Column("linear", "probe", ("--dataset=sample",), best_linear),
        Column("minutes", "pretrain", (), minutes),
    ),
    (
        Row("BEiT: no / yes / no", (SAMPLE, *WORDS, BEIT), (82.8, 41.0, 32.5)),
        Row("yes / yes / no", (SAMPLE, *WORDS, MATCH), (83.3, 46.4, 31.0)),
        Row("yes / no / yes", (SAMPLE, *WORDS, INPAINT), (79.3, 4.0, 32.5)),
        Row("yes / yes / yes", (SAMPLE, *WORDS), (83.6, 46.5, 34.0)),
    ),
)

BLOCKS = Table(
    "The linear classifier by block at small scale: 600 steps of 64 images of the sample",
    "pre-training",
    tuple(
        Column(f"block {n}", "probe", ("--dataset=sample",), percent("probe.json", f"linear_accuracy_block_{n}"))
        for n in range(1, 5)
    ),
    (
        Row("random weights", (SAMPLE, RANDOM)),
        Row("BEiT", (SAMPLE, *WORDS, BEIT)),
        Row("SplitMask paper", (SAMPLE, *WORDS)),
    ),
)

LENGTH = Table(
    "The length of pre-training at small scale: steps of 64 images of the sample",
    "pre-training",
    tuple(
        Column(f"{steps} steps", *TUNED[1:], source=() if steps == 600 else (f"--steps={steps}",))  # 600 by the file
        for steps in (150, 300, 600, 1200, 2400)
    ),
    four_rows(SAMPLE, preset=PRESET_AND_COLOURS)[1:],
)

TOKENIZERS = Table(
    "Table 2 at small scale: BEiT, 600 steps of 64 images of the sample",
    "tokenizer",
    (Column(*TUNED),),
    tuple(
        Row(name.replace("_", " "), (SAMPLE, BEIT, f"--tokenizer={name}", "--vocabulary=512"), (number,))
        for name, number in (("random_projection", 75.2), ("random_patches", 75.3), ("kmeans", 75.0))
    ),
)

EFFICIENCY = Table(
    "Table 1 at small scale: what is pre-trained on CIFAR-10 in grey, or on the sample's own 10,000 images, fine-tuned"
    " on the sample",
    "pre-training",
    tuple(
        Column(name, *TUNED[1:], source=source)
        for name, source in (
            ("CIFAR-10, 1%", ("--dataset={cifar10}", "--subset=500")),
            ("CIFAR-10, 10%", ("--dataset={cifar10}", "--subset=5000")),
            ("CIFAR-10", ("--dataset={cifar10}",)),
            ("the sample [COCO]", ("--dataset=sample",)),
        )
    ),
    (
        Row("Supervised", (ANY, "--method=deit"), (71.6, 75.0, 75.8, None)),
        Row("DINO", (ANY, *DINO), (70.1, 73.1, 78.4, 71.9)),
        Row("BEiT", (ANY, *WORDS, BEIT), (74.1, 74.5, 75.2, 74.4)),
        Row("SplitMask", (ANY, *WORDS), (74.8, 75.4, 75.4, 76.3)),
    ),
)

# 32x32 colour images. A step of the small preset takes 0.37 times as long, so its runs have more steps.

COLOUR, LONGER = flags("small/colour"), "--steps=2200"
SETS = {
    "the sample": "--dataset=sample",
    "CIFAR-10": "--dataset={cifar10}",
    "groceries": "--dataset={groceries}",
    "MNIST": "--dataset={mnist}",
}


def tuned(name, **more):
    """Describe fine-tuning on one of the sets."""
    return Column(name, "finetune", (flags("small/finetune_colour"), SETS[name]), top1, **more)


TARGET_ONLY = Table(
    "Table 6 at small scale: pre-trained only on the target data, 800 steps of 64 images (SplitMask small: 2,200),"
    " fine-tuned on 1,000 labels",
    "pre-training",
    tuple(tuned(name, source=(place,)) for name, place in SETS.items()),
    four_rows(COLOUR, preset=(*PRESET_AND_COLOURS, LONGER)),
)

ROBUSTNESS = Table(
    "The poster's robustness matrix at small scale: SplitMask small, 2,200 steps of 64 images, fine-tuned on 1,000"
    " labels",
    "pre-trained on",
    tuple(map(tuned, SETS)),
    (
        Row("nothing", (COLOUR, RANDOM, SETS["the sample"]), judge=ALIKE),
        *(Row(name, (COLOUR, *WORDS, *PRESET_AND_COLOURS, LONGER, place)) for name, place in SETS.items()),
    ),
)

# Detection and segmentation, as in docs/dense.md. A step of the small preset takes 0.45 times as long.

DETECT = ("detect", (flags("small/detect_bccd"), "--dataset={bccd}"))
DETECTION = Table(
    "Table 4 at small scale: blood cells; 1,000 steps of 32 images (SplitMask small: 2,200), then 200 of 16 to detect",
    "pre-training",
    (
        Column("AP", *DETECT, percent("result.json", "ap")),
        Column("AP at 0.5", *DETECT, percent("result.json", "ap50")),
        Column("white cells", *DETECT, percent("result.json", "ap/WBC")),
    ),
    four_rows(flags("small/bccd"), "--dataset={bccd_images}", preset=(*PRESET, "--steps=2200")),
)

SEGMENT = ("segment", (flags("small/segment_camvid"), "--dataset={camvid}"))
SEGMENTATION = Table(
    "Table 5 at small scale: streets; 1,500 steps of 32 images (SplitMask small: 3,300), then 400 of 16 to segment",
    "pre-training",
    (
        Column("mean IoU", *SEGMENT, percent("result.json", "mean_iou")),
        Column("pixel accuracy", *SEGMENT, percent("result.json", "pixel_accuracy")),
    ),
    four_rows(flags("small/camvid"), "--dataset={camvid_images}", preset=(*PRESET, "--steps=3300")),
)

TABLES = {
    "ablation": ABLATION,
    "blocks": BLOCKS,
    "detection": DETECTION,
    "length": LENGTH,
    "robustness": ROBUSTNESS,
    "sample_efficiency": EFFICIENCY,
    "segmentation": SEGMENTATION,
    "target_only": TARGET_ONLY,
    "tokenizers": TOKENIZERS,
}
