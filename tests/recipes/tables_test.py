"""Every cell of the paper's tables: its flags are read, its model is built at full size, and its schedule is the
paper's. Nothing is trained."""

import math
import pathlib
import runpy
import types

import pytest

import keras_splitmask as ks
from recipes.shared import presets, table_parts

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "recipes"
TABLES = runpy.run_path(str(RECIPES / "shared" / "tables.py"))["TABLES"]
PLACES = {name: place for name, (place, _) in table_parts.PLACES.items()}
# Table 3: images, epochs, and millions of images seen.
SCHEDULES = {
    "imagenet": (1_281_167, 300, 384),
    "imagenet_10pct": (128_116, 3_000, 384),
    "imagenet_1pct": (12_811, 30_000, 384),
    "inat18": (437_513, 800, 350),
    "inat19": (265_240, 1_400, 371),
    "food": (75_750, 5_000, 379),
    "cars": (8_144, 5_000, 41),
    "clipart": (34_019, 5_000, 170),
    "painting": (52_867, 5_000, 264),
    "sketch": (49_115, 5_000, 246),
    "ade20k": (20_210, 21_000, 424),
    "coco": (118_287, 3_000, 355),
}
FEW = {"cars", "clipart", "painting", "sketch"}
# FACTS A.8: peak, schedule, layer decay, drop path, batch, epochs or steps; the numbers of the paper that the head of
# the file must tell.
DENSE = {
    "detect_coco": (
        "detect",
        (1e-4, "steps", 1.0, 0.05, 16),
        {"epochs": 36, "head": "maskrcnn", "positions": "sine_cosine"},
        "45.3 / 40.6",
    ),
    "segment_ade20k": (
        "segment",
        (7e-4, "linear", 0.65, 0.1, 16),
        {"steps": 160_000, "head": "upernet", "head_width": 768},
        "SplitMask 45.7",
    ),
}
# Of ViT-S/16 and ViT-B/16 on 224 pixels: patches, positions and cls, blocks, last norm.
WEIGHTS = {
    "vit_small": 16 * 16 * 3 * 384 + 384 + 197 * 384 + 12 * (12 * 384**2 + 13 * 384) + 2 * 384,
    "vit_base": 16 * 16 * 3 * 768 + 768 + 197 * 768 + 12 * (12 * 768**2 + 13 * 768) + 2 * 768,
}


def cells():
    return [
        (scale, name, row, column)
        for scale, tables in TABLES.items()
        for name, table in tables.items()
        for row, column, _ in table.cells()
    ]


def arguments(texts, column):
    return [text.replace("=recipes/", f"={RECIPES}/") for text in table_parts.filled(texts, column, PLACES)]


@pytest.mark.parametrize("scale, table", [(scale, name) for scale, tables in TABLES.items() for name in tables])
def test_the_flags_of_every_cell_are_read(parsed, scale, table):
    for row, column, _ in TABLES[scale][table].cells():
        with parsed("pretrain", *arguments((*row.pretrain, *column.source), column)) as recipe:
            assert recipe.flags.dataset, (row.name, column.name)
        if column.recipe != "pretrain":
            with parsed(column.recipe, *arguments((*column.judge, *row.judge), column)) as recipe:
                assert recipe.flags.dataset, (row.name, column.name)


def test_every_flagfile_belongs_to_a_table_or_is_listed():
    used = {
        text.removeprefix("--flagfile=")
        for _, _, row, column in cells()
        for text in arguments((*row.pretrain, *column.judge), column)
    }
    files = {str(path) for scale in ("paper", "small") for path in (RECIPES / "flags" / scale).glob("*.flags")}
    assert files - used == {str(RECIPES / "flags" / "paper" / "mae.flags")}


def test_runs_of_one_folder_have_the_same_arguments(parsed):
    with parsed("reproduce", "--table=ablation", "--workdir=runs") as recipe:
        runs = {}
        for scale, _, row, column in cells():
            for folder, program, given in recipe.commands(row, column, 0):
                assert runs.setdefault((scale, folder), (program, given)) == (program, given)
                assert len(folder.name) < 200


