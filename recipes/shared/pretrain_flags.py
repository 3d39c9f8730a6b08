"""The flags of pretrain.py by subject."""

from absl import flags

from recipes.shared import common_flags, method_flags, methods, value_range

# These change the result.

# Data.
flags.DEFINE_string(
    "dataset",
    None,
    "Images to learn from: sample, folder:PATH, npz:PATH, npy:PATH or tfds:NAME. Only --method=deit uses labels.",
)
flags.DEFINE_string(
    "subset",
    None,
    "Train on a subset: a number (5000), a fraction (10%), or a file that lists names. Labelled data is drawn"
    " equally from each class, and a class that has fewer images gives all of them. A fraction is taken of"
    " each class. The choice is saved in subset.txt.",
)
flags.DEFINE_string(
    "image_size",
    None,
    "Image size in pixels: 224, or 48x80 (height x width). Default: auto, the size of the images, but at most 112 on"
    " CPUs and 224 on GPUs.",
)
flags.DEFINE_integer(
    "channels", None, lower_bound=1, help="Convert images to 1 (grey) or 3 (colour) channels. Default: as stored."
)
flags.DEFINE_string(
    "augmentation",
    None,
    "none, flip, crop_flip, quarter_crop_flip, crop_colour, beit, three_augment or dino; deit knows the first four."
    " Choose flip if objects fill the image, and crop_flip, which keeps colours, if they tell your classes apart."
    " Default: auto, crop_flip, or flip for tiny images; with --preset=small dino, or crop_colour from 80 x 80 pixels"
    " on; for dino dino.",
)
flags.DEFINE_string(
    "cache",
    None,
    "Folder for packed images, decoded and resized once to 8/7 of --image_size. Later runs read them from"
    " there. Use it if the log says that training waits for data.",
)

# Method and encoder. Only the methods in [brackets] read a flag.
flags.DEFINE_enum(
    "method",
    "splitmask",
    list(methods.METHODS),
    "Pre-training method. random keeps the initial weights of the encoder. Flags that end in [names] are read"
    " by these methods only.",
)
flags.DEFINE_string(
    "size",
    None,
    "Encoder: vit_micro, vit_tiny, vit_small, vit_base or vit_large. Default: auto, vit_micro on CPUs and vit_small on"
    " GPUs; with --init_from as it has.",
)
flags.DEFINE_integer(
    "patch_size",
    None,
    lower_bound=1,
    help=(
        "Side of a patch in pixels; it must divide the image size. Smaller patches cost more. Default: auto, about an"
        " eighth of the image size on CPUs and a fourteenth on GPUs."
    ),
)
flags.DEFINE_enum(
    "positions", "learned", ["learned", "sine_cosine"], "Position embeddings: learned, or fixed sines and cosines."
)
flags.DEFINE_float(
    "drop_path", None, "Stochastic depth rate of the last block. Lower it for short runs. Default: 0.1, for mae 0."
)
flags.DEFINE_string(
    "init_from",
    None,
    "Start from the encoder of a run folder, a .keras file, a file or folder of weights of Hugging Face or timm, or"
    " hf:OWNER/NAME.",
)

