"""Tables of the names that other libraries use for weights and sizes of a Vision Transformer."""

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"

# Our layers and tokens: theirs; of several names a file has one, and we write the first. {} is the number of a block,
# from 1 in ours, from 0 in theirs.
# the second name of a block's layer is that in memory since transformers 5, and so that of a state_dict saved by hand
HUGGING_FACE = {
    "cls_token": ["embeddings.cls_token"],
    "extra_tokens": ["embeddings.distillation_token"],
    "patch_embedding/positions": ["embeddings.position_embeddings"],
    "patch_embedding/project": ["embeddings.patch_embeddings.projection"],
    # A table of relative positions for all blocks, or one in each.
    "relative_positions": [
        "encoder.relative_position_bias.relative_position_bias_table",
        "shared_position_bias.relative_position_bias_table",
    ],
    "block_{}/attention/relative_positions": [
        "encoder.layer.{}.attention.attention.relative_position_bias.relative_position_bias_table",
        "layers.{}.relative_position_bias.relative_position_bias_table",
    ],
    "norm": ["layernorm", "pooler.layernorm"],
    "block_{}/norm_attention": ["encoder.layer.{}.layernorm_before", "layers.{}.layernorm_before"],
    "block_{}/attention/query": ["encoder.layer.{}.attention.attention.query", "layers.{}.attention.q_proj"],
    "block_{}/attention/key": ["encoder.layer.{}.attention.attention.key", "layers.{}.attention.k_proj"],
    "block_{}/attention/value": ["encoder.layer.{}.attention.attention.value", "layers.{}.attention.v_proj"],
    "block_{}/attention/project": ["encoder.layer.{}.attention.output.dense", "layers.{}.attention.o_proj"],
    "block_{}/attention/scale": ["encoder.layer.{}.lambda_1", "layers.{}.lambda_1"],
    "block_{}/norm_mlp": ["encoder.layer.{}.layernorm_after", "layers.{}.layernorm_after"],
    "block_{}/expand": ["encoder.layer.{}.intermediate.dense", "layers.{}.mlp.fc1"],
    "block_{}/contract": ["encoder.layer.{}.output.dense", "layers.{}.mlp.fc2"],
    "block_{}/scale": ["encoder.layer.{}.lambda_2", "layers.{}.lambda_2"],
}
# Where DINOv2 differs, with and without registers.
DINOV2 = {
    **HUGGING_FACE,
    "extra_tokens": ["embeddings.register_tokens"],
    "block_{}/norm_attention": ["encoder.layer.{}.norm1"],
    "block_{}/attention/query": ["encoder.layer.{}.attention.attention.query", "encoder.layer.{}.attention.q_proj"],
    "block_{}/attention/key": ["encoder.layer.{}.attention.attention.key", "encoder.layer.{}.attention.k_proj"],
    "block_{}/attention/value": ["encoder.layer.{}.attention.attention.value", "encoder.layer.{}.attention.v_proj"],
    "block_{}/attention/project": ["encoder.layer.{}.attention.output.dense", "encoder.layer.{}.attention.o_proj"],
    "block_{}/attention/scale": ["encoder.layer.{}.layer_scale1.lambda1"],
    "block_{}/norm_mlp": ["encoder.layer.{}.norm2"],
    "block_{}/expand": ["encoder.layer.{}.mlp.fc1"],
    "block_{}/contract": ["encoder.layer.{}.mlp.fc2"],
    "block_{}/scale": ["encoder.layer.{}.layer_scale2.lambda1"],
}
# Also those of the files that the authors of BEiT, DeiT, DINO and MAE published.
TIMM = {
    "cls_token": ["cls_token"],
    "extra_tokens": ["dist_token", "reg_token"],
    "patch_embedding/positions": ["pos_embed"],
    "patch_embedding/project": ["patch_embed.proj"],
    "relative_positions": ["rel_pos_bias.relative_position_bias_table"],
    "block_{}/attention/relative_positions": ["blocks.{}.attn.relative_position_bias_table"],
    # fc_norm: of models that pool by the mean, and normalise that.
    "norm": ["norm", "fc_norm"],
    "block_{}/norm_attention": ["blocks.{}.norm1"],
    "block_{}/attention/qkv": ["blocks.{}.attn.qkv"],
    "block_{}/attention/query/bias": ["blocks.{}.attn.q_bias"],
    "block_{}/attention/value/bias": ["blocks.{}.attn.v_bias"],
    "block_{}/attention/project": ["blocks.{}.attn.proj"],
    "block_{}/attention/scale": ["blocks.{}.ls1.gamma", "blocks.{}.gamma_1"],
    "block_{}/norm_mlp": ["blocks.{}.norm2"],
    "block_{}/expand": ["blocks.{}.mlp.fc1"],
    "block_{}/contract": ["blocks.{}.mlp.fc2"],
    "block_{}/scale": ["blocks.{}.ls2.gamma", "blocks.{}.gamma_2"],
}
TABLES = (HUGGING_FACE, DINOV2, TIMM)