@pytest.mark.parametrize(
    ("scale", "one", "other", "count"),
    [
        ("small", "blocks", "ablation", 2),
        ("small", "length", "ablation", 2),
        ("small", "robustness", "target_only", 5),
        ("paper", "detection", "sample_efficiency", 4),
        ("paper", "detection", "target_only", 4),
        ("paper", "segmentation", "target_only", 2),
    ],
)
def test_tables_share_runs_of_pretraining(parsed, scale, one, other, count):
    with parsed("reproduce", "--table=ablation", "--workdir=runs") as recipe:
        runs = [
            {recipe.commands(row, column, 0)[0][0] for row, column, _ in TABLES[scale][name].cells()}
            for name in (one, other)
        ]
        assert len(runs[0] & runs[1]) == count


@pytest.mark.parametrize("name", ["target_only", "robustness"])
def test_an_encoder_of_the_small_sets_fits_all_of_them(parsed, name):
    for row, column, _ in TABLES["small"][name].cells():
        with parsed("pretrain", *arguments((*row.pretrain, *column.source), column)) as recipe:
            given = recipe.flags
            assert (given.image_size, given.channels, given.patch_size, given.size) == ("32", 3, 4, "vit_micro")
            steps = 2200 if "--preset=small" in row.pretrain else 800
            assert (given.steps, given.batch_size) == (steps, 64)


class Images:
    """A source as the recipe of pre-training asks for."""

    class_count = 10

    def __len__(self):
        return 51_200


# By batches of 1024: the peak, its end, warm-up and epochs, decay, clipping, drop path, AdamW's second moment.
METHODS = {
    "splitmask": (1.5e-3 / 2, 1e-5, 10 / 300, 0.05, 3.0, 0.1, 0.999),
    "beit": (1.5e-3 / 2, 1e-5, 10 / 300, 0.05, 3.0, 0.1, 0.999),
    "mae": (6e-4, 0.0, 40 / 800, 0.05, None, 0.0, 0.95),
    "deit": (1e-3, 1e-5, 5 / 300, 0.05, None, 0.1, 0.999),
    "dino": (2e-3, 1e-5, 10 / 300, 0.04, 3.0, 0.1, 0.999),
}
TINY = ("--dataset=sample", "--size=vit_micro", "--patch_size=4", "--batch_size=1024", "--accumulate=1")
# What recipes/shared/settings.py, which these tests do not run, chooses.
OF_PRESET = {
    "splitmask": tuple(f"--{name}={value}" for name, value in presets.PRESETS["paper"].items()),
    "beit": ("--split=block",),
}
CHOSEN = {
    "splitmask": ("--vocabulary=8", "--tokenizer=kmeans", "--keep=0.5", *OF_PRESET["splitmask"]),
    "beit": ("--vocabulary=8", "--tokenizer=kmeans", *OF_PRESET["beit"]),
    "dino": ("--prototypes=8", "--teacher_momentum=0.996"),
}


def recipe_of(model):
    """What an optimizer was given, in the order of `METHODS`."""
    rate, decay = model.optimizer._learning_rate, model.optimizer.weight_decay
    clip = model.optimizer.clipnorm if model.name == "dino" else model.optimizer.global_clipnorm
    drop = model.encoder.get_config()["drop_path"]
    return (
        rate.peak,
        rate.floor,
        rate.warmup / rate.steps,
        getattr(decay, "peak", decay),
        clip,
        drop,
        model.optimizer.beta_2,
    )


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_by_its_authors_recipe_unless_a_flag_is_typed(parsed, method):
    own = CHOSEN.get(method, ())
    with parsed("pretrain", *TINY, *own, f"--method={method}") as recipe:
        made = recipe.build_model(Images(), (8, 8, 3), None, 2400)
        assert recipe_of(made) == pytest.approx(METHODS[method])
    typed = [
        "--learning_rate=0.1",
        "--min_learning_rate=0.01",
        "--warmup=0.5",
        "--weight_decay=0.2",
        "--clip_norm=7",
        "--drop_path=0.3",
        "--beta_2=0.9",
    ]
    with parsed("pretrain", *TINY, *own, *typed, f"--method={method}") as recipe:
        made = recipe.build_model(Images(), (8, 8, 3), None, 2400)
        assert recipe_of(made) == pytest.approx((0.1, 0.01, 0.5, 0.2, 7, 0.3, 0.9))


