"""Residual vector quantizer over the latent of a whole chunk, whose steps share few codebooks.

NAC's stages have one codebook each for all their tokens. Here every token is one step of residual
quantization, and the steps of a stage share the stage's codebook through their rotation R_k and
gain g_k (Juang and Gray 1982, multiple-stage vector quantization). With codewords c, the
latent of codes z_0 .. z_{L-1} is

    sum over k of  g_k * c[z_k] @ R_k.

A few thousand codewords thus serve twelve steps and are learned from all of them; a separate
codebook for each step fitted the training chunks better and held-out chunks worse. Nothing here is
learned by gradients: codewords are moving averages, rotations come from the orthogonal Procrustes
problem (Schoenemann 1966).
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.precision import full_precision
from nac_ros.codec.quantizer import (
    EPSILON,
    SEARCH_ROWS,
    EmaCodebook,
    Quantized,
    mix_latents,
    nearest,
)

ROTATE_EVERY = 10  # training steps between rotation updates: each costs one SVD per token
LATENTS_PER_CODEWORD = 4  # mixed latents for k-means
INIT_ROUNDS = 3  # of k-means over all tokens of a stage; the gains have settled by then


class RotatedResidualQuantizer(nn.Module):
    """Latent `[B, E]` <-> codes, int64 `[B, n]` per stage.

    tokens_per_stage: how many tokens share each codebook
    beam_width: code prefixes kept during `codes`; training searches greedily
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        tokens_per_stage: tuple[int, ...],
        decay: float,
        revive: float,
        beam_width: int = 1,
    ):
        super().__init__()
        self.tokens_per_stage, self.decay, self.beam_width = tokens_per_stage, decay, beam_width
        self.codebooks = nn.ModuleList(
            EmaCodebook(codebook_size, dim, decay, revive) for _ in tokens_per_stage
        )
        self.stages = [s for s, n in enumerate(tokens_per_stage) for _ in range(n)]
        n_tokens = len(self.stages)
        self.register_buffer("rotations", torch.eye(dim).repeat(n_tokens, 1, 1))  # [L, E, E]
        self.register_buffer("gains", torch.ones(n_tokens))
        # moving averages for Procrustes: codeword^T target, and the codewords' squared length
        self.register_buffer("cross_covariance", torch.zeros(n_tokens, dim, dim))
        self.register_buffer("codeword_power", torch.zeros(n_tokens))
        self.register_buffer("n_updates", torch.zeros((), dtype=torch.int64))

    @property
    def n_tokens(self) -> int:
        return len(self.stages)

    def forward(self, latent: Tensor, dropout: float = 0.0) -> Quantized:
        """Quantizes `[B, E]`; in training mode codebooks and rotations are updated.

        dropout: share of the chunks decoded from a random number of their first tokens (nested
            dropout, Rippel et al. 2014), so that every prefix decodes
        """
        with full_precision(latent.device):
            return self._quantize(latent.float(), dropout)

    def _quantize(self, latent: Tensor, dropout: float) -> Quantized:
        codes = self._search(latent.detach(), 1 if self.training else self.beam_width)
        parts = self._contributions(codes)  # [B, L, E]
        kept = self._draw_prefixes(latent, dropout)  # [B, L]
        total = (parts * kept[..., None]).sum(1)
        commitment = F.mse_loss(latent, parts.sum(1))
        if self.training:
            self._update_ema(latent.detach(), codes, parts, kept)
        # Straight-through gradient for chunks decoded from all tokens alone: gradients from
        # truncated prefixes would degrade the full reconstruction.
        complete = kept[:, -1:]
        passed = total.detach() + complete * (latent - latent.detach())
        return Quantized(passed, self._by_stage(codes), commitment)

    def codes(self, latent: Tensor) -> list[Tensor]:
        """Latent `[B, E]` -> codes, int64 `[B, n]` per stage, without any update."""
        return self._by_stage(self._search(latent, self.beam_width))

    def dequantize(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes int64 `[B, n]` per stage, all or the first ones -> latent `[B, E]`."""
        return self._contributions(torch.cat(list(codes), 1)).sum(1)

    def residual_targets(self, latent: Tensor, codes: Sequence[Tensor] = ()) -> list[Tensor]:
        """Residual that each token quantizes, in its codebook's frame: `[B, n, E]` per stage.

        codes: the first codes, which need not be the nearest ones; greedy from there on
        """
        known = torch.cat(list(codes), 1) if codes else latent.new_zeros(len(latent), 0).long()
        residual, targets = latent, []
        for k in range(self.n_tokens):
            targets.append(self._to_codebook_frame(residual, k))
            given = k < known.shape[1]
            code = known[:, k] if given else self._codebook(k).nearest(targets[k])
            residual = residual - self._contribution(code, k)
        return list(torch.stack(targets, 1).split(self.tokens_per_stage, 1))

    def residual_target(self, residual: Tensor, k: int) -> Tensor:
        """Residual `[B, E]` that the tokens before k leave -> the vector `[B, E]` that token k
        quantizes, in its codebook's frame."""
        return self._to_codebook_frame(residual, k)

    def subtract(self, residual: Tensor, codes: Tensor, k: int) -> Tensor:
        """The residual `[B, E]` after token k has taken `codes` `[B]`."""
        return residual - self._contribution(codes, k)

    def residual_step(
        self, residual: Tensor, codewords: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`subtract` of token k - 1 and `residual_target` of token k, for export.

        residual: `[B, E]`; codewords: of token k - 1, `[B, E]`; k: int64 `[1]`
        """
        before, after = self.rotations[k - 1][0], self.rotations[k][0]
        residual = residual - self.gains[k - 1] * (codewords @ before)
        return residual @ after.T / self.gains[k], residual

    @torch.no_grad()
    def init_codebooks(self, latent: Tensor, seed: int) -> None:
        """Sets gains and codebooks from latents `[N, E]`, without rotations.

        Stage by stage: k-means over the residuals of all tokens of the stage, each scaled by
        its gain, the residual's root mean square. The residuals depend on the codebook, so this
        is repeated INIT_ROUNDS times, first with a codebook of the stage's first token alone.
        """
        generator = torch.Generator(latent.device).manual_seed(seed)
        n_latents = LATENTS_PER_CODEWORD * len(self.codebooks[0].codewords)
        latent = mix_latents(latent, n_latents, generator)
        identity = torch.eye(latent.shape[1], device=latent.device)
        self.rotations.copy_(identity.expand_as(self.rotations))
        ends = list(accumulate(self.tokens_per_stage, initial=0))
        for codebook, (first, end) in zip(self.codebooks, pairwise(ends)):
            for attempt in range(INIT_ROUNDS):
                rows, residual = [], latent
                for k in range(first, end):
                    self.gains[k] = residual.square().mean().sqrt().clamp(min=EPSILON)
                    rows.append(self._to_codebook_frame(residual, k))
                    if not attempt and k == first:
                        codebook.init_kmeans(rows[0], generator)
                    residual = residual - self._contribution(codebook.nearest(rows[-1]), k)
                codebook.init_kmeans(torch.cat(rows), generator)
            for k in range(first, end):
                code = codebook.nearest(self._to_codebook_frame(latent, k))
                latent = latent - self._contribution(code, k)
        for k in range(self.n_tokens):  # statistics whose Procrustes solution is gain and identity
            self.codeword_power[k] = self._codebook(k).codewords.square().sum(1).mean()
            scale = self.gains[k] * self.codeword_power[k] / len(identity)
            self.cross_covariance[k] = scale * identity

    def _search(self, latent: Tensor, beam_width: int) -> Tensor:
        """Latents `[B, E]` -> codes `[B, L]`, in blocks of rows that bound the memory."""
        if torch.compiler.is_exporting():
            return self._beam_search(latent, beam_width)  # a loop would fix the batch size
        rows = max(1, SEARCH_ROWS // beam_width)
        return torch.cat([self._beam_search(block, beam_width) for block in latent.split(rows)])

    def _beam_search(self, latent: Tensor, beam_width: int) -> Tensor:
        """Latents `[B, E]` -> codes `[B, L]`.

        A hypothesis is a prefix of codes with the residual that it leaves. At token k each of
        the M hypotheses is extended by each of the K codewords, and the `beam_width` extensions
        with the smallest squared residual are kept, in ascending order. The first hypothesis
        after the last token is the result. A width of 1 is the greedy search.
        """
        residual = latent[:, None]  # [B, M, E], M = 1
        prefix = latent.new_zeros(latent.shape[0], 1, 0).long()  # [B, M, k]
        for k in range(self.n_tokens):
            target = self._to_codebook_frame(residual, k)
            if beam_width == 1:
                code = nearest(target[:, 0], self._codebook(k).codewords)[:, None]  # [B, 1]
            else:
                parent, code = self._best_extensions(residual, target, k, beam_width)
                residual = residual.gather(1, parent.expand(-1, -1, residual.shape[2]))
                prefix = prefix.gather(1, parent.expand(-1, -1, prefix.shape[2]))
            residual = residual - self._contribution(code, k)
            prefix = torch.cat([prefix, code[..., None]], 2)
        return prefix[:, 0]

    def _best_extensions(
        self, residual: Tensor, target: Tensor, k: int, beam_width: int
    ) -> tuple[Tensor, Tensor]:
        """Parent `[B, M', 1]` and code `[B, M']` of the best extensions by token k.

        residual: `[B, M, E]` of the hypotheses; target: the same in the codebook's frame
        """
        # |r - g c R|^2 = |r|^2 + g^2 (|c|^2 - 2 t c) with the target t = r R^T / g
        codewords = self._codebook(k).codewords
        gain_part = codewords.square().sum(1) - 2 * target @ codewords.T  # [B, M, K]
        error = self.gains[k] ** 2 * gain_part + residual.square().sum(-1, keepdim=True)
        n_best = min(beam_width, error.shape[1] * error.shape[2])
        _, best = error.flatten(1).topk(n_best, largest=False)  # [B, M'], index m * K + code
        return (best // len(codewords))[..., None], best % len(codewords)

    @torch.no_grad()
    def _update_ema(self, latent: Tensor, codes: Tensor, parts: Tensor, kept: Tensor) -> None:
        """One moving-average step of codewords, and now and then of rotations and gains.

        Latents `[B, E]`, codes `[B, L]`, their contributions `[B, L, E]`, kept tokens `[B, L]`.

        The target of token k is the contribution p that would have left no error given all other
        tokens. Codewords move towards the targets in their frame. Rotation and gain minimize the
        mean of |p - g c R|^2: with the SVD U S V^T of the averaged c^T p, R = U V^T and
        g = trace(S) / mean |c|^2.
        """
        error = latent - (parts * kept[..., None]).sum(1)  # [B, E]
        targets = []
        for k in range(self.n_tokens):
            used = kept[:, k] > 0
            codeword = self._codebook(k).codewords[codes[used, k]]
            target = error[used] + parts[used, k]
            product, power = codeword.T @ target, codeword.square().sum()
            self.cross_covariance[k].lerp_(product / len(latent), 1 - self.decay)
            self.codeword_power[k].lerp_(power / len(latent), 1 - self.decay)
            targets.append(self._to_codebook_frame(target, k))
        for s, codebook in enumerate(self.codebooks):
            tokens = [k for k, stage in enumerate(self.stages) if stage == s]
            assigned = [codes[kept[:, k] > 0, k] for k in tokens]
            codebook.update(torch.cat([targets[k] for k in tokens]), torch.cat(assigned))
        self.n_updates += 1
        if self.n_updates % ROTATE_EVERY == 0:
            left, singular, right = torch.linalg.svd(self.cross_covariance)
            known = self.codeword_power > EPSILON  # codewords of zeros determine no rotation
            self.rotations[known] = (left @ right)[known]
            gains = singular.sum(1) / self.codeword_power
            self.gains[known] = gains[known].clamp(min=EPSILON)

    def _draw_prefixes(self, latent: Tensor, dropout: float) -> Tensor:
        """`[B, L]`: 1 for tokens that are decoded, 0 for those dropped."""
        batch, n = latent.shape[0], self.n_tokens
        if not dropout or not self.training or n == 1:
            return latent.new_ones(batch, n)
        on = {"device": latent.device}
        lengths = torch.randint(1, n, (batch, 1), **on)
        lengths = torch.where(torch.rand(batch, 1, **on) >= dropout, n, lengths)
        return (torch.arange(n, **on) < lengths).to(latent)

    def _codebook(self, k: int) -> EmaCodebook:
        return self.codebooks[self.stages[k]]

    def _to_codebook_frame(self, residual: Tensor, k: int) -> Tensor:
        """Undoes token k's rotation and gain: residual `[..., E]` in its codebook's frame."""
        return residual @ self.rotations[k].T / self.gains[k]

    def _contribution(self, code: Tensor, k: int) -> Tensor:
        """Codes `[...]` of token k -> their part of the latent, `[..., E]`."""
        return self.gains[k] * (F.embedding(code, self._codebook(k).codewords) @ self.rotations[k])

    def _contributions(self, codes: Tensor) -> Tensor:
        """Codes `[B, k]` of the first k tokens -> `[B, k, E]`."""
        return torch.stack([self._contribution(codes[:, k], k) for k in range(codes.shape[1])], 1)

    def _by_stage(self, codes: Tensor) -> list[Tensor]:
        return list(codes.split(self.tokens_per_stage, 1))
