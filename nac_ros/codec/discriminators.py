"""Discriminators after DAC (arXiv 2306.06546) for waveforms of a few hundred samples.

DAC first removes the mean and normalizes the peak. That would hide the offset and scale of an
action from the discriminator, so it is left out here.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

Features = list[list[Tensor]]  # feature maps per discriminator, the last one its output
PERIODS = (2, 3, 5, 7, 11)  # 7 gives each joint of a 7-dimensional action its column
N_FFTS = (128, 64, 32)  # n_fft / 2 < 224: reflection padding needs more samples than that
BANDS = ((0.0, 0.1), (0.1, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))  # of the spectrum
SLOPE = 0.1


def _conv(inputs: int, outputs: int, kernel, stride, padding) -> nn.Module:
    return weight_norm(nn.Conv2d(inputs, outputs, kernel, stride, padding))


class PeriodDiscriminator(nn.Module):
    """Convolutions over a waveform folded into rows of `period` samples (HiFi-GAN, 2010.05646)."""

    def __init__(self, period: int, width: int):
        super().__init__()
        self.period = period
        widths = [1, width, 2 * width, 4 * width, 4 * width]
        self.layers = nn.ModuleList(
            _conv(i, o, (5, 1), (3, 1), (2, 0)) for i, o in pairwise(widths)
        )
        self.output = _conv(widths[-1], 1, (3, 1), 1, (1, 0))

    def forward(self, wave: Tensor) -> list[Tensor]:
        missing = -wave.shape[-1] % self.period
        x = F.pad(wave, (0, missing), mode="reflect") if missing else wave
        x = x.view(len(x), 1, -1, self.period)  # [B, 1, L / p, p]
        return _run(self.layers, self.output, x)


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over the complex short-time spectrum, separate for each frequency band."""

    def __init__(self, n_fft: int, width: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, n_fft // 4
        n_bins = n_fft // 2 + 1
        self.bands = [
            (int(a * n_bins), max(int(b * n_bins), int(a * n_bins) + 1)) for a, b in BANDS
        ]
        self.stacks = nn.ModuleList(self._stack(width) for _ in self.bands)
        self.output = _conv(width, 1, (3, 3), 1, 1)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @staticmethod
    def _stack(width: int) -> nn.ModuleList:
        layers = [_conv(2, width, (3, 9), 1, (1, 4))]
        layers += [_conv(width, width, (3, 9), (1, 2), (1, 4)) for _ in range(2)]
        return nn.ModuleList([*layers, _conv(width, width, (3, 3), 1, 1)])

    def forward(self, wave: Tensor) -> list[Tensor]:
        spectrum = torch.stft(
            wave[:, 0], self.n_fft, self.hop, window=self.window, return_complex=True
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, frames, bins]
        features, ends = [], []
        for (low, high), stack in zip(self.bands, self.stacks):
            maps = _run(stack, None, x[..., low:high])
            features += maps
            ends.append(maps[-1])
        return [*features, self.output(torch.cat(ends, -1))]


class Discriminator(nn.Module):
    """Ensemble over the periods (mpd) and spectrogram resolutions (mrd) that fit, or both (dac).

    n_samples: H * D, length of a flattened chunk
    """

    def __init__(self, kind: str = "dac", n_samples: int = 224, width: int = 8):
        super().__init__()
        parts: list[nn.Module] = []
        if kind in ("dac", "mpd"):
            fitting = [period for period in PERIODS if 2 * period <= n_samples]
            parts += [PeriodDiscriminator(period, width) for period in fitting]
        if kind in ("dac", "mrd"):
            fitting = [n_fft for n_fft in N_FFTS if n_fft // 2 < n_samples]
            parts += [SpectrogramDiscriminator(n_fft, width) for n_fft in fitting]
        if not parts:
            raise ValueError(
                f"no discriminator '{kind}' for {n_samples} samples; known are: dac, mpd, mrd, "
                f"and mrd needs more than {N_FFTS[-1] // 2} samples"
            )
        self.parts = nn.ModuleList(parts)

    def forward(self, actions: Tensor) -> Features:
        """Normalized chunks `[B, H, D]` -> feature maps of each discriminator and its output."""
        wave = actions.flatten(1)[:, None]  # [B, 1, L]
        return [part(wave) for part in self.parts]


def discriminator_loss(real: Features, fake: Features) -> Tensor:
    """Least-squares GAN loss: real towards 1, fake towards 0."""
    losses = [(1 - r[-1]).square().mean() + f[-1].square().mean() for r, f in zip(real, fake)]
    return torch.stack(losses).mean()


def generator_loss(fake: Features) -> Tensor:
    """Least-squares GAN loss: fake towards 1."""
    return torch.stack([(1 - f[-1]).square().mean() for f in fake]).mean()


def feature_loss(real: Features, fake: Features) -> Tensor:
    """Mean L1 distance between the feature maps of real and fake chunks."""
    distances = [
        F.l1_loss(f, r.detach()) for rs, fs in zip(real, fake) for r, f in zip(rs[:-1], fs[:-1])
    ]
    return torch.stack(distances).mean()


def _run(layers: nn.ModuleList, output: nn.Module | None, x: Tensor) -> list[Tensor]:
    """Feature maps of all layers, and `output` of the last one."""
    maps = []
    for layer in layers:
        x = F.leaky_relu(layer(x), SLOPE)
        maps.append(x)
    return maps if output is None else [*maps, output(x)]
