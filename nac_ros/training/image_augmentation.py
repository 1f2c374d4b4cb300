"""Image augmentation on uint8 batches; all steps of one observation are changed alike."""

import torch
from torch import Tensor
from torch.nn import functional as F


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Shifts each of `[B, K, H, W, 3]` by up to `pixels`, the border is repeated (DrQ)."""
    if pixels == 0:
        return images
    batch, _, height, width, _ = images.shape
    planes = images.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, K * 3, H, W]
    padded = F.pad(planes.float(), (pixels,) * 4, mode="replicate").to(torch.uint8)
    offsets = torch.randint(0, 2 * pixels + 1, (batch, 2)).tolist()
    crops = [padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(offsets)]
    return torch.stack(crops).view(batch, -1, 3, height, width).permute(0, 1, 3, 4, 2)


def jitter_colours(images: Tensor, brightness: float, contrast: float) -> Tensor:
    """Random offset of each channel and random contrast, `[B, K, H, W, 3]` uint8."""
    if brightness == 0 and contrast == 0:
        return images
    batch = len(images)
    gain = 1 + contrast * (2 * torch.rand(batch, 1, 1, 1, 1) - 1)
    offset = 255 * brightness * (2 * torch.rand(batch, 1, 1, 1, 3) - 1)
    jittered = (images.float() - 127.5) * gain + 127.5 + offset
    return jittered.clamp(0, 255).to(torch.uint8)
