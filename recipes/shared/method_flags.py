"""The flags of pretrain.py that only the methods in [brackets] read. All of them change the result."""

from absl import flags

# Visual words.
flags.DEFINE_enum(
    "tokenizer",
    None,
    ["random_projection", "random_patches", "kmeans", "dalle"],
    "How visual words are assigned to patches. kmeans uses its words most evenly; random_projection needs no"
    " fitting; dalle is the slowest and was trained on other images. Default: auto, kmeans. [splitmask, beit]",
)
flags.DEFINE_integer(
    "vocabulary",
    None,
    "Number of visual words. 8192 in the paper; 512 are enough for tens of thousands of small images, and"
    " cheaper. Default: auto, 512, or 8192 from 100,000 images on. [splitmask, beit]",
)
flags.DEFINE_integer(
    "fit_patches",
    None,
    lower_bound=1,
    help=(
        "Patches from which kmeans and random_patches are fitted and the mean patch of each word is computed."
        " Raise it for large vocabularies; 3000000 in the paper. Default: 100000, for dalle 10000. [splitmask,"
        " beit]"
    ),
)
flags.DEFINE_enum(
    "word_resolution",
    None,
    ["half", "full"],
    "Resolution at which words are assigned. Default: half if patches are even and have 8 pixels or more, else"
    " full. [splitmask, beit]",
)
flags.DEFINE_list(
    "dalle_weights",
    None,
    "ENCODER_FILE[,DECODER_FILE] of --tokenizer=dalle: .pkl, .safetensors or .npz. Download"
    " https://cdn.openai.com/dall-e/encoder.pkl, and decoder.pkl for pictures. [splitmask, beit]",
)
flags.DEFINE_string(
    "dalle_sha256",
    None,
    "Expected SHA-256 checksum of the encoder file in --dalle_weights. Default: not checked. [splitmask, beit]",
)

# SplitMask.
flags.DEFINE_enum(
    "preset",
    None,
    ["small", "paper"],
    "small is for small budgets, measured at 8 to 30 minutes on a CPU: the two parts are of two views of the image, a"
    " quarter of it each. paper is as published. Sets --views, --keep, --split, --decoder_depth, --predicted,"
    " --projector, --temperature and --augmentation where they are not given. small also sets --learning_rate to at"
    " least 1e-3, not 5e-4, and on CPUs --steps to 8000, not 3000: a step takes 0.37 to 0.45 times as long."
    " Default: auto, small on CPUs and paper on GPUs. [splitmask]",
)
flags.DEFINE_enum(
    "views",
    None,
    ["1", "2"],
    "1: both parts are of one view of the image, as in the paper. 2: each part is of a view of its own, so that the"
    " match loss compares what cropping and colours leave of the image. Default: auto, by --preset. [splitmask]",
)
flags.DEFINE_float(
    "keep",
    None,
    "Fraction of the patches that each part sees, in (0, 0.5]. Default: auto, 0.25 for --preset=small; of the paper"
    " 0.5, and 0.25 below 10,000 images of at least 196 patches. [splitmask]",
    lower_bound=0.001,
    upper_bound=0.5,
)
flags.DEFINE_enum(
    "split",
    None,
    ["block", "random"],
    "How patches are assigned to the parts, or masked: in blocks (harder, the paper's) or one by one. Default: auto,"
    " by --preset; block for beit. [splitmask, beit]",
)
flags.DEFINE_integer(
    "decoder_depth",
    None,
    lower_bound=1,
    upper_bound=2**20,
    help="Blocks of the decoder. Default: auto, by --preset. [splitmask]",
)
flags.DEFINE_float(
    "predicted",
    None,
    "Fraction of a part's unseen patches whose words are predicted, in (0, 1]. Fewer are cheaper. Default: auto, by"
    " --preset. [splitmask]",
    lower_bound=0.001,
    upper_bound=1,
)
flags.DEFINE_integer(
    "projector",
    None,
    lower_bound=0,
    upper_bound=2**30,
    help="Hidden units of a projector between the encoder and the match loss. 0: none, and the decoder's outputs are"
    " matched. Default: auto, by --preset. [splitmask]",
)
for name, loss in (("inpaint_weight", "inpainting"), ("match_weight", "match")):
    text = f"Weight of the {loss} loss. 0 skips its computation. [splitmask]"
    flags.DEFINE_float(name, 1.0, text, lower_bound=0, upper_bound=1000)
