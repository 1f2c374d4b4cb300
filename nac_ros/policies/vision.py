"""Image encoder: a small strided CNN with spatial softmax, one per camera.

Spatial softmax after Levine et al., arXiv 1504.00702: each feature map becomes the expected
image position of what it responds to.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeypointEncoder(nn.Module):
    """uint8 images `[B, K, S, S, 3]` of one camera -> `[B, dim]`; the K frames are fused first.

    Layers without normalisation: on a CPU group norm took as long as the convolutions.
    """

    def __init__(self, n_frames: int, dim: int, width: int, n_keypoints: int):
        super().__init__()
        self.stem = nn.Conv2d(3 * n_frames, width, 8, stride=4, padding=2)
        self.refine = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation) for dilation in (1, 2)
        )
        self.keypoints = nn.Conv2d(width, n_keypoints, 1)
        self.project = nn.Sequential(
            nn.Linear(2 * n_keypoints + width, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, K * 3, S, S]
        x = (x.float() / 127.5 - 1).to(memory_format=torch.channels_last)
        x = F.relu(self.stem(x))  # [B, width, S / 4, S / 4]
        for layer in self.refine:
            x = x + F.relu(layer(x))
        pooled = x.float().mean((2, 3))  # [B, width]
        positions = expected_positions(self.keypoints(x).float())
        return self.project(torch.cat([positions, pooled], 1))


def expected_positions(maps: Tensor) -> Tensor:
    """Maps `[B, N, h, w]` -> expected x and y in [-1, 1] of each map's softmax, `[B, 2 N]`."""
    _, _, height, width = maps.shape
    weights = maps.flatten(2).softmax(-1).view_as(maps)
    x = torch.linspace(-1, 1, width, device=maps.device)
    y = torch.linspace(-1, 1, height, device=maps.device)
    return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], 1)
