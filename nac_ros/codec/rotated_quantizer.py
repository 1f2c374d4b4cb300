"""Residual quantizer whose tokens name the whole chunk in turns, over few shared codebooks.

A stage of NAC has one codebook for all its tokens. Here each of them sees it turned and scaled in
its own way, so that a few thousand vectors serve as the codebooks of many residual steps
(Juang and Gray 1982) and are learned from all of them: with a codebook each, the same tokens fit
the training chunks better and others worse. Turns come by orthogonal Procrustes (Schoenemann
1966), codewords as slow means, neither by gradients.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nac_ros.codec.quantizer import LEAST, ROWS, EmaCodebook, Quantized, mixed, nearest

TURN_EVERY = 10  # training forwards; turns move slowly, and cost a decomposition each
LATENTS = 4  # a codeword, mixed from those given, for k-means
ROUNDS = 3  # of k-means over all tokens of a stage, after which their scales have settled


class RotatedResidualQuantizer(nn.Module):
    """Token k takes from the latent `[E]` a codeword of its stage, times `gains[k]`, `turns[k]`.

    tokens_per_stage: how many tokens each codebook serves
    beam: how many of the best beginnings are kept while codes are chosen; in training one
    """

    def __init__(
        self,
        dim: int,
        codebook_size: int,
        tokens_per_stage: tuple[int, ...],
        decay: float,
        revive: float,
        beam: int = 1,
    ):
        super().__init__()
        self.tokens_per_stage, self.decay, self.beam = tokens_per_stage, decay, beam
        self.codebooks = nn.ModuleList(
            EmaCodebook(codebook_size, dim, decay, revive) for _ in tokens_per_stage
        )
        self.stages = [s for s, n in enumerate(tokens_per_stage) for _ in range(n)]
        n_tokens = len(self.stages)
        self.register_buffer("turns", torch.eye(dim).repeat(n_tokens, 1, 1))  # [L, E, E]
        self.register_buffer("gains", torch.ones(n_tokens))
        # for Procrustes, slow means: codewords against what they should have been, and alone
        self.register_buffer("crossed", torch.zeros(n_tokens, dim, dim))
        self.register_buffer("powers", torch.zeros(n_tokens))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))

    @property
    def n_tokens(self) -> int:
        return len(self.stages)

    def forward(self, latent: Tensor, dropout: float = 0.0) -> Quantized:
        """Latent `[B, E]`; in training mode codebooks and turns follow and the gradient passes.

        dropout: share of chunks of which only a random number of first tokens is decoded (nested
        dropout, Rippel et al. 2014), so that every prefix does
        """
        codes = self._search(latent.detach(), 1 if self.training else self.beam)
        parts = self._parts(codes)  # [B, L, E]
        kept = self._kept(latent, dropout)
        total = (parts * kept[..., None]).sum(1)
        commitment = F.mse_loss(latent, parts.sum(1))
        if self.training:
            self._follow(latent.detach(), codes, parts, kept)
        whole = kept[:, -1:]  # an encoder that pleases prefixes would spoil the rest
        passed = total.detach() + whole * (latent - latent.detach())
        return Quantized(passed, self._by_stage(codes), commitment)

    def codes(self, latent: Tensor) -> list[Tensor]:
        """Latent `[B, E]` -> codes, int64 `[B, n]` per stage; nothing learns."""
        return self._by_stage(self._search(latent, self.beam))

    def dequantize(self, codes: Sequence[Tensor]) -> Tensor:
        """Codes int64 `[B, n]` per stage, all or the first ones -> latent `[B, E]`."""
        return self._parts(torch.cat(list(codes), 1)).sum(1)

    def residual_targets(self, latent: Tensor, said: Sequence[Tensor] = ()) -> list[Tensor]:
        """What each token is asked to name, in its own turn and scale: `[B, n, E]` per stage.

        said: the first codes, which may be others than the nearest
        """
        known = torch.cat(list(said), 1) if said else latent.new_zeros(len(latent), 0).long()
        rest, wanted = latent, []
        for k in range(self.n_tokens):
            wanted.append(self._turned_back(rest, k))
            at = known[:, k] if k < known.shape[1] else self._book(k).nearest(wanted[k])
            rest = rest - self._part(at, k)
        return list(torch.stack(wanted, 1).split(self.tokens_per_stage, 1))

    @torch.no_grad()
    def initialise(self, latent: Tensor, seed: int) -> None:
        """k-means of every stage over what all its tokens are asked to name, of `[N, E]`."""
        generator = torch.Generator().manual_seed(seed)
        latent = mixed(latent, LATENTS * len(self.codebooks[0].codewords), generator)
        dim = latent.shape[1]
        self.turns.copy_(torch.eye(dim).expand_as(self.turns))
        ends = torch.tensor([0, *self.tokens_per_stage]).cumsum(0).tolist()
        for book, (first, end) in zip(self.codebooks, pairwise(ends)):
            for attempt in range(ROUNDS):
                rows, rest = [], latent
                for k in range(first, end):
                    self.gains[k] = rest.square().mean().sqrt().clamp(min=LEAST)
                    rows.append(self._turned_back(rest, k))
                    if not attempt and k == first:
                        book.initialise(rows[0], generator)
                    rest = rest - self._part(book.nearest(rows[-1]), k)
                book.initialise(torch.cat(rows), generator)
            for k in range(first, end):
                latent = latent - self._part(book.nearest(self._turned_back(latent, k)), k)
        for k in range(self.n_tokens):  # as if nothing had ever been turned
            self.powers[k] = self._book(k).codewords.square().sum(1).mean()
            self.crossed[k] = self.gains[k] * self.powers[k] / dim * torch.eye(dim).to(latent)

    def _search(self, latent: Tensor, beam: int) -> Tensor:
        """`[B, E]` -> the codes `[B, L]` of the best of `beam` beginnings kept at each token."""
        if torch.compiler.is_exporting():
            return self._beams(latent, beam)  # a loop would fix the batch
        rows = max(1, ROWS // beam)
        return torch.cat([self._beams(some, beam) for some in latent.split(rows)])

    def _beams(self, latent: Tensor, beam: int) -> Tensor:
        """Latents `[B, E]` -> codes `[B, L]`."""
        batch = latent.shape[0]
        rest, said = latent[:, None], latent.new_zeros(batch, 1, 0).long()  # [B, M, E], [B, M, k]
        for k in range(self.n_tokens):
            book, wanted = self._book(k), self._turned_back(rest, k)
            if beam == 1:
                code = nearest(wanted[:, 0], book.codewords)[:, None]
            else:
                rest, said, code = self._best(rest, said, wanted, k, beam)
            rest = rest - self._part(code, k)
            said = torch.cat([said, code[..., None]], 2)
        return said[:, 0]

    def _best(
        self, rest: Tensor, said: Tensor, wanted: Tensor, k: int, beam: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of beginnings, what they leave `[B, M, E]` and their codes `[B, M, k]`: those that the
        best `beam` continuations go on from, and these codes `[B, beam]`.

        wanted: what they leave, in the turn and scale of token k
        """
        words = self._book(k).codewords
        left = words.square().sum(1) - 2 * wanted @ words.T  # [B, M, K], less |wanted|^2
        left = self.gains[k] ** 2 * left + rest.square().sum(-1, keepdim=True)
        n_best = min(beam, left.shape[1] * left.shape[2])
        _, places = left.flatten(1).topk(n_best, largest=False)
        code = places % len(words)
        from_ = (places // len(words))[..., None]
        rest = rest.gather(1, from_.expand(-1, -1, rest.shape[2]))
        return rest, said.gather(1, from_.expand(-1, -1, said.shape[2])), code

    @torch.no_grad()
    def _follow(self, latent: Tensor, codes: Tensor, parts: Tensor, kept: Tensor) -> None:
        """Codewords and turns towards what would have left no error, all other tokens as said.

        Latents `[B, E]`, codes `[B, L]`, their parts `[B, L, E]`, which of them count `[B, L]`
        """
        missing = latent - (parts * kept[..., None]).sum(1)  # [B, E]
        words = torch.stack([self._book(k).codewords[codes[:, k]] for k in range(self.n_tokens)])
        wanted = []
        for k in range(self.n_tokens):
            used = kept[:, k] > 0
            word, part = words[k][used], missing[used] + parts[used, k]
            self.crossed[k].lerp_(word.T @ part / len(latent), 1 - self.decay)
            self.powers[k].lerp_(word.square().sum() / len(latent), 1 - self.decay)
            wanted.append(self._turned_back(part, k))
        self._move_codewords(codes, kept, wanted)
        self.forwards += 1
        if self.forwards % TURN_EVERY == 0:
            left, scales, right = torch.linalg.svd(self.crossed)
            known = self.powers > LEAST  # nothing can be said of codewords that are zero
            self.turns[known] = (left @ right)[known]
            self.gains[known] = (scales.sum(1) / self.powers)[known].clamp(min=LEAST)

    def _move_codewords(self, codes: Tensor, kept: Tensor, wanted: list[Tensor]) -> None:
        for s, book in enumerate(self.codebooks):
            members = [k for k, stage in enumerate(self.stages) if stage == s]
            assigned = [codes[kept[:, k] > 0, k] for k in members]
            book.update(torch.cat([wanted[k] for k in members]), torch.cat(assigned))

    def _kept(self, latent: Tensor, dropout: float) -> Tensor:
        """`[B, L]`: 1 for tokens that are decoded."""
        batch, n = latent.shape[0], self.n_tokens
        if not dropout or not self.training or n == 1:
            return latent.new_ones(batch, n)
        lengths = torch.randint(1, n, (batch, 1))
        lengths[torch.rand(batch, 1) >= dropout] = n
        return (torch.arange(n) < lengths).to(latent)

    def _book(self, k: int) -> EmaCodebook:
        return self.codebooks[self.stages[k]]

    def _turned_back(self, rest: Tensor, k: int) -> Tensor:
        """Latents `[..., E]` -> where the codewords of token k are."""
        return rest @ self.turns[k].T / self.gains[k]

    def _part(self, code: Tensor, k: int) -> Tensor:
        """Codes `[...]` of token k -> its part of the latent `[..., E]`."""
        return self.gains[k] * (F.embedding(code, self._book(k).codewords) @ self.turns[k])

    def _parts(self, codes: Tensor) -> Tensor:
        return torch.stack([self._part(codes[:, k], k) for k in range(codes.shape[1])], 1)

    def _by_stage(self, codes: Tensor) -> list[Tensor]:
        return list(codes.split(self.tokens_per_stage, 1))