flags.DEFINE_float(
    "temperature",
    None,
    "Temperature of the match loss; lower values push images apart harder. Default: auto, by --preset. [splitmask]",
    lower_bound=0.001,
    upper_bound=100,
)

# BEiT and MAE.
flags.DEFINE_float(
    "mask_ratio",
    None,
    "Fraction of the patches to mask. Default: 0.4 for beit, 0.75 for mae, as in their papers. [beit, mae]",
    lower_bound=0,
    upper_bound=1,
)
flags.DEFINE_integer(
    "mae_decoder_depth",
    None,
    lower_bound=1,
    help="Blocks of the decoder. Default: two thirds of the encoder's, at most 8. [mae]",
)
flags.DEFINE_integer(
    "mae_decoder_width",
    None,
    lower_bound=32,
    help="Width of the decoder, a multiple of 32. Default: two thirds of the encoder's, at most 512. [mae]",
)

# DeiT.
flags.DEFINE_float("label_smoothing", 0.1, "Probability that is spread evenly over all classes. [deit]", 0, 1)
flags.DEFINE_float("mixup", 0.8, "Alpha of mixup. 0 disables it. [deit]", lower_bound=0)
flags.DEFINE_float("cutmix", 1.0, "Alpha of CutMix. 0 disables it. [deit]", lower_bound=0)
flags.DEFINE_float(
    "rand_augment", 9.0, lower_bound=0, upper_bound=10, help="Magnitude of RandAugment. 0 disables it. [deit]"
)
flags.DEFINE_float(
    "random_erasing",
    0.25,
    lower_bound=0,
    upper_bound=1,
    help="Probability that a rectangle of an image is erased. [deit]",
)
flags.DEFINE_integer(
    "repeats",
    3,
    lower_bound=1,
    help=(
        "Repeated augmentation: each image appears this many times per batch, each time with new augmentation. [deit]"
    ),
)

# DINO.
flags.DEFINE_integer(
    "local_crops",
    8,
    lower_bound=0,
    help=(
        "Small crops of each image, in addition to two large ones. Fewer are cheaper, and teach less per step. [dino]"
    ),
)
flags.DEFINE_integer(
    "prototypes",
    None,
    lower_bound=1,
    help=(
        "Outputs of the projection head. 65536 in the paper; fewer are enough for small data sets, and much cheaper."
        " Default: auto, 4096, or 65536 from 100,000 images on. [dino]"
    ),
)
flags.DEFINE_float(
    "teacher_momentum",
    None,
    lower_bound=0,
    upper_bound=1,
    help=(
        "Momentum of the teacher at the first step; it rises to 1. Default: auto, 0.996, or 0.9995 for 100,000 steps or"
        " more with batches of 256 or fewer. [dino]"
    ),
)
flags.DEFINE_float(
    "teacher_temperature",
    0.04,
    lower_bound=0.001,
    help=(
        "Temperature of the teacher. Raise it, up to 0.07, if too few prototypes are used. Lower it if the loss"
        " does not fall. [dino]"
    ),
)
flags.DEFINE_float(
    "frozen_epochs",
    1.0,
    lower_bound=0,
    help="Epochs in which the head's last layer is frozen. Raise it if the loss does not fall. [dino]",
)
flags.DEFINE_float(
    "final_weight_decay",
    0.4,
    lower_bound=0,
    help="Weight decay at the end of the run; it rises from --weight_decay along a half cosine. [dino]",
)