OF_A_HEAD = "of a head"
# Weights that are not part of an encoder: a pattern, and what they belong to.
DROPPED = (
    (
        r"(head|head_dist|attn_pool|fc_norm|pre_logits|pooler)\."
        r"|(classifier|cls_classifier|distillation_classifier|lm_head)\.",
        OF_A_HEAD,
    ),
    (r"(embeddings\.)?mask_token$", "for masked patches"),
    (r"decoder[._]", "of a decoder"),
    (r"(.*\.)?relative_position_index$", "calculated"),
)

# Names of the sizes in config.json, and ours.
STATED = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "num_channels": "channels",
    "image_size": "image_size",
    "patch_size": "patch_size",
    "layer_norm_eps": "epsilon",
    "embed_dim": "width",  # from here on, timm
    "depth": "depth",
    "num_heads": "heads",
    "in_chans": "channels",
    "img_size": "image_size",
}
# Arguments of timm's models that leave the function of the encoder as it is, or that its weights show.
HARMLESS = {
    *STATED,
    *(
        "num_classes",
        "global_pool",
        "class_token",
        "no_embed_class",
        "reg_tokens",
        "init_values",
        "qkv_bias",
        "mlp_ratio",
        "fc_norm",
        "use_abs_pos_emb",
        "use_rel_pos_bias",
        "use_shared_rel_pos_bias",
        "use_fc_norm",
    ),
    *(
        "final_norm",
        "dynamic_img_size",
        "drop_rate",
        "pos_drop_rate",
        "proj_drop_rate",
        "attn_drop_rate",
        "drop_path_rate",
        "weight_init",
    ),
}
# Heads by width of the published sizes, from tiny to gigantic.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

# To write, by layout: the class in transformers, and what its configuration says beside sizes.
CLASSES = {
    "vit": ("ViTModel", {"model_type": "vit", "qkv_bias": True}),
    "deit": ("DeiTModel", {"model_type": "deit", "qkv_bias": True}),
    "beit": (
        "BeitModel",
        {
            "model_type": "beit",
            "use_absolute_position_embeddings": True,
            "use_mean_pooling": False,
            "layer_scale_init_value": 0.0,
        },
    ),
    # ViTMAEModel drops patches whenever it is called, so this makes it drop none.
    "mae": ("ViTMAEModel", {"model_type": "vit_mae", "qkv_bias": True, "mask_ratio": 0.0}),
}
LAYOUTS = (*CLASSES, "timm")
# timm_wrapper: what transformers calls a model of timm.
MODEL_TYPES = {
    *(config["model_type"] for _, config in CLASSES.values()),
    *("data2vec-vision", "dinov2", "dinov2_with_registers", "vit_msn", "timm_wrapper"),
}


def names_of(ours, theirs):
    """Pairs (our weight, their weight) of one of our layers or tokens, such as ("norm/gamma", "layernorm.weight")."""
    scale, shift = ("gamma", "beta") if "norm" in ours.rsplit("/", 1)[-1] else ("kernel", "bias")
    return (ours, theirs), (f"{ours}/{scale}", f"{theirs}.weight"), (f"{ours}/{shift}", f"{theirs}.bias")
