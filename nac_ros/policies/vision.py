"""Image encoder: a small strided CNN with spatial softmax, one per camera.

Spatial softmax after Levine et al., arXiv 1504.00702: each feature map becomes the expected
image position of what it responds to.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class KeypointEncoder(nn.Module):
    """uint8 images `[B, K, S, S, 3]` of one camera -> `[B, dim]`; the K frames are fused first."""

    def __init__(self, n_frames: int, dim: int, width: int, n_keypoints: int):
        super().__init__()
        self.stem = nn.Conv2d(3 * n_frames, width, 6, stride=3, padding=2)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for _ in range(3))
        self.keypoints = nn.Conv2d(width, n_keypoints, 1)
        self.project = nn.Sequential(
            nn.Linear(2 * n_keypoints + width, dim), nn.GELU(), nn.Linear(dim, dim)
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, K * 3, S, S]
        x = (x.float() / 255 - 0.5).to(memory_format=torch.channels_last)
        for layer, norm in zip((self.stem, self.down, self.refine), self.norms):
            x = F.relu(norm(layer(x)))
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
