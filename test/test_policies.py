"""Token policies: legal samples, key-value cache, training, warm start, rejected inputs."""

import copy

import numpy as np
import pytest
import torch

from nac_ros.core.errors import BadObservation, BadTokens, BundleError, ConfigError, UnknownName
from nac_ros.core.types import Observation
from nac_ros.policies import list_policies
from nac_ros.policies.base import Inputs, Targets, load_policy, make_policy, warm_start
from nac_ros.policies.codeword_head import CodewordHead
from nac_ros.policies.sampling import Sampling, sample
from nac_ros.policies.vision import spatial_softmax
from nac_ros.tokenizers import list_tokenizers, make_tokenizer

TASKS = {"weighing": "Turn on the weighing machine.", "marker": "Place the marker in the bin."}
SIZE = 48


def fitted(name, **config):
    """A tokenizer fitted to random walks, with small networks."""
    steps = np.random.default_rng(0).standard_normal((300, 32, 7))
    chunks = (0.02 * steps.cumsum(1)).astype(np.float32)
    small = {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
    sizes = {"nac": {"latent_dim": 16, **small}}
    return make_tokenizer(name, **sizes.get(name, {}), **config).fit(chunks)


@pytest.fixture(scope="module")
def tokenizer():
    return fitted("nac", beam_width=1)  # an untrained policy samples the nearest tokens


@pytest.fixture(scope="module", params=list_tokenizers())
def each(request):
    """Every registered tokenizer."""
    return fitted(request.param)


def make(tokenizer, **changes):
    """A small policy with random weights."""
    torch.manual_seed(0)
    facts = {"cameras": ["scene", "wrist"], "tasks": TASKS, "state_dim": 7, "image_size": SIZE}
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "vision_width": 32, "n_keypoints": 4}
    return make_policy("ar", "small", tokenizer, **{**facts, **sizes, **changes}).eval()


