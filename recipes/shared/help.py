"""--help and --helpfull of every recipe: the flags that most runs need, then the others by subject."""

import os
import re
import shutil
import sys
import textwrap

from absl import flags

from recipes.shared import screen

FLAGS = flags.FLAGS
SHORT, FULL = {"help", "h", "?", "helpshort"}, {"helpfull"}
# What a beginner sets, at most ten flags of each program.
FIRST = {
    "pretrain": "dataset workdir image_size size epochs time dry_run batch_size probe flagfile",
    "finetune": "init_from dataset workdir labelled val image_size size batch_size epochs flagfile",
    "predict": "init_from images output top least_score pictures array batch_size overwrite",
    "embed": "init_from images output features duplicates outliers neighbours near array batch_size",
    "probe": "init_from dataset workdir judge train_limit features",
    "detect": "init_from dataset workdir image_size head size patch_size batch_size epochs pictures",
    "segment": "init_from dataset workdir image_size head size patch_size batch_size epochs pictures",
    "export": "init_from output layout what resize quantize images",
    "report": "runs output backend precision flagfile",
    "reproduce": "dataset methods time steps seeds labelled workdir table scale list",
}
# The subjects in their order. A flag that has another subject in one program is written program.flag.
SUBJECTS = {
    "The run": "runs report.output workdir overwrite flagfile time dry_run seed",
    "Images": "dataset images array subset labelled image_size channels value_range augmentation scale largest_class"
    " colour_jitter crop_ratio max_objects max_bad_fraction cache data_dir",
    "Encoder": "init_from size patch_size positions drop_path frozen random",
    "Method": "method",
    "Visual words": "tokenizer vocabulary fit_patches word_resolution dalle_weights dalle_sha256",
    "SplitMask": "preset views keep split decoder_depth predicted projector inpaint_weight match_weight temperature",
    "BEiT and MAE": "mask_ratio mae_decoder_depth mae_decoder_width",
    "DINO": "local_crops prototypes teacher_momentum teacher_temperature frozen_epochs final_weight_decay",
    "Head": "head masks neck head_width levels anchor_scale samples proposals auxiliary_weight dropout",
    "Steps and learning rate": "batch_size epochs steps learning_rate min_learning_rate schedule warmup layer_decay",
    "Regularisation": "weight_decay clip_norm beta_2 label_smoothing mixup cutmix rand_augment random_erasing repeats"
    " class_weight",
    "Predictions": "top least_score max_detections score_threshold iou_threshold",
    "Comparisons": "duplicates threshold outliers embed.neighbours near",
    "Evaluation": "finetune.split probe.split groups val judge judge_every judge_limit inference train_limit"
    " test_limit neighbours features probe probe_limit probe_every",
    "Log and pictures": "log_every logger pictures",
    "Checkpoints": "save_every keep_every rewind",
    "Memory, speed and devices": "backend precision accumulate workers jit steps_per_execution strategy devices"
    " model_devices",
    "Export": "layout what quantize resize output",
    "Comparison of methods": "methods pretrain_fraction pretrain_flags finetune_flags frozen_features",
    "Tables": "table seeds rows columns list cifar10 mnist groceries bccd camvid imagenette",
}
FLAGFILE = flags.Flag(
    flags.ArgumentParser(),
    flags.ArgumentSerializer(),
    "flagfile",
    None,
    "Read flags from this file, one on each line, or from one that comes with the library, such as quickstart or"
    " paper/mae.",
)  # flagfiles.py reads it
OTHER = "Other"  # a flag that SUBJECTS lacks; a test finds it
NAMES = 24  # columns


def wanted(arguments):
    """Return "help" or "helpfull" if one of the arguments asks for it, otherwise None."""
    names = [argument.lstrip("-").partition("=")[0] for argument in arguments if argument.startswith("-")]
    return "helpfull" if FULL & set(names) else "help" if SHORT & set(names) else None


