"""EMA codebooks and the multi-scale residual vector quantizer (NAC section 3.2)."""

from collections.abc import Sequence
from math import lcm, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.precision import full_precision

KMEANS_ITERATIONS = 10
SEARCH_ROWS = 2048  # latents per block of the nearest-codeword search: the distances fit the cache
EPSILON = 1e-6  # lower bound of a denominator
MAX_MIX_ANGLE = pi / 4  # [rad] of `mix_latents`


class Quantized(NamedTuple):
    """Result of a quantizer.

    latent: `[B, E, T']`, or `[B, E]` for a whole chunk; codes: int64 `[B, n]` per stage;
    commitment: scalar loss, mean squared distance from the latents to their codewords
    """

    latent: Tensor
    codes: list[Tensor]
    commitment: Tensor


class EmaCodebook(nn.Module):
    """`size` codewords `[K, E]`, each a moving average of the latents assigned to it.

    The update is VQ-VAE's exponential moving average (van den Oord et al. 2017, appendix A.1),
    written on the differences to the codeword. With decay d, n_k latents assigned to codeword k
    and s_k the sum of their differences to it:

        counts_k <- d counts_k + (1 - d) n_k
        codeword_k <- codeword_k + (1 - d) s_k / counts_k

    A codeword whose count falls below `revive_below` is dead: it restarts on a random latent of
    the batch (SoundStream, arXiv 2107.03312, section III-C), with a count that keeps it alive
    long enough to attract latents.

    frozen: whether k-means and updates leave the codewords as they are
    """

    def __init__(self, size: int, dim: int, decay: float, revive_below: float):
        super().__init__()
        self.decay, self.revive_below, self.frozen = decay, revive_below, False
        self.register_buffer("codewords", torch.randn(size, dim) * 0.1)
        self.register_buffer("counts", torch.ones(size))

    def nearest(self, latents: Tensor) -> Tensor:
        """Index of the nearest codeword (L2) of latents `[N, E]`: int64 `[N]`."""
        return nearest(latents, self.codewords)

    @torch.no_grad()
    def init_kmeans(self, latents: Tensor, generator: torch.Generator) -> None:
        """Sets the codewords by k-means on latents `[N, E]`; an empty cluster is redrawn.

        generator: on the device of the latents
        """
        if self.frozen:
            return
        size = len(self.codewords)
        means = _sample(latents, size, generator)
        noise = torch.randn(means.shape, generator=generator, device=latents.device)
        means = means + 1e-4 * latents.std() * noise
        for _ in range(KMEANS_ITERATIONS):
            assigned = nearest(latents, means)
            counts, sums = count_and_sum(latents, assigned, size)
            drawn = _sample(latents, size, generator)
            means = torch.where((counts == 0)[:, None], drawn, sums / counts.clamp(min=1)[:, None])
        self.codewords.copy_(means)
        self.counts.fill_(1.0)

    @torch.no_grad()
    def update(self, latents: Tensor, assigned: Tensor) -> None:
        """One EMA step on latents `[N, E]` assigned to codewords `[N]`; revives dead codewords."""
        if self.frozen:
            return
        differences = latents - self.codewords[assigned]
        counts, sums = count_and_sum(differences, assigned, len(self.codewords))
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        step = sums / self.counts.clamp(min=EPSILON)[:, None]
        self.codewords.add_(step, alpha=1 - self.decay)
        dead = self.counts < self.revive_below
        if not len(latents) or (dead.device.type == "cpu" and not dead.any()):
            return  # on a GPU it costs less to draw than to wait for this answer
        drawn = _sample(latents, len(dead), None)
        self.codewords.copy_(torch.where(dead[:, None], drawn, self.codewords))
        self.counts.masked_fill_(dead, 4 * self.revive_below)


