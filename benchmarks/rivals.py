"""What one would use in SplitMask's place, for benchmark.py: the training steps of Hugging Face's ViTMAE and BEiT, in
torch."""

import torch
import transformers


def config(model):
    """What an encoder of ours is called there, for a model of ours that has one."""
    height, width, channels = model.encoder.image_shape
    return {
        "hidden_size": model.encoder.width,
        "num_hidden_layers": model.encoder.depth,
        "num_attention_heads": model.encoder.heads,
        "intermediate_size": 4 * model.encoder.width,
        "image_size": height if height == width else (height, width),
        "patch_size": model.encoder.patch_size,
        "num_channels": channels,
    }


class Rival:
    """Trains a model of theirs of the size of ours, by AdamW with clipped gradients, on a GPU if there is one.

    Args:
        model: our `MAE` or `BEiT`.
        setting: of the optimizer, see benchmark.py.
        precision: float32, bfloat16 or float16, in which its products are.
        compiled: whether `torch.compile` compiles the model.
    """

    def __init__(self, model, setting, precision, compiled):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.precision = getattr(torch, precision)
        self.count, self.masked_count = model.split.count, model.masked_count
        if model.name == "mae":
            decoder = {
                "hidden_size": model.decoder.width,
                "num_hidden_layers": model.decoder.depth,
                "num_attention_heads": model.decoder.heads,
            }
            decoder["intermediate_size"] = 4 * model.decoder.width
            own = {f"decoder_{name}": value for name, value in decoder.items()}
            made = transformers.ViTMAEForPreTraining(
                transformers.ViTMAEConfig(**config(model), **own, mask_ratio=model.mask_ratio, norm_pix_loss=True)
            )
            self.vocabulary = None
        else:
            self.vocabulary = model.words.units
            own = {
                "vocab_size": self.vocabulary,
                "use_mask_token": True,
                "use_absolute_position_embeddings": True,
                "use_relative_position_bias": False,
            }
            # drop_path_rate: by default theirs has some, and ours has none here.
            made = transformers.BeitForMaskedImageModeling(
                transformers.BeitConfig(**config(model), **own, drop_path_rate=0.0)
            )
        self.model = made.to(self.device).train()
        self.call = torch.compile(self.model) if compiled else self.model
        self.clip_norm = setting.clip_norm
        betas = (setting.beta_1, setting.beta_2)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), setting.peak, betas, setting.epsilon, setting.weight_decay, fused=True
        )

    def step(self, images):
        """One step on images (B, H, W, C) uint8; their words are drawn, which costs BEiT nothing."""
        # Scaled to -1..1, whatever their own preprocessing is: the values do not change the time.
        x = torch.as_tensor(images).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        arguments = {}
        if self.vocabulary:
            places = torch.rand(len(x), self.count, device=self.device).argsort(dim=1) < self.masked_count
            labels = torch.randint(self.vocabulary, (len(x) * self.masked_count,), device=self.device)
            arguments = {"bool_masked_pos": places, "labels": labels}
        with torch.autocast(self.device, self.precision, enabled=self.precision != torch.float32):
            loss = self.call(x, **arguments).loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss.detach()

    def steps(self, images, count):
        """`count` steps on the same images; returns the last loss when all are done."""
        for _ in range(count):
            loss = self.step(images)
        return float(loss)