def text(full=False):
    """Return the help of the program, with a line for each flag, or with all of it if `full`."""
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 60), 110)
    own = _own_flags()
    first = [own[name] for name in FIRST.get(_program(), "").split() if name in own]
    parts = [_head(full)]
    if first:
        parts.append("\n".join(["Start with these flags:", *(_lines(flag, width) for flag in first)]))
    line = _lines if full else _line
    for subject, names in by_subject().items():
        if rest := [own[name] for name in names if own[name] not in first]:
            parts.append("\n".join([f"{subject}:", *(line(flag, width) for flag in rest)]))
    if not full:
        parts.append("--helpfull explains every flag.")
    return "\n\n".join(parts)


def by_subject():
    """Return the names of the program's flags by subject, as a dictionary of lists."""
    own, found = _own_flags(), {}
    for subject, names in SUBJECTS.items():
        for name in names.split():
            program, _, name = name.rpartition(".")
            if name in own and program in ("", _program()):
                if program:  # the flag's subject in this program
                    found = {other: [n for n in kept if n != name] for other, kept in found.items()}
                found.setdefault(subject, []).append(name)
    known = {name for names in found.values() for name in names}
    if unknown := [name for name in own if name not in known]:
        found[OTHER] = unknown
    return found


def _program():
    return os.path.basename(sys.argv[0]).removesuffix(".py")


def _own_flags():
    """Return the flags that this project defines, and --flagfile, by name."""
    found = {"flagfile": FLAGFILE}
    for module, defined in FLAGS.flags_by_module_dict().items():
        if module == sys.argv[0] or module.startswith("recipes."):  # other libraries define flags too
            found |= {flag.name: flag for flag in defined}
    return found


def _head(full):
    """Return the text above the flags: what the program does, and commands. All of its paragraphs if `full`."""
    paragraphs = (sys.modules["__main__"].__doc__ or "").strip().split("\n\n")
    words = "\n\n".join(paragraphs if full else paragraphs[:2])
    words = re.sub(r"python recipes/(\w+)\.py", lambda found: screen.program(found[1]), words)
    return re.sub(
        r"recipes/flags/(\S+)\.flags", lambda found: found[0] if os.path.exists(found[0]) else found[1], words
    )


def _name(flag):
    short = f"-{flag.short_name}, " if flag.short_name else ""
    return f"  {short}--{'[no]' if flag.boolean else ''}{flag.name}"


def _parts(flag):
    """Return the help of a flag, its possible values and its default, in words."""
    values = getattr(flag.parser, "enum_values", None)
    words = " ".join((flag.help or "").split())
    if values:
        words = words.removeprefix(f"<{'|'.join(values)}>: ")
    default = "" if flag.default in (None, "", [], False) or "Default: " in words else flag.default
    default = ",".join(default) if isinstance(default, list) else default
    default = "yes" if default is True else f"{default:g}" if isinstance(default, float) else str(default)
    return words, "|".join(values or ()), default


def _lines(flag, width):
    """Return all of a flag's help, wrapped."""
    words, values, default = _parts(flag)
    words += f" One of {values.replace('|', ', ')}." if values else ""
    words += f" Default: {default}." if default else ""
    start = _name(flag).ljust(NAMES)
    return textwrap.fill(
        words, width, initial_indent=f"{start} " if len(start) >= NAMES else start, subsequent_indent=" " * NAMES
    )


def _line(flag, width):
    """Return a flag's first sentence in one line, with its values and its default."""
    words, values, default = _parts(flag)
    words = re.split(r"(?<=\.) (?=[A-Z\d-])", words)[0]
    start = _name(flag).ljust(NAMES)
    start += " " if len(start) >= NAMES else ""
    default = f" ({default})" if default else ""
    values = f" ({values})" if values else ""
    if len(start + words + values + default) > width:
        values = ""
    return start + textwrap.shorten(words, width - len(start + values + default), placeholder=" ...") + values + default