class ResidualVectorQuantizer(nn.Module):
    """Residual vector quantizer over time scales (NAC section 3.2; SNAC, arXiv 2410.14411).

    Stage s averages the residual over `scales[s]` neighbouring latent steps, quantizes the
    averages with its own codebook, and subtracts the codewords, repeated to the full rate.

    beam_width: code prefixes that `codes` keeps after each code; 1 = the nearest codeword each
        time. Training always takes the nearest ones.
    active_stages: number of stages that `forward` uses, while the later ones are not trained yet
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        scales: tuple[int, ...],
        decay: float,
        revive: float,
        beam_width: int = 1,
    ):
        super().__init__()
        self.scales, self.beam_width, self.active_stages = scales, beam_width, len(scales)
        self.codebooks = nn.ModuleList(
            EmaCodebook(codebook_size, dim, decay, revive) for _ in scales
        )

    def forward(self, latent: Tensor, dropout: float = 0.0) -> Quantized:
        """Quantizes `[B, E, T']`; gradients pass straight through.

        In training mode the codebooks are updated, and a share `dropout` of the chunks keeps the
        first stage alone (SoundStream's quantizer dropout), so that a prefix decodes.
        """
        with full_precision(latent.device):
            return self._quantize(latent.float(), dropout)

    def _quantize(self, latent: Tensor, dropout: float) -> Quantized:
        residual, total = latent, torch.zeros_like(latent)
        codes, commitments = [], []
        kept: Tensor | float = 1.0
        for codebook, scale in zip(self.codebooks[: self.active_stages], self.scales):
            pooled = pool(residual, scale)
            indices = self._nearest(codebook, pooled.detach())
            chosen = _lookup(codebook.codewords, indices)
            commitments.append(F.mse_loss(pooled, chosen))
            passed = upsample(pooled + (chosen - pooled).detach(), scale)  # straight-through
            residual, total = residual - passed, total + kept * passed
            if dropout and not codes:
                kept = (torch.rand(len(latent), 1, 1, device=latent.device) >= dropout).float()
            codes.append(indices)
            if self.training:
                codebook.update(_rows(pooled.detach()), indices.flatten())
        return Quantized(total, codes, torch.stack(commitments).mean())

    @torch.no_grad()
    def init_codebooks(self, latent: Tensor, seed: int) -> None:
        """Sets each stage by k-means on the residual `[B, E, T']` of the stages before it."""
        generator = torch.Generator(latent.device).manual_seed(seed)
        residual = latent
        for codebook, scale in zip(self.codebooks, self.scales):
            pooled = pool(residual, scale)
            codebook.init_kmeans(_rows(pooled), generator)
            indices = self._nearest(codebook, pooled)
            residual = residual - upsample(_lookup(codebook.codewords, indices), scale)

    def codes(self, latent: Tensor) -> list[Tensor]:
        """Latent `[B, E, T']` -> codes, int64 `[B, n]` per stage, without any update."""
        if self.beam_width == 1:
            return [indices for _, indices in self._stages(latent)]
        batch, dim, n_steps = latent.shape
        # Steps under different codes of the coarsest scale share no code: each such group of
        # `size` steps is searched by itself, [B * T' / size, E, size].
        size = lcm(*self.scales)
        groups = latent.view(batch, dim, n_steps // size, size).transpose(1, 2).flatten(0, 1)
        codes = self._search(groups).view(batch, n_steps // size, -1)
        lengths = [size // scale for scale in self.scales]
        return [stage.flatten(1) for stage in codes.split(lengths, 2)]

    def residual_targets(self, latent: Tensor, codes: Sequence[Tensor] = ()) -> list[Tensor]:
        """Unquantized residuals `[B, n, E]` per stage that its codes approximate.

        codes: codes `[B, n]` of the first stages if others than the nearest were chosen; those
            of an incomplete stage are ignored
        """
        return [pooled.transpose(1, 2) for pooled, _ in self._stages(latent, codes)]

    def residual_target(self, residual: Tensor, k: int) -> Tensor:
        """Residual `[B, E, T']` that the codes before k leave, in the order of the stages -> the
        vector `[B, E]` that code k quantizes."""
        _, first, end = self._place_of(k, residual.shape[2])
        return residual[..., first:end].mean(-1)

    def subtract(self, residual: Tensor, codes: Tensor, k: int) -> Tensor:
        """The residual `[B, E, T']` after code k is one of `codes` `[B]`."""
        stage, first, end = self._place_of(k, residual.shape[2])
        residual = residual.clone()
        residual[..., first:end] -= F.embedding(codes, self.codebooks[stage].codewords)[..., None]
        return residual

    def residual_step(
        self, residual: Tensor, codewords: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`subtract` of code k - 1 and `residual_target` of code k, for export.

        residual: `[B, E, T']`; codewords: of code k - 1, `[B, E]`; k: int64 `[1]`
        """
        n_steps = residual.shape[2]
        places = [self._place_of(code, n_steps) for code in range(self._n_codes(n_steps))]
        rows = [[float(a <= step < b) for step in range(n_steps)] for _, a, b in places]
        covered = torch.tensor(rows, device=residual.device)  # [L, T']
        residual = residual - codewords[..., None] * covered[k - 1]
        share = (covered / covered.sum(1, keepdim=True))[k]
        return (residual * share).sum(-1), residual

    def _n_codes(self, n_steps: int) -> int:
        return sum(n_steps // scale for scale in self.scales)

    def _place_of(self, k: int, n_steps: int) -> tuple[int, int, int]:
        """Stage of code k, and the first and the end of the latent steps that it describes."""
        for stage, scale in enumerate(self.scales):
            if k < n_steps // scale:
                return stage, k * scale, (k + 1) * scale
            k -= n_steps // scale
        raise IndexError(f"there is no code {k} after the last stage")

    def dequantize(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes int64 `[B, n]` of all stages or the first ones -> latent `[B, E, T']`."""
        parts = [
            upsample(_lookup(codebook.codewords, indices), scale)
            for codebook, indices, scale in zip(self.codebooks, codes, self.scales)
        ]
        return torch.stack(parts).sum(0)

    def _stages(self, latent: Tensor, given: Sequence[Tensor] = ()) -> list[tuple[Tensor, Tensor]]:
        """Pooled residual `[B, E, n]` and codes `[B, n]` of each stage, given or nearest."""
        residual, stages = latent, []
        for s, (codebook, scale) in enumerate(zip(self.codebooks, self.scales)):
            pooled = pool(residual, scale)
            complete = s < len(given) and given[s].shape[1] == pooled.shape[-1]
            indices = given[s] if complete else self._nearest(codebook, pooled)
            stages.append((pooled, indices))
            residual = residual - upsample(_lookup(codebook.codewords, indices), scale)
        return stages

    def _search(self, groups: Tensor) -> Tensor:
        """Steps `[N, E, S]` -> codes `[N, k]`, in blocks of rows that bound the memory."""
        if torch.compiler.is_exporting():
            return self._beam_or_nearest(groups)  # a loop would fix the batch size of the graph
        rows = max(1, SEARCH_ROWS // self.beam_width)
        return torch.cat([self._beam_or_nearest(block) for block in groups.split(rows)])

    def _beam_or_nearest(self, groups: Tensor) -> Tensor:
        """The better of beam search and nearest codewords for each of `[N, E, S]`: a beam may
        lose the prefix of nearest codewords although its end would be better."""
        (beam, beam_error), (greedy, greedy_error) = (
            self._beam_search(groups, width) for width in (self.beam_width, 1)
        )
        return torch.where((beam_error <= greedy_error)[:, None], beam, greedy)

    def _beam_search(self, groups: Tensor, beam_width: int) -> tuple[Tensor, Tensor]:
        """Steps `[N, E, S]` -> codes `[N, k]`, stage by stage, and squared errors `[N]`.

        A hypothesis is a prefix of codes with the residual that it leaves. Each of the M
        hypotheses is extended by each codeword c, which changes the squared residual of its
        `scale` steps of mean m by scale (|c|^2 - 2 c m). The `beam_width` extensions with the
        smallest squared residual are kept, in ascending order.
        """
        residual = groups[:, None]  # [N, M, E, S], M = 1
        prefix = groups.new_zeros(groups.shape[0], 1, 0).long()  # [N, M, k]
        for codebook, scale in zip(self.codebooks, self.scales):
            codewords = codebook.codewords
            for first in range(0, groups.shape[2], scale):
                mean = residual[..., first : first + scale].mean(-1)  # [N, M, E]
                change = scale * (codewords.square().sum(1) - 2 * mean @ codewords.T)
                error = change + residual.square().sum((2, 3))[..., None]  # [N, M, K]
                n_best = min(beam_width, error.shape[1] * error.shape[2])
                _, best = error.flatten(1).topk(n_best, largest=False)
                parent, code = best // len(codewords), best % len(codewords)  # [N, M'] each
                residual = _rows_of(residual, parent)
                prefix = torch.cat([_rows_of(prefix, parent), code[..., None]], 2)
                step = torch.arange(groups.shape[2], device=groups.device)
                below = ((step >= first) & (step < first + scale)).to(groups)  # [S]
                residual = residual - F.embedding(code, codewords)[..., None] * below
        return prefix[:, 0], residual[:, 0].square().sum((1, 2))

    @staticmethod
    def _nearest(codebook: EmaCodebook, pooled: Tensor) -> Tensor:
        """`[B, E, n]` -> codes `[B, n]`."""
        return codebook.nearest(_rows(pooled)).view(pooled.shape[0], -1)


def nearest(latents: Tensor, codewords: Tensor) -> Tensor:
    """Index of the codeword nearest (L2) to each of `[N, E]` among `[K, E]`: int64 `[N]`.

    |x - c|^2 = |c|^2 - 2 x c + |x|^2, and |x|^2 is the same for all codewords.
    """
    squares, columns = codewords.square().sum(1), codewords.T

    def search(rows: Tensor) -> Tensor:
        return torch.addmm(squares, rows, columns, alpha=-2).argmin(1)

    if torch.compiler.is_exporting():
        return search(latents)  # a loop would fix the batch size of the graph
    return torch.cat([search(rows) for rows in latents.split(SEARCH_ROWS)])


def count_and_sum(latents: Tensor, assigned: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Number of latents `[N, E]` assigned to each codeword, `[K]`, and their sums `[K, E]`."""
    counts = latents.new_zeros(size).index_add_(0, assigned, latents.new_ones(len(assigned)))
    sums = latents.new_zeros(size, latents.shape[1]).index_add_(0, assigned, latents)
    return counts, sums


def mix_latents(latents: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` random latents with the mean and covariance of `[N, E]`, for k-means of many stages.

    generator: on the device of the latents

    Each is cos(a) x + sin(a) y of two centred latents, a <= MAX_MIX_ANGLE. k-means of a dozen
    stages on the same few thousand latents would leave almost no residual to the later stages.
    """
    mean = latents.mean(0)
    on = {"generator": generator, "device": latents.device}
    first, second = (latents - mean)[torch.randint(len(latents), (2, n), **on)]
    angle = MAX_MIX_ANGLE * torch.rand(n, 1, **on)
    return mean + angle.cos() * first + angle.sin() * second


def pool(x: Tensor, scale: int) -> Tensor:
    """Means of `scale` neighbours along time, `[B, E, T']` -> `[B, E, T'/scale]`."""
    return F.avg_pool1d(x, scale) if scale > 1 else x


def upsample(x: Tensor, scale: int) -> Tensor:
    """Repeats each step `scale` times, `[B, E, n]` -> `[B, E, n * scale]`."""
    return x.repeat_interleave(scale, dim=-1) if scale > 1 else x


def _sample(latents: Tensor, n: int, generator: torch.Generator | None) -> Tensor:
    """`n` random rows, without replacement if there are enough."""
    on = {"generator": generator, "device": latents.device}
    if len(latents) >= n:
        return latents[torch.randperm(len(latents), **on)[:n]]
    return latents[torch.randint(len(latents), (n,), **on)]


def _rows(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(-1, x.shape[1])  # [B, E, n] -> [B * n, E]


def _rows_of(values: Tensor, index: Tensor) -> Tensor:
    """Entries `[N, M', ...]` of `[N, M, ...]` at indices `[N, M']`."""
    shape = (*index.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.view(shape).expand(-1, -1, *values.shape[2:]))


def _lookup(codewords: Tensor, indices: Tensor) -> Tensor:
    return F.embedding(indices, codewords).transpose(1, 2)  # [B, n] -> [B, E, n]
