"""Vocos decoder whose ISTFT head is one transposed convolution (NAC section 3.2).

The backbone is that of Vocos (arXiv 2306.00814), after the attention block that WavTokenizer
(arXiv 2408.16532) puts in front of it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.config import CodecConfig
from nac_ros.codec.precision import full_precision

MAX_MAGNITUDE = 1e2  # Vocos: clip of the exponential of the predicted log-magnitude


class ResnetBlock(nn.Module):
    """Two convolutions with group norm and a skip connection, `[B, C, T']`."""

    def __init__(self, channels: int, dropout: float = 0.1):
        super().__init__()
        self.norm1 = _group_norm(channels)
        self.conv1 = nn.Conv1d(channels, channels, 3, padding=1)
        self.norm2 = _group_norm(channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(self.dropout(F.silu(self.norm2(h))))


class AttentionBlock(nn.Module):
    """One-head self-attention along time with a skip connection, `[B, C, T']`."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = _group_norm(channels)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.value = nn.Conv1d(channels, channels, 1)
        self.out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        scores = self.query(h).transpose(1, 2) @ self.key(h) * x.shape[1] ** -0.5  # [B, T', T']
        mixed = self.value(h) @ torch.softmax(scores, -1).transpose(1, 2)
        return x + self.out(mixed)


class AdaptiveNorm(nn.Module):
    """Adaptive layer norm of Vocos over channels, with `n_ids` learned pairs of gain and offset.

    The codec uses the first pair; the others keep the parameter count of the paper.
    """

    def __init__(self, channels: int, n_ids: int):
        super().__init__()
        self.gain = nn.Embedding(n_ids, channels)
        self.offset = nn.Embedding(n_ids, channels)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.offset.weight)

    def forward(self, x: Tensor) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:], eps=1e-6)
        return normed * self.gain.weight[0] + self.offset.weight[0]


class ConvNextBlock(nn.Module):
    """ConvNeXt block: depth-wise convolution, MLP, layer scale and skip, `[B, C, T']`."""

    def __init__(self, channels: int, hidden: int, layer_scale: float, n_ids: int):
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = _channel_norm(channels, n_ids)
        self.expand = nn.Linear(channels, hidden)
        self.contract = nn.Linear(hidden, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.depthwise(x).transpose(1, 2))
        return x + (self.scale * self.contract(F.gelu(self.expand(h)))).transpose(1, 2)


class IstftHead(nn.Module):
    """Log-magnitude and phase per latent step -> waveform, by an inverse short-time DFT.

    A frame of step t is the windowed inverse real DFT of its n_fft / 2 + 1 bins; frames are added
    at a distance of `hop` and divided by the sum of the squared windows at each sample. DFT and
    window are linear and the same at each step, so the sum over frames is one transposed
    convolution with fixed weights and stride `hop`. torch, ONNX Runtime and training then run
    the same arithmetic. The samples beyond the first and last hop are cut, as in Vocos.
    """

    def __init__(self, channels: int, n_fft: int, hop: int, n_steps: int):
        super().__init__()
        self.hop, self.trim, self.length = hop, (n_fft - hop) // 2, hop * n_steps
        self.project = nn.Linear(channels, n_fft + 2)
        weight, window = _inverse_dft(n_fft)
        ones = torch.ones(1, 1, n_steps, dtype=torch.float64)
        envelope = F.conv_transpose1d(ones, window.square()[None, None], stride=hop)[0, 0]
        envelope = envelope[self.trim : self.trim + self.length]
        self.register_buffer("weight", weight.float()[:, None], persistent=False)
        self.register_buffer("inverse_envelope", (1 / envelope).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, T']` -> `[B, 1, L]`, float32: a phase of low precision is a large error."""
        with full_precision(x.device):
            return self._synthesize(x.to(self.weight))

    def _synthesize(self, x: Tensor) -> Tensor:
        spectra = self.project(x.transpose(1, 2)).transpose(1, 2)  # [B, n_fft + 2, T']
        log_magnitude, phase = spectra.chunk(2, 1)
        magnitude = torch.exp(log_magnitude).clip(max=MAX_MAGNITUDE)
        spectrum = torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], 1)
        wave = F.conv_transpose1d(spectrum, self.weight, stride=self.hop)
        return wave[..., self.trim : self.trim + self.length] * self.inverse_envelope


class LinearHead(nn.Module):
    """Head of the ablation: a step's own `hop` samples, `[B, C, T']` -> `[B, 1, L]`."""

    def __init__(self, channels: int, hop: int):
        super().__init__()
        self.project = nn.Linear(channels, hop)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x.transpose(1, 2)).flatten(1)[:, None]  # [B, T', hop] -> [B, 1, L]


class VocosDecoder(nn.Module):
    """Latent `[B, E, T']` -> waveform `[B, 1, L]` with L = T' * hop."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        channels, n_blocks, n_ids = config.decoder_dim, config.decoder_blocks, config.norm_ids
        self.embed = nn.Conv1d(config.latent_dim, channels, 7, padding=3)
        self.position = nn.Sequential(
            ResnetBlock(channels),
            ResnetBlock(channels),
            AttentionBlock(channels),
            ResnetBlock(channels),
            ResnetBlock(channels),
            _group_norm(channels),
        )
        self.norm = _channel_norm(channels, n_ids)
        self.blocks = nn.Sequential(
            *(
                ConvNextBlock(channels, config.decoder_hidden, 1 / n_blocks, n_ids)
                for _ in range(n_blocks)
            )
        )
        self.final_norm = nn.LayerNorm(channels, eps=1e-6)
        self._init_weights()
        self.head: LinearHead | IstftHead
        if config.head == "linear":
            self.head = LinearHead(channels, config.hop)
        else:
            self.head = IstftHead(channels, config.n_fft, config.hop, config.n_steps)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.position(self.embed(latent))
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        x = self.blocks(x)
        return self.head(self.final_norm(x.transpose(1, 2)).transpose(1, 2))

    def _init_weights(self) -> None:
        for part in (self.embed, self.blocks):
            for module in part.modules():
                if isinstance(module, (nn.Conv1d, nn.Linear)):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                    nn.init.zeros_(module.bias)


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _channel_norm(channels: int, n_ids: int) -> nn.Module:
    return AdaptiveNorm(channels, n_ids) if n_ids else nn.LayerNorm(channels, eps=1e-6)


def _inverse_dft(n_fft: int) -> tuple[Tensor, Tensor]:
    """Windowed inverse real DFT `[n_fft + 2, n_fft]`, real rows then imaginary; Hann window."""
    window = torch.hann_window(n_fft, dtype=torch.float64)
    bins = torch.arange(n_fft // 2 + 1, dtype=torch.float64)
    angle = 2 * math.pi * bins[:, None] * torch.arange(n_fft, dtype=torch.float64) / n_fft
    scale = torch.full((len(bins), 1), 2 / n_fft, dtype=torch.float64)
    scale[0] = scale[-1] = 1 / n_fft  # the bins at 0 and Nyquist have no conjugate
    rows = torch.cat([scale * torch.cos(angle), -scale * torch.sin(angle)])
    return rows * window, window