def random_inputs(batch: int, seed: int = 0) -> Inputs:
    """Noise images and joint states."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, SIZE, SIZE, 3)
    images = {
        camera: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for camera in ("scene", "wrist")
    }
    proprio = torch.randn(batch, 2, 7, generator=generator)
    return Inputs(images, proprio, torch.zeros(batch, dtype=torch.int64))


def test_ten_thousand_samples_of_random_logits_are_all_decodable(each):
    grammar, generator = each.grammar, torch.Generator().manual_seed(0)
    tokens = torch.empty(10_000, 0, dtype=torch.int64)
    while not grammar.done(tokens.numpy()).all():
        legal = torch.from_numpy(grammar.legal(tokens.numpy()).copy())
        done = torch.from_numpy(grammar.done(tokens.numpy()).copy())
        logits = 5 * torch.rand(legal.shape, generator=generator)
        chosen = sample(logits, legal, done, Sampling(top_k=50), generator)
        tokens = torch.cat([tokens, chosen], 1)
    grammar.check(tokens.numpy())
    assert all(torch.isfinite(each.decode(part)).all() for part in tokens.split(2000))


def test_a_policy_over_any_tokenizer_gives_illegal_tokens_probability_zero(each):
    policy = make(each)
    inputs = random_inputs(4)
    tokens = policy.sample_tokens(inputs).tokens
    each.grammar.check(tokens.numpy())
    probabilities = policy.token_log_probs(inputs, tokens).exp()  # [B, L, V]
    for position in range(tokens.shape[1]):
        open_rows = ~each.grammar.done(tokens.numpy()[:, :position])
        illegal = ~each.grammar.legal(tokens.numpy()[:, :position])[open_rows]
        rows = probabilities[torch.from_numpy(open_rows), position].detach()
        assert float(rows.numpy()[illegal].sum()) == 0.0
        assert torch.allclose(rows.sum(-1), torch.ones(int(open_rows.sum())), atol=1e-4)


def test_a_policy_learns_from_sequences_of_any_length(each):
    policy = make(each).train()
    chunk = torch.randn(6, 32, 7).cumsum(1) * 0.02
    with torch.no_grad():
        normalised = each.normalize(chunk)
        tokens, latents = each.encode(chunk), each.latents(normalised)
    policy.fit_tokens(latents, tokens)
    losses = policy.losses(random_inputs(6), Targets(normalised, tokens, latents, normalised))
    sum(losses.values()).backward()
    assert torch.isfinite(losses["tokens"]) and losses["tokens"] > 0


def test_the_cache_gives_the_same_tokens_as_a_full_pass(tokenizer):
    policy = make(tokenizer)
    inputs = random_inputs(3)
    greedy = policy.sample_tokens(inputs).tokens
    assert torch.equal(policy.token_log_probs(inputs, greedy).argmax(-1), greedy)


def test_later_tokens_do_not_change_earlier_ones(tokenizer):
    policy = make(tokenizer)
    inputs, tokens = random_inputs(2), policy.sample_tokens(random_inputs(2)).tokens
    changed = tokens.clone()
    changed[:, 6:] = tokenizer.encode(np.ones((2, 32, 7)))[:, 6:]
    before, after = policy.token_log_probs(inputs, tokens), policy.token_log_probs(inputs, changed)
    assert torch.allclose(before[:, :7].exp(), after[:, :7].exp(), atol=1e-6)


def test_a_seed_repeats_a_sample_and_another_differs(tokenizer):
    policy = make(tokenizer, sampling={"top_k": 10})
    inputs = random_inputs(8)
    first, again = (
        policy.sample_tokens(inputs, torch.Generator().manual_seed(1)).tokens for _ in range(2)
    )
    other = policy.sample_tokens(inputs, torch.Generator().manual_seed(2)).tokens
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_tokens_chosen_by_beam_search_are_the_training_targets():
    tokenizer = fitted("nac")
    policy, chunk = make(tokenizer), torch.randn(6, 32, 7).cumsum(1) * 0.02
    with torch.no_grad():
        normalised = tokenizer.normalize(chunk)
        tokens, latents = tokenizer.encode(chunk), tokenizer.latents(normalised)
    policy.fit_tokens(latents, tokens)
    targets = Targets(normalised, tokens, latents, normalised)
    wanted = policy._target_distribution(targets, policy._legal(tokens))
    assert tokenizer.uses_beam_search and torch.equal(wanted.argmax(-1), tokens)


def test_duplicate_codewords_and_a_single_one_leave_targets_finite():
    codewords = torch.randn(4, 3).repeat(2, 1)
    for known in (codewords, codewords[:1]):
        head = CodewordHead(known, 8, 2)
        legal = torch.ones(5, 2, len(known), dtype=torch.bool)
        head.fit(torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.int64), legal)
        assert (head.target_widths > 1e-3).all()
        assert torch.isfinite(head.soft_targets(torch.randn(5, 2, 3), 2.0, legal)).all()


@pytest.mark.parametrize("token_weight", [0.0, 1.0])
def test_a_policy_whose_tokens_are_untrained_samples_its_regressed_chunk(tokenizer, token_weight):
    policy, inputs = make(tokenizer, token_weight=token_weight), random_inputs(3)
    regressed = tokenizer.encode(tokenizer.denormalize(policy.regress_chunk(inputs)))
    assert torch.equal(policy.sample_tokens(inputs).tokens, regressed)


def test_a_policy_fits_one_batch(tokenizer):
    policy = make(tokenizer).train()
    inputs = random_inputs(8)
    steps = np.random.default_rng(1).standard_normal((8, 32, 7))
    chunk = tokenizer.normalize((0.02 * steps.cumsum(1)).astype(np.float32))
    with torch.no_grad():
        latents = tokenizer.latents(chunk)
    tokens = tokenizer.encode(tokenizer.denormalize(chunk))
    policy.fit_tokens(latents, tokens)
    targets = Targets(chunk, tokens, latents, chunk)
    optimizer = torch.optim.Adam(policy.parameters(), 3e-3)
    first = {key: float(value.detach()) for key, value in policy.losses(inputs, targets).items()}
    for _ in range(60):
        losses = policy.losses(inputs, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["regression"] < 0.6 * first["regression"]
    assert losses["tokens"] < 0.9 * first["tokens"]


def test_saved_and_loaded_policies_agree(tokenizer, tmp_path):
    policy = make(tokenizer)
    policy.save_pretrained(tmp_path)
    inputs = random_inputs(2)
    assert torch.equal(
        load_policy(tmp_path, tokenizer).sample_tokens(inputs).tokens,
        policy.sample_tokens(inputs).tokens,
    )


def test_a_warm_start_copies_all_with_the_same_tokenizer_and_the_vision_encoder_with_another(
    tokenizer, tmp_path
):
    trained = make(tokenizer)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.1)
    trained.save_pretrained(tmp_path)
    fresh = make(tokenizer)
    warm_start(fresh, tmp_path)
    assert torch.equal(
        fresh.codeword_head.residual_projection.weight,
        trained.codeword_head.residual_projection.weight,
    )
    other = copy.deepcopy(tokenizer)
    other.codec.quantizer.codebooks[0].codewords.add_(0.01)
    fresh = make(other)
    before = fresh.codeword_head.residual_projection.weight.clone()
    assert warm_start(fresh, tmp_path) > 20
    assert torch.equal(
        fresh.vision["scene"].layers[0].weight, trained.vision["scene"].layers[0].weight
    )
    assert torch.equal(fresh.codeword_head.residual_projection.weight, before)
    with pytest.raises(BundleError, match="start from"):
        warm_start(fresh, tmp_path / "nowhere")


def test_a_warm_start_copies_the_tasks_that_both_policies_know(tokenizer, tmp_path):
    trained = make(tokenizer, tasks={"pour": "Pour.", "wipe": "Wipe."})
    trained.save_pretrained(tmp_path)
    fresh = make(tokenizer, tasks={"stack": "Stack.", "cut": "Cut.", "wipe": "Wipe."})
    new = fresh.task_embedding.weight.clone()
    warm_start(fresh, tmp_path)
    assert torch.equal(fresh.task_embedding.weight[2], trained.task_embedding.weight[1])
    assert torch.equal(fresh.task_embedding.weight[:2], new[:2]) and not torch.equal(
        fresh.task_embedding.weight, new
    )


def test_nan_logits_and_positions_without_a_legal_token_are_rejected(tokenizer):
    legal, done = torch.ones(1, 4, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    with pytest.raises(BadTokens, match="NaN"):
        sample(torch.tensor([[0.0, torch.nan, 0.0, 0.0]]), legal, done, Sampling(), None)
    with pytest.raises(BadTokens, match="legal"):
        sample(torch.zeros(1, 4), ~legal, done, Sampling(), None)


def test_observations_that_do_not_fit_are_rejected(tokenizer):
    policy = make(tokenizer)
    image = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    images, state = {"scene": image, "wrist": image}, np.zeros((2, 7), np.float32)
    assert policy.sample_tokens(
        policy.inputs(Observation(0.0, images, state, "marker"))
    ).tokens.shape == (1, 12)
    with pytest.raises(BadObservation, match="wrist"):
        policy.inputs(Observation(0.0, {"scene": image}, state, "marker"))
    with pytest.raises(BadObservation, match="uint8"):
        policy.inputs(Observation(0.0, {**images, "wrist": image[:, :40]}, state, "marker"))
    with pytest.raises(BadObservation, match="finite"):
        policy.inputs(Observation(0.0, images, np.full((2, 7), np.nan), "marker"))
    with pytest.raises(UnknownName, match="Place the marker"):
        policy.inputs(Observation(0.0, images, state, "juggle"))


def test_prompts_and_ids_select_the_same_task(tokenizer):
    policy = make(tokenizer)
    assert policy.task_index("marker") == policy.task_index(TASKS["marker"]) == 1


def test_spatial_softmax_finds_a_bright_spot():
    maps = torch.full((1, 1, 11, 21), -20.0)
    maps[0, 0, 2, 15] = 20.0
    x, y = spatial_softmax(maps)[0]
    assert x == pytest.approx(15 / 10 - 1, abs=1e-3)
    assert y == pytest.approx(2 / 5 - 1, abs=1e-3)


def test_invalid_configs_are_rejected(tokenizer):
    with pytest.raises(ConfigError, match="n_heads"):
        make(tokenizer, dim=30, n_heads=4)
    with pytest.raises(ConfigError, match="camera"):
        make(tokenizer, cameras=[])
    assert list_policies() == ["ar"]
