"""Image augmentation on uint8 batches; all steps of one observation are changed alike."""

import torch
from torch import Tensor


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Shifts each of `[B, K, H, W, 3]` by up to `pixels`, the border is repeated (DrQ)."""
    if pixels == 0:
        return images
    batch, steps, height, width, channels = images.shape
    on = {"device": images.device}
    offsets = torch.randint(0, 2 * pixels + 1, (batch, 2), **on) - pixels
    offsets = offsets.repeat_interleave(steps, 0)  # [B * K, 2], of rows and columns
    row = (offsets[:, :1] + torch.arange(height, **on)).clamp(0, height - 1)  # [B * K, H]
    column = (offsets[:, 1:] + torch.arange(width, **on)).clamp(0, width - 1)
    row = row + height * torch.arange(batch * steps, **on)[:, None]
    source = (width * row[:, :, None] + column[:, None]).flatten()  # of each pixel
    return images.reshape(-1, channels).index_select(0, source).view(images.shape)


def jitter_colours(images: Tensor, brightness: float, contrast: float) -> Tensor:
    """Random offset of each channel and random contrast, `[B, K, H, W, 3]` uint8."""
    if brightness == 0 and contrast == 0:
        return images
    batch, on = len(images), {"device": images.device}
    gain = 1 + contrast * (2 * torch.rand(batch, 1, 1, 1, 1, **on) - 1)
    offset = 255 * brightness * (2 * torch.rand(batch, 1, 1, 1, 3, **on) - 1)
    jittered = (images.float() - 127.5) * gain + 127.5 + offset
    return jittered.clamp(0, 255).to(torch.uint8)
