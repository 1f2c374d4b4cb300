"""Image encoder: a small strided CNN with spatial softmax, one per camera."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 8


class KeypointEncoder(nn.Module):
    """uint8 images `[B, K, S, S, 3]` of one camera -> `[B, dim]`; the K frames are fused first.

    Group normalization doubles the time of a layer, but without it the held-out error after the
    same training time is higher.
    """

    def __init__(self, n_frames: int, dim: int, width: int, n_keypoints: int):
        super().__init__()
        widths = (3 * n_frames, width // 2, 3 * width // 4, width, width)
        kernels, strides = (5, 3, 3, 3), (2, 2, 2, 1)
        self.layers = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride, kernel // 2)
            for before, after, kernel, stride in zip(widths, widths[1:], kernels, strides)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, after) for after in widths[1:])
        self.keypoints = nn.Conv2d(width, n_keypoints, 1)
        self.project = nn.Linear(2 * n_keypoints + width, dim)

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, K * 3, S, S]
        x = (x.float() / 255 - 0.5).to(memory_format=torch.channels_last)
        for layer, norm in zip(self.layers, self.norms):
            x = F.relu(norm(layer(x)))  # finally [B, width, S / 8, S / 8]
        pooled = x.float().mean((2, 3))  # [B, width]
        keypoints = spatial_softmax(self.keypoints(x).float())
        return self.project(torch.cat([keypoints, pooled], 1))


def spatial_softmax(maps: Tensor) -> Tensor:
    """Expected image position of each feature map's softmax (Levine et al., arXiv 1504.00702).

    Maps `[B, N, h, w]` -> all x, then all y, in [-1, 1], `[B, 2 N]`.
    """
    _, _, height, width = maps.shape
    weights = maps.flatten(2).softmax(-1).view_as(maps)
    x = torch.linspace(-1, 1, width, device=maps.device)
    y = torch.linspace(-1, 1, height, device=maps.device)
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)
