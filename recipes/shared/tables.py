"""The tables of the paper and its poster: the runs of each cell at the paper's scale, and the paper's numbers. And the
table of another library, on Imagenette."""

import dataclasses

from recipes.shared import small_tables
from recipes.shared.table_parts import Column, Row, Table, best_linear, flags, hours, percent, top1

DIVERGED = "diverged"  # in place of a number that the paper does not have because the run diverged

SMALL, BASE = "--size=vit_small", "--size=vit_base"
IMAGENET = (flags("paper/imagenet"),)
BEIT, RANDOM, DALLE = "--method=beit", "--method=random", ("--tokenizer=dalle", "--dalle_weights=encoder.pkl")
DEIT = (*IMAGENET, flags("paper/deit"))
# name of the column: (the flag files of the data set, what it is fine-tuned by)
TARGETS = {
    "iNat18": ("inat18", "finetune_large", "--dataset=tfds:i_naturalist2018"),
    "iNat19": ("inat19", "finetune_large", "--dataset=folder:inat2019"),
    "Food": ("food", "finetune_large", "--dataset=tfds:food101"),
    "Cars": ("cars", "finetune_small", "--dataset=tfds:cars196"),
    "Clipart": ("clipart", "finetune_small", "--dataset=tfds:domainnet/clipart"),
    "Painting": ("painting", "finetune_small", "--dataset=tfds:domainnet/painting"),
    "Sketch": ("sketch", "finetune_small", "--dataset=tfds:domainnet/sketch"),
}


def tuned(name, data=None):
    """Describe fine-tuning on a target, after pre-training on the same target or on `data`."""
    own, recipe, dataset = TARGETS[name]
    return Column(name, "finetune", (flags(f"paper/{recipe}"), dataset), top1, data=data or own)


ABLATION = Table(
    "Table 8: ViT-B on ImageNet, 300 epochs",
    "split / inpaint / match",
    (
        Column("fine-tuned", "finetune", (flags("paper/finetune_imagenet"), "--dataset=tfds:imagenet2012"), top1),
        Column(
            "linear",
            "probe",
            ("--dataset=tfds:imagenet2012", "--judge=val", "--epochs=100", "--learning_rate=4e-3"),
            best_linear,
        ),
        Column("hours", "pretrain", (), hours),
    ),
    (
        Row("BEiT: no / yes / no", (*IMAGENET, BASE, BEIT), (82.8, 41.0, 32.5)),
        Row("yes / yes / no", (*IMAGENET, BASE, "--match_weight=0"), (83.3, 46.4, 31.0)),
        Row("yes / no / yes", (*IMAGENET, BASE, "--inpaint_weight=0"), (79.3, 4.0, 32.5)),
        Row("yes / yes / yes", (*IMAGENET, BASE), (83.6, 46.5, 34.0)),
    ),
)

TOKENIZERS = Table(
    "Table 2: BEiT, ViT-S on ImageNet, fine-tuned on iNaturalist 2019",
    "tokenizer",
    (tuned("iNat19"),),
    (
        Row("DALL-E", (*IMAGENET, SMALL, BEIT, *DALLE), (75.2,)),
        Row("random projection", (*IMAGENET, SMALL, BEIT, "--tokenizer=random_projection"), (75.2,)),
        Row("random patches", (*IMAGENET, SMALL, BEIT, "--tokenizer=random_patches"), (75.3,)),
        Row("k-means", (*IMAGENET, SMALL, BEIT, "--tokenizer=kmeans", "--fit_patches=3000000"), (75.0,)),
    ),
)

