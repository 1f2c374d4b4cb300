"""Reconstruction losses of Table 1: how far a decoded chunk is from the real one."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kind = Literal["mse", "l1", "dct", "spectrogram", "mel"]
KINDS: tuple[str, ...] = get_args(Kind)
N_FFTS = (64, 32, 16)  # resolutions of the spectral losses, those that fit the signal
N_MELS = 16
SAMPLE_RATE = 24_000.0  # [Hz] what audio codecs take; only the mel scale's bend depends on it
NEAR_STEPS, MOVES = 2, 0.05  # around a gripper's transition; of its range of 2, in one step
FLOOR = 1e-5  # of a magnitude before its logarithm


class ReconstructionLoss(nn.Module):
    """Normalised chunks `[B, H, D]`, decoded and real -> scalar.

    weights: `[H]`, of the steps, for mse and l1; units: `[D]`, by which dimensions are multiplied
    mse, l1: of the actions, steps weighted by `weights` `[H]`
    dct: L1 of the orthonormal DCT-II along time (its MSE would be `mse`)
    spectrogram: L1 of short-time magnitudes of the flattened chunk, unscaled, three resolutions
    mel: the same on a mel scale and in decibels' place the natural logarithm, as audio codecs do
    """

    def __init__(self, kind: Kind, weights: Tensor, units: Tensor):
        super().__init__()
        self.kind = kind
        self.register_buffer("units", units, persistent=False)
        n_samples = len(weights) * len(units)
        self.register_buffer("weights", weights, persistent=False)
        self.register_buffer("basis", dct_basis(len(weights)), persistent=False)
        sizes = [n for n in N_FFTS if n // 2 < n_samples] or [2]
        self.spectra = nn.ModuleList(Magnitudes(n, mel=kind == "mel") for n in sizes)
        ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "mse": self._squares, "l1": self._absolutes, "dct": self._coefficients,
            "spectrogram": self._magnitudes, "mel": self._magnitudes,
        }  # fmt: skip
        self._way = ways[kind]

    def forward(self, decoded: Tensor, real: Tensor) -> Tensor:
        return self._way(decoded * self.units, real * self.units)

    def _squares(self, decoded: Tensor, real: Tensor) -> Tensor:
        return (self.weights * F.mse_loss(decoded, real, reduction="none").mean((0, 2))).mean()

    def _absolutes(self, decoded: Tensor, real: Tensor) -> Tensor:
        return (self.weights * F.l1_loss(decoded, real, reduction="none").mean((0, 2))).mean()

    def _coefficients(self, decoded: Tensor, real: Tensor) -> Tensor:
        return (self.basis @ (decoded - real)).abs().mean()  # [H, H] @ [B, H, D]

    def _magnitudes(self, decoded: Tensor, real: Tensor) -> Tensor:
        pairs = [(part(decoded), part(real)) for part in self.spectra]
        return torch.stack([F.l1_loss(*pair) for pair in pairs]).mean()


class ControlLoss(nn.Module):
    """What an arm feels beyond the error of positions, normalised chunks `[B, H, D]` -> scalar.

    velocity, acceleration: weights of the mean squared error of first and second differences per
    step; transition: extra weight of the squared error of the columns `grippers` within
    `NEAR_STEPS` of a step in which they move by more than `MOVES`
    """

    def __init__(
        self, velocity: float, acceleration: float, transition: float, grippers: tuple[int, ...]
    ):
        super().__init__()
        self.weights, self.grippers = (velocity, acceleration, transition), list(grippers)

    def forward(self, decoded: Tensor, real: Tensor) -> Tensor:
        error = decoded - real
        parts = [error.diff(n=1, dim=1), error.diff(n=2, dim=1), self._at_transitions(error, real)]
        squares = [w * part.square().mean() for w, part in zip(self.weights, parts) if w]
        return torch.stack(squares).sum() if squares else error.new_zeros(())

    def _at_transitions(self, error: Tensor, real: Tensor) -> Tensor:
        columns = real[..., self.grippers].transpose(1, 2)  # [B, G, H]
        moving = F.pad((columns.diff(dim=-1).abs() > MOVES).float(), (1, 0))
        width = 2 * NEAR_STEPS + 1
        near = F.max_pool1d(moving, width, stride=1, padding=NEAR_STEPS)
        return error[..., self.grippers] * near.transpose(1, 2)


class Magnitudes(nn.Module):
    """Short-time magnitudes of the flattened chunk `[B, bins, frames]`, or their log mel bands."""

    def __init__(self, n_fft: int, mel: bool):
        super().__init__()
        self.n_fft, self.mel = n_fft, mel
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        bands = mel_bands(n_fft, min(N_MELS, n_fft // 2))
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, chunks: Tensor) -> Tensor:
        """Chunks `[B, H, D]`."""
        wave, hop = chunks.flatten(1), max(self.n_fft // 4, 1)
        spectrum = torch.stft(wave, self.n_fft, hop, window=self.window, return_complex=True)
        power = spectrum.real.square() + spectrum.imag.square()
        magnitudes = (power + FLOOR**2).sqrt()  # its gradient at 0 stays finite
        if not self.mel:
            return magnitudes
        return (self.bands @ magnitudes).clamp(min=FLOOR).log()


def dct_basis(n: int) -> Tensor:
    """Orthonormal DCT-II as a matrix `[n, n]`, frequency by time."""
    steps = torch.arange(n, dtype=torch.float64)
    basis = torch.cos(torch.pi / n * (steps + 0.5) * steps[:, None]) * (2 / n) ** 0.5
    basis[0] /= 2**0.5
    return basis.float()


def mel_bands(n_fft: int, n_mels: int) -> Tensor:
    """Triangles evenly spaced on the mel scale `[n_mels, n_fft / 2 + 1]` (O'Shaughnessy 1987)."""
    highest = 2595 * torch.log10(torch.tensor(1 + SAMPLE_RATE / 2 / 700))
    centres = 700 * (10 ** (torch.linspace(0, float(highest), n_mels + 2) / 2595) - 1)  # [Hz]
    bins = torch.linspace(0, SAMPLE_RATE / 2, n_fft // 2 + 1)
    rising = (bins - centres[:-2, None]) / (centres[1:-1] - centres[:-2])[:, None]
    falling = (centres[2:, None] - bins) / (centres[2:] - centres[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp(min=0)