@pytest.mark.parametrize("method", ["mae", "deit"])
def test_the_flag_file_of_a_method_is_its_authors_recipe(parsed, method):
    files = [f"--flagfile={RECIPES}/flags/paper/{name}.flags" for name in ("imagenet", method)]
    with parsed("pretrain", *files, "--size=vit_small") as recipe:
        given = recipe.flags
        batch = {"mae": 4096, "deit": 1024}[method]
        peak, floor, warmup, decay, clip, drop, beta_2 = METHODS[method]
        assert (given.method, given.batch_size, given.learning_rate) == (
            method,
            batch,
            pytest.approx(peak * batch / 1024),
        )
        assert (
            given.min_learning_rate,
            given.weight_decay,
            given.clip_norm or None,
            given.drop_path,
            given.beta_2,
        ) == (floor, decay, clip, drop, beta_2)
        assert given.warmup == pytest.approx(warmup, rel=1e-3)
        if method == "mae":
            assert (given.mask_ratio, given.mae_decoder_depth, given.mae_decoder_width, given.positions) == (
                0.75,
                8,
                512,
                "sine_cosine",
            )
    head = (RECIPES / "flags" / "paper" / f"{method}.flags").read_text()
    assert f"--flagfile=recipes/flags/paper/{method}.flags" in head and "Hardware" in head


def test_cells_of_the_small_tables_are_unchanged(parsed):
    """The settings of all methods from before each had its authors'."""
    table = TABLES["small"]["sample_efficiency"]
    for row, column, _ in table.cells():
        with parsed("pretrain", *arguments((*row.pretrain, *column.source), column)) as recipe:
            given = recipe.flags
            assert (given.min_learning_rate, given.warmup, given.clip_norm, given.drop_path, given.beta_2) == (
                1e-5,
                10 / 300,
                3.0,
                0.0,
                0.999,
            )


@pytest.mark.parametrize("data", SCHEDULES)
def test_schedules_are_the_papers(parsed, data):
    images, epochs, millions = SCHEDULES[data]
    with parsed("pretrain", f"--flagfile={RECIPES}/flags/paper/{data}.flags", "--size=vit_small") as recipe:
        assert recipe.flags.epochs == epochs and recipe.flags.batch_size == 2048
        steps = recipe.count_steps(images)
        assert round(steps * 2048 / 1e6) == millions
        assert (recipe.flags.keep, recipe.flags.split) == ((0.25, "random") if data in FEW else (0.5, "block"))
        augmentation = {"ade20k": "quarter_crop_flip"}.get(data, "three_augment" if data in FEW else "crop_flip")
        assert recipe.flags.augmentation == augmentation
        head = (RECIPES / "flags" / "paper" / f"{data}.flags").read_text()
        assert (
            f"{images:,} images, {epochs:,} epochs" in head
            and "python recipes/pretrain.py --flagfile=recipes/flags/paper/" in head
            and "Hardware" in head
        )


# Table 9, and BEiT's for ImageNet: peak and layer decay, epochs of warm-up and in all, repeats, RandAugment, erasing.
FINE_TUNING = {
    "finetune_large": (1.4e-4, 1.0, 5, 300, 3, 7, 0.0),
    "finetune_small": (4e-3, 0.65, 60, 300, 1, 9, 0.0),
    "finetune_imagenet": (4e-3, 0.65, 20, 100, 1, 9, 0.25),
}


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_is_the_papers(parsed, name):
    peak, decay, warmup, epochs, repeats, magnitude, erasing = FINE_TUNING[name]
    file = RECIPES / "flags" / "paper" / f"{name}.flags"
    with parsed("finetune", f"--flagfile={file}", "--dataset=sample") as recipe:
        given = recipe.flags
        assert (given.learning_rate, given.layer_decay, given.epochs, given.repeats) == (peak, decay, epochs, repeats)
        assert given.warmup * epochs == pytest.approx(warmup, rel=1e-3)
        assert (given.rand_augment, given.random_erasing, given.mixup, given.cutmix, given.label_smoothing) == (
            magnitude,
            erasing,
            0.8,
            1.0,
            0.1,
        )
        assert (given.batch_size, given.weight_decay, given.drop_path, given.crop_ratio, given.image_size) == (
            1024,
            0.05,
            0.1,
            0.875,
            "224",
        )
    assert (
        "python recipes/finetune.py --flagfile=recipes/flags/paper/" in file.read_text()
        and "Hardware" in file.read_text()
    )