EFFICIENCY = Table(
    "Table 1: ViT-S, fine-tuned on iNaturalist 2019",
    "pre-training",
    tuple(
        dataclasses.replace(tuned("iNat19", data), name=name)
        for name, data in (
            ("ImageNet, 1%", "imagenet_1pct"),
            ("ImageNet, 10%", "imagenet_10pct"),
            ("ImageNet", "imagenet"),
            ("COCO", "coco"),
        )
    ),
    (
        Row("Supervised", (flags("paper/{data}"), flags("paper/deit"), SMALL), (71.6, 75.0, 75.8, None)),
        Row("DINO", (flags("paper/{data}"), flags("paper/dino"), SMALL), (70.1, 73.1, 78.4, 71.9)),
        Row("BEiT", (flags("paper/{data}"), SMALL, BEIT), (74.1, 74.5, 75.2, 74.4)),
        Row("SplitMask", (flags("paper/{data}"), SMALL), (74.8, 75.4, 75.4, 76.3)),
    ),
)


def of_size(name, size, random, deit, beit, beit_on_target, splitmask):
    """List the rows of Table 6 for one encoder."""
    return (
        Row(f"{name} random", (flags("paper/{data}"), size, RANDOM), random),
        Row(f"{name} DeiT, ImageNet", (*DEIT, size), deit),
        Row(f"{name} BEiT, ImageNet", (*IMAGENET, size, BEIT, *DALLE), beit),
        Row(f"{name} BEiT, target", (flags("paper/{data}"), size, BEIT), beit_on_target),
        Row(f"{name} SplitMask, target", (flags("paper/{data}"), size), splitmask),
    )


TARGET_ONLY = Table(
    "Table 6: pre-trained only on the target data",
    "pre-training",
    tuple(tuned(name) for name in TARGETS),
    (
        *of_size(
            "ViT-S",
            SMALL,
            random=(59.6, 67.5, 84.7, 35.3, 41.0, 38.4, 37.2),
            deit=(69.9, 75.8, 91.5, 92.2, 79.6, 74.2, 72.5),
            beit=(68.1, 75.2, 90.5, 92.4, 75.3, 68.7, 68.5),
            beit_on_target=(68.8, 76.1, 90.7, 92.7, DIVERGED, 69.0, DIVERGED),
            splitmask=(70.1, 76.3, 91.5, 92.8, 78.3, 69.2, 70.7),
        ),
        *of_size(
            "ViT-B",
            BASE,
            random=(59.6, 68.1, 83.3, 36.9, 41.9, 37.6, 34.9),
            deit=(73.2, 77.7, 91.9, 92.1, 80.0, 73.8, 72.6),
            beit=(71.6, 78.6, 91.0, 93.9, 78.0, 71.5, 71.4),
            beit_on_target=(72.4, 79.3, 91.7, 92.7, DIVERGED, 70.7, DIVERGED),
            splitmask=(74.6, 80.4, 91.2, 93.1, 79.3, 72.0, 72.1),
        ),
    ),
)

# The poster's row "IMNet" has the numbers of DeiT, cell for cell.
ROBUSTNESS = Table(
    "The poster's robustness matrix: ViT-S, SplitMask",
    "pre-trained on",
    tuple(tuned(name) for name in ("iNat19", "iNat18", "Food", "Cars")),
    (
        Row("nothing", (flags("paper/{data}"), SMALL, RANDOM), (67.5, 59.6, 84.7, 35.3)),
        Row("ImageNet with labels", (*DEIT, SMALL), (75.8, 69.9, 91.5, 92.2)),
        *(
            Row(name, (flags(f"paper/{data}"), SMALL), paper)
            for name, data, paper in (
                ("iNat19", "inat19", (76.3, 70.1, 90.4, 91.7)),
                ("iNat18", "inat18", (75.1, 70.1, 90.4, 91.8)),
                ("Food", "food", (75.1, 68.6, 91.5, 91.7)),
                ("Cars", "cars", (71.3, 64.2, 87.0, 92.8)),
                ("COCO", "coco", (76.3, 69.5, 90.9, 93.0)),
            )
        ),
    ),
)


