"""What one would pre-train or train with in SplitMask's place, for rival_runs.py: lightly's MAE, SimCLR and DINO on
timm's VisionTransformer, and torchvision's ResNet-18.

Modules, losses, augmentations and settings are lightly's, as in its examples and its benchmark of Vision Transformers.
Decoder and local crops are as large as ours, since theirs are for larger encoders and images.

A method is a torch module. `method(views, labels, progress)` is the loss of a batch, `transform` makes the views of an
image, and `after_backward(progress)` may change gradients. `progress` is the fraction of the steps that is done.
"""

import math

import torch
import torchvision
from lightly.loss import DINOLoss, NTXentLoss
from lightly.models import utils
from lightly.models.modules import (
    DINOProjectionHead,
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
    SimCLRProjectionHead,
)
from lightly.transforms import DINOTransform, MAETransform, SimCLRTransform
from lightly.transforms.utils import IMAGENET_NORMALIZE
from timm.models import VisionTransformer
from torch.nn import Linear, functional
from torchvision.transforms import v2

from keras_splitmask.baselines.dino import local_size
from keras_splitmask.baselines.mae import HEAD, decoder_size

SMALL = 64  # pixels; smaller images get less augmentation, and ResNet-18 keeps its resolution
CHANNELS = 3


def masked_encoder(sizes):
    """lightly's encoder around timm's Vision Transformer of these `sizes`, arguments of that."""
    # Crops of several sizes pass through it. Epsilon and biases are timm's defaults, and ours.
    return MaskedVisionTransformerTIMM(VisionTransformer(**sizes, num_classes=0, dynamic_img_size=True))


class Method(torch.nn.Module):
    """What the methods share."""

    rate, weight_decay, betas = 5e-4, 0.05, (0.9, 0.999)

    def after_backward(self, progress):
        """Change gradients before the optimizer reads them."""


class MAE(Method):
    """Encode a quarter of the patches, and predict the pixels of the others."""

    rate, betas = 1.5e-4, (0.9, 0.95)
    mask_ratio = 0.75

    def __init__(self, sizes):
        super().__init__()
        self.transform = MAETransform(sizes["img_size"])
        self.patch_size = sizes["patch_size"]
        self.encoder = masked_encoder(sizes)
        depth, width = decoder_size(sizes["depth"], sizes["embed_dim"])
        self.narrow = Linear(sizes["embed_dim"], width)
        count = self.encoder.vit.patch_embed.num_patches
        self.decoder = MaskedVisionTransformerDecoderTIMM(count, width, depth, width // HEAD)
        self.pixels = Linear(width, CHANNELS * self.patch_size**2)

    def forward(self, views, labels, progress):
        (images,) = views
        size = len(images), self.encoder.sequence_length
        kept, masked = utils.random_token_mask(size, self.mask_ratio, device=images.device)
        encoded = self.narrow(self.encoder.encode(images, idx_keep=kept))
        tokens = utils.set_at_index(encoded.new_zeros(*size, encoded.shape[-1]), kept, encoded)
        decoded = self.decoder(tokens, idx_mask=masked)
        predicted = self.pixels(utils.get_at_index(decoded, masked))
        # - 1: the first token is cls, which is no patch.
        targets = utils.get_at_index(utils.patchify(images, self.patch_size), masked - 1)
        # lightly's MAE has plain pixels; its Pixio normalises each patch, which the paper of MAE found better.
        return functional.mse_loss(predicted, utils.normalize_mean_var(targets))


class SimCLR(Method):
    """Recognise the other view of an image among the views of other images."""

    def __init__(self, sizes):
        super().__init__()
        side, width = sizes["img_size"], sizes["embed_dim"]
        self.transform = SimCLRTransform(side, **{"cj_strength": 0.5, "gaussian_blur": 0.0} if side < SMALL else {})
        self.encoder = masked_encoder(sizes)
        self.head = SimCLRProjectionHead(width, width, 128)
        self.contrast = NTXentLoss()

    def forward(self, views, labels, progress):
        # The mean of the patches, by which fine-tuning classifies.
        features = self.encoder.encode(torch.cat(views))[:, 1:].mean(dim=1)
        return self.contrast(*self.head(features).chunk(2))


class DINO(Method):
    """Predict what a moving average of the encoder and its head, the teacher, says of the large crops of an image."""

    weight_decay = 0.04
    prototypes, momentum = 2048, 0.996
    epochs = 100  # as of DINO's runs, whatever the steps: in the first of them, the prototypes do not move

    def __init__(self, sizes):
        super().__init__()
        side, width = sizes["img_size"], sizes["embed_dim"]
        local, _ = local_size((side, side), sizes["patch_size"])
        self.transform = DINOTransform(global_crop_size=side, local_crop_size=local)
        self.student, self.encoder = masked_encoder(sizes), masked_encoder(sizes)
        heads = [DINOProjectionHead(width, 512, 64, self.prototypes, freeze_last_layer=1) for _ in range(2)]
        self.student_head, self.teacher_head = heads
        self._update_teacher(0)
        utils.deactivate_requires_grad(self.encoder)
        utils.deactivate_requires_grad(self.teacher_head)
        self.cross_entropy = DINOLoss(self.prototypes)

    def _update_teacher(self, momentum):
        utils.update_momentum(self.student, self.encoder, momentum)
        utils.update_momentum(self.student_head, self.teacher_head, momentum)

    def forward(self, views, labels, progress):
        self._update_teacher(1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2)
        large, small = torch.cat(views[:2]), torch.cat(views[2:])
        with torch.no_grad():
            targets = self.teacher_head(self.encoder(large)).chunk(2)
        predicted = torch.cat([self.student_head(self.student(crops)) for crops in (large, small)])
        return self.cross_entropy(targets, predicted.chunk(len(views)))

    def after_backward(self, progress):
        self.student_head.cancel_last_layer_gradients(int(self.epochs * progress))


class ResNet18(Method):
    """Learn the labels, from random weights."""

    rate = 1e-3

    def __init__(self, side, classes):
        super().__init__()
        crop = v2.RandomCrop(side, padding=side // 8) if side < SMALL else v2.RandomResizedCrop(side)
        self.augment = v2.Compose([crop, v2.RandomHorizontalFlip(), prepared])
        self.network = torchvision.models.resnet18(num_classes=classes)
        if side < SMALL:
            self.augment = v2.Compose([v2.Resize((side, side)), self.augment])
            self.network.conv1 = torch.nn.Conv2d(CHANNELS, 64, 3, padding=1, bias=False)
            self.network.maxpool = torch.nn.Identity()

    def transform(self, image):
        return [self.augment(image)]

    def forward(self, views, labels, progress):
        (images,) = views
        return functional.cross_entropy(self.network(images), labels, label_smoothing=0.1)

    @torch.no_grad()
    def classify(self, images, batch_size=256):
        """The likeliest class of each image (B, H, W, C) uint8: (B,)."""
        self.eval()
        batches = torch.stack([prepared(image) for image in images]).split(batch_size)
        return torch.cat([self.network(batch).argmax(dim=1) for batch in batches]).numpy()


prepared = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(**IMAGENET_NORMALIZE)])
PRETRAINED = {"mae": MAE, "simclr": SimCLR, "dino": DINO}