@pytest.mark.parametrize("size", WEIGHTS)
@pytest.mark.parametrize("method", ["splitmask", "beit"])
def test_models_are_built_at_full_size(parsed, method, size):
    file = f"--flagfile={RECIPES}/flags/paper/imagenet.flags"
    own = (f"--size={size}", f"--method={method}", "--accumulate=1", *OF_PRESET[method])
    with parsed("pretrain", file, *own) as recipe:
        steps = recipe.count_steps(1_281_167)
        model = recipe.build_model(None, (224, 224, 3), None, steps)
        assert model.encoder.count_params() == WEIGHTS[size]
        assert model.tokenizer.vectors.shape == (8192, 8 * 8 * 3)
        rate = model.optimizer._learning_rate
        assert (rate.peak, rate.floor, rate.steps, rate.warmup) == (1.5e-3, 1e-5, 187_671, 6_256)
        assert model.optimizer.weight_decay == 0.05 and model.optimizer.global_clipnorm == 3


@pytest.mark.parametrize("name", DENSE)
def test_dense_tasks_are_the_papers(parsed, name):
    recipe_name, settings, more, told = DENSE[name]
    file = RECIPES / "flags" / "paper" / f"{name}.flags"
    with parsed(recipe_name, f"--flagfile={file}", "--init_from=x") as recipe:
        given = recipe.flags
        assert (given.learning_rate, given.schedule, given.layer_decay, given.drop_path, given.batch_size) == settings
        assert {name: given[name].value for name in more} == more
        assert given.weight_decay == 0.05 and given.neck == "blocks"
    head = file.read_text()
    assert (
        told in head
        and f"python recipes/{recipe_name}.py --flagfile=recipes/flags/paper/{name}.flags" in head
        and "Hardware" in head
    )


def pyramid_of(width):
    """The weights of the feature pyramid: norms of three blocks, transposed convolutions, a norm between two."""
    return 3 * 2 * width + (4 * width**2 + 4 * width) * 3 + 2 * width


def test_segmenters_are_built_at_full_size(parsed):
    """With as many weights as by hand: the encoder on its own grid, the pyramid, UPerNet and the auxiliary head."""
    width, classes = 768, 150
    pooled = 4 * (width**2 + 3 * width) + 9 * (5 * width) * width + 2 * width
    finer = 3 * (width**2 + 3 * width + 9 * width**2 + 2 * width)
    last = 9 * (4 * width) * width + 2 * width + (width + 1) * classes
    auxiliary = 9 * width * 256 + 2 * 256 + 257 * classes
    file = RECIPES / "flags" / "paper" / "segment_ade20k.flags"
    with parsed("segment", f"--flagfile={file}", "--size=vit_base", "--patch_size=16") as recipe:
        encoder = recipe.dense.encoders.fresh_encoder((512, 512, 3), positions="learned")
        given = recipe.flags
        model = ks.transfer.Segmenter(encoder, classes, given.head, given.neck, given.head_width)
        count = sum(math.prod(v.shape) for v in model.trainable_variables)
        of_encoder = WEIGHTS["vit_base"] + (32**2 - 14**2) * width
        assert count == of_encoder + pyramid_of(width) + pooled + finer + last + auxiliary


@pytest.mark.parametrize("size", WEIGHTS)
def test_dense_models_are_built_at_full_size(parsed, size):
    """With as many weights as by hand: the encoder on its own grid, the pyramid, the head."""
    width = {"vit_small": 384, "vit_base": 768}[size]
    file = RECIPES / "flags" / "paper" / "detect_coco.flags"
    with parsed("detect", f"--flagfile={file}", f"--size={size}", "--patch_size=16") as recipe:
        encoder = recipe.dense.encoders.fresh_encoder((800, 1344, 3), positions="sine_cosine")
        model = recipe.build_model(encoder, types.SimpleNamespace(classes=[f"class {i}" for i in range(80)]))
        neck = 4 * (width * 256 + 256) + 4 * (9 * 256**2 + 256)
        proposals = 9 * 256**2 + 256 + 15 * 257
        regions = 49 * 256 * 1024 + 1024 + 1024**2 + 1024 + (81 + 4 * 80) * 1025
        masks = 4 * (9 * 256**2 + 256) + 4 * (256**2 + 256) + 80 * 257
        count = sum(math.prod(v.shape) for v in model.trainable_variables)
        assert count == WEIGHTS[size] - 196 * width + pyramid_of(width) + neck + proposals + regions + masks
        assert len(model.anchors[0]) == 3 * sum(math.ceil(800 / s) * math.ceil(1344 / s) for s in (4, 8, 16, 32, 64))