def detected(name, size, random, random_6x, deit, beit, dino, beit_on_coco, splitmask):
    """List the rows of Table 4 for one encoder."""
    coco = flags("paper/coco")
    return (
        Row(f"{name} random", (coco, size, RANDOM), random),
        Row(f"{name} random, 6x", (coco, size, RANDOM), random_6x, ("--epochs=72",)),
        Row(f"{name} DeiT, ImageNet", (*DEIT, size), deit),
        Row(f"{name} BEiT, ImageNet", (*IMAGENET, size, BEIT, *DALLE), beit),
        Row(f"{name} DINO, COCO", (coco, flags("paper/dino"), size), dino),
        Row(f"{name} BEiT, COCO", (coco, size, BEIT), beit_on_coco),
        Row(f"{name} SplitMask, COCO", (coco, size), splitmask),
    )


DETECT = ("detect", (flags("paper/detect_coco"),))
DETECTION = Table(
    "Table 4: Mask R-CNN on COCO, 36 epochs, or 72 (6x)",
    "pre-training",
    (
        Column("box AP", *DETECT, percent("result.json", "ap")),
        Column("mask AP", *DETECT, percent("result.json", "mask_ap")),
    ),
    (
        *detected(
            "ViT-S",
            SMALL,
            random=(38.3, 35.6),
            random_6x=(42.8, 39.1),
            deit=(44.2, 40.1),
            beit=(44.5, 40.3),
            dino=(43.7, 39.6),
            beit_on_coco=(44.7, 40.2),
            splitmask=(45.3, 40.6),
        ),
        *detected(
            "ViT-B",
            BASE,
            random=(40.7, 37.1),
            random_6x=(43.0, 38.8),
            deit=(45.5, 41.0),
            beit=(46.3, 41.6),
            dino=(43.1, 38.9),
            beit_on_coco=(46.7, 41.8),
            splitmask=(46.8, 42.1),
        ),
    ),
)

ADE20K = flags("paper/ade20k")
SEGMENTATION = Table(
    "Table 5: UPerNet on ADE20k, ViT-B",
    "pre-training",
    (Column("mIoU", "segment", (flags("paper/segment_ade20k"),), percent("result.json", "mean_iou")),),
    (
        Row("random", (ADE20K, BASE, RANDOM), (25.4,)),
        Row("DeiT, ImageNet", (*DEIT, BASE), (46.1,)),
        Row("BEiT, ImageNet", (*IMAGENET, BASE, BEIT, *DALLE), (45.6,)),
        Row("BEiT, ADE20k", (ADE20K, BASE, BEIT), (45.6,)),
        Row("SplitMask, ADE20k", (ADE20K, BASE), (45.7,)),
    ),
)

# 9,469 images of 10 classes for 200 epochs. Its BEiT has a stand-in for the visual words.
JUDGED = ("probe", ("--dataset={imagenette}", "--judge=val"))
IMAGENETTE = Table(
    "Imagenette: ViT-S, 200 epochs",
    "pre-training",
    (
        Column("20 neighbours", *JUDGED, percent("probe.json", "knn_accuracy")),
        Column("linear", *JUDGED, percent("probe.json", "linear_accuracy")),
    ),
    tuple(
        Row(name, (flags("imagenette"), "--dataset={imagenette}", *more), numbers)
        for name, more, numbers in (
            ("SplitMask small", ("--preset=small",), ()),
            ("SplitMask paper", ("--preset=paper",), ()),
            ("BEiT", (BEIT,), (22.0, 15.3)),
            ("MAE", ("--method=mae",), (72.1, 84.1)),
            ("DINO", ("--method=dino",), (83.8, 86.1)),
            ("nothing", (RANDOM,), ()),
        )
    ),
    numbers="stable-pretraining's",
)

TABLES = {
    "small": small_tables.TABLES,
    "paper": {
        "ablation": ABLATION,
        "tokenizers": TOKENIZERS,
        "sample_efficiency": EFFICIENCY,
        "target_only": TARGET_ONLY,
        "robustness": ROBUSTNESS,
        "detection": DETECTION,
        "segmentation": SEGMENTATION,
        "imagenette": IMAGENETTE,
    },
}