# Optimization.
flags.DEFINE_integer(
    "batch_size",
    None,
    lower_bound=1,
    help=(
        "Images per step. In the match loss they are also each other's negatives. Default: auto, 64 on CPUs and 256 on"
        " each GPU, but no more than there are images."
    ),
)
flags.DEFINE_float(
    "epochs",
    None,
    lower_bound=0,
    help="Passes over the data, in place of --steps. The paper uses 5,000 below 100,000 images.",
)
flags.DEFINE_integer(
    "steps",
    None,
    lower_bound=1,
    help="Optimizer steps. Default: auto, 8,000 on CPUs with --preset=small, else 3,000; on GPUs 20,000, or 100 epochs"
    " if those are more.",
)
flags.DEFINE_string(
    "time",
    None,
    "Train for about this long, such as 2h or 90min, in place of --steps: a few steps are timed first. Says so if that"
    " is too short to teach anything.",
)
flags.DEFINE_bool("dry_run", False, "Show what would be chosen, and the memory and time it takes, and stop there.")
flags.DEFINE_float(
    "learning_rate",
    None,
    lower_bound=0,
    help=(
        "Peak learning rate. Lower it if the loss diverges. Default: 1.5e-3 x batch size / 2048, but at least 5e-4, or"
        " 1e-3 with --preset=small; for mae 1.5e-4 x batch size / 256, deit 5e-4 x batch size / 512, dino 5e-4 x batch"
        " size / 256."
    ),
)
flags.DEFINE_float("min_learning_rate", None, lower_bound=0, help="Final learning rate. Default: 1e-5, for mae 0.")
flags.DEFINE_float(
    "warmup",
    None,
    lower_bound=0,
    upper_bound=1,
    help=(
        "Fraction of the steps in which the learning rate rises. Raise it if the loss jumps early. Default: 10 /"
        " 300, for mae 40 / 800, deit 5 / 300."
    ),
)
flags.DEFINE_float(
    "weight_decay",
    None,
    "Weight decay of AdamW. Biases, norms, positions, cls and mask tokens are exempt. Default: 0.05, for dino"
    " 0.04 at first.",
)
flags.DEFINE_float(
    "clip_norm",
    None,
    lower_bound=0,
    help=(
        "Clip gradients to this norm (per weight with --method=dino). 0 disables clipping. Default: 3, for mae and"
        " deit 0."
    ),
)
flags.DEFINE_float(
    "beta_2",
    None,
    lower_bound=0,
    upper_bound=1,
    help=(
        "AdamW's decay rate of the second moment. Lower it if the loss jumps in large batches. Default: 0.999, for"
        " mae 0.95."
    ),
)
flags.DEFINE_integer("seed", 0, lower_bound=0, upper_bound=2**31 - 1, help="Seed for all random numbers.")
flags.DEFINE_bool(
    "jit",
    None,
    "Compile the step with XLA on TensorFlow, which changes the random numbers. Default: only on accelerators.",
)

# These do not change the result.

# Memory and speed.
flags.DEFINE_integer(
    "accumulate",
    None,
    lower_bound=1,
    help=(
        "Gradient accumulation: split each batch into this many micro-batches to save memory. The match loss still"
        " uses negatives from the whole batch, at the cost of one extra forward pass. Default: auto, as few as fit into"
        " memory."
    ),
)
flags.DEFINE_integer(
    "steps_per_execution",
    1,
    lower_bound=1,
    help=(
        "Steps that TensorFlow runs before it returns to Python; more are faster on TPUs. It must divide"
        " --log_every and the steps of the run."
    ),
)
flags.DEFINE_integer("workers", 2, "Threads that read images. Raise it if the log says that training waits for data.")

# Checkpoints.
common_flags.save_every()
flags.DEFINE_integer(
    "keep_every",
    None,
    lower_bound=1,
    help="Also keep the checkpoint of every this many steps. Default: keep the last two only.",
)
flags.DEFINE_integer(
    "rewind",
    0,
    lower_bound=0,
    help=(
        "After a run that diverged: resume from the last checkpoint, and skip the data of this many steps, such as"
        " 1000."
    ),
)

# Bad files, evaluation and logs.
flags.DEFINE_float(
    "max_bad_fraction",
    0.1,
    lower_bound=0,
    upper_bound=1,
    help="Largest fraction of unreadable files in --dataset and in --probe. Each one is listed in data.json.",
)
flags.DEFINE_string("data_dir", None, "Folder where tfds stores its data.")
flags.DEFINE_string(
    "probe",
    None,
    "Labelled data set, apart from the training images, whose kNN accuracy is logged during training. Named as"
    " --dataset. Its test split is used; or val, or train, if test is missing or has no labels.",
)
flags.DEFINE_integer("probe_limit", 2000, lower_bound=2, help="Largest number of images of --probe to use.")
flags.DEFINE_integer(
    "probe_every", None, lower_bound=1, help="Steps between kNN measurements. Default: a tenth of the run."
)
common_flags.log_every()
flags.DEFINE_integer(
    "pictures", 8, lower_bound=0, help="Images in the inpainting picture after the run. 0 for no pictures at all."
)

flags.adopt_module_key_flags(value_range)
flags.adopt_module_key_flags(method_flags)
