"""Token policies: legal samples, key-value cache, training, warm start, rejected inputs."""

import copy

import numpy as np
import pytest
import torch

from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BadObservation, BadTokens, BundleError, ConfigError, UnknownName
from nac_ros.core.sampling import Sampling
from nac_ros.core.types import Observation
from nac_ros.policies import list_policies
from nac_ros.policies.base import load_policy, make_policy, warm_start
from nac_ros.policies.codeword_head import CodewordHead
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.policies.sampling import check_logits, choose, mask_illegal
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
    sizes["rotated_rvq"] = {"encoder_hidden": 32, "decoder_hidden": 32}
    return make_tokenizer(name, **sizes.get(name, {}), **config).fit(chunks)


@pytest.fixture(scope="module")
def tokenizer():
    return fitted("rotated_rvq", beam_width=1)  # an untrained policy samples the nearest tokens


@pytest.fixture(scope="module", params=list_tokenizers())
def each(request):
    """Every registered tokenizer."""
    return fitted(request.param)


def make(tokenizer, name="ar_guided", **changes):
    """A small policy with random weights."""
    torch.manual_seed(0)
    facts = {"cameras": ["scene", "wrist"], "tasks": TASKS, "state_dim": 7, "image_size": SIZE}
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "vision_width": 32, "n_keypoints": 4}
    return make_policy(name, "small", tokenizer, **{**facts, **sizes, **changes}).eval()


def targets_of(policy, chunk):
    """Training targets of chunks `[B, 32, 7]` from the zero position; the rest of the motion rests
    at the end of the chunk."""
    actions = chunk[:, policy.target_offsets.clip(max=31)]
    return policy.prepare_targets(actions, torch.zeros(len(chunk), 7))


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
        masked = mask_illegal(logits, legal | done[:, None])
        chosen = choose(masked, torch.rand(10_000, generator=generator), Sampling(top_k=50))
        tokens = torch.cat([tokens, chosen.masked_fill(done, -1)[:, None]], 1)
    grammar.check(tokens.numpy())
    assert all(torch.isfinite(each.decode(part)).all() for part in tokens.split(2000))


@pytest.mark.parametrize("name", ["ar", "ar_guided"])
def test_a_policy_over_any_tokenizer_gives_illegal_tokens_probability_zero(each, name):
    policy = make(each, name)
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


@pytest.mark.parametrize("name", ["ar", "ar_guided"])
def test_a_policy_learns_from_sequences_of_any_length(each, name):
    policy = make(each, name).train()
    targets = targets_of(policy, torch.randn(6, 32, 7).cumsum(1) * 0.02)
    policy.fit_targets(targets)
    losses = policy.loss(random_inputs(6), targets)
    sum(losses.values()).backward()
    assert torch.isfinite(losses["tokens"]) and losses["tokens"] > 0


def test_the_loss_of_the_plain_policy_is_the_cross_entropy_over_legal_tokens(each):
    policy = make(each, "ar")
    targets, inputs = targets_of(policy, torch.randn(5, 32, 7).cumsum(1) * 0.02), random_inputs(5)
    tokens = targets["tokens"]
    log_probs = policy.token_log_probs(inputs, tokens)
    of_tokens = log_probs.gather(2, tokens.clamp(min=0)[..., None])[..., 0]
    expected = -of_tokens[tokens >= 0].mean()
    torch.testing.assert_close(policy.loss(inputs, targets)["tokens"], expected)


PLAIN = {"name": "ar"}
CROSS = {"name": "ar", "conditioning": "cross_attention"}


@pytest.mark.parametrize("options", [{}, PLAIN, CROSS])
def test_the_cache_gives_the_same_tokens_as_a_full_pass(tokenizer, options):
    policy = make(tokenizer, **options)
    inputs = random_inputs(3)
    greedy = policy.sample_tokens(inputs).tokens
    assert torch.equal(policy.token_log_probs(inputs, greedy).argmax(-1), greedy)


@pytest.mark.parametrize("options", [{}, PLAIN, CROSS])
def test_later_tokens_do_not_change_earlier_ones(tokenizer, options):
    policy = make(tokenizer, **options)
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
    tokenizer = fitted("rotated_rvq")
    policy = make(tokenizer)
    targets = targets_of(policy, torch.randn(6, 32, 7).cumsum(1) * 0.02)
    policy.fit_targets(targets)
    tokens = targets["tokens"]
    wanted = policy._target_distribution(targets, policy.legal_along(tokens))
    assert tokenizer.uses_beam_search and torch.equal(wanted.argmax(-1), tokens)


def test_duplicate_codewords_and_a_single_one_leave_targets_finite():
    codewords = torch.randn(4, 3).repeat(2, 1)
    for known in (codewords, codewords[:1]):
        head = CodewordHead(known, 8, 2)
        legal = torch.ones(5, 2, len(known), dtype=torch.bool)
        head.fit(torch.randn(5, 2, 3), torch.zeros(5, 2, dtype=torch.int64), legal)
        assert (head.target_widths > 1e-3).all()
        assert torch.isfinite(head.soft_targets(torch.randn(5, 2, 3), 2.0, legal)).all()


def test_an_untrained_policy_samples_the_tokens_of_its_regressed_chunk(tokenizer):
    policy, inputs = make(tokenizer), random_inputs(3)
    regressed = tokenizer.encode_normalized(policy.regress_chunk(inputs))
    assert torch.equal(policy.predict(inputs).tokens, regressed)


def test_a_policy_that_acts_by_regression_predicts_the_regressed_chunk_without_tokens(tokenizer):
    policy, inputs = make(tokenizer, acts_by="regression", token_weight=0.0), random_inputs(3)
    output = policy.predict(inputs, n_samples=2)
    assert output.tokens is None and not policy.predicts_tokens and not policy.supports_context
    assert torch.equal(output.chunk[::2], policy.regress_chunk(inputs))
    with pytest.raises(ConfigError, match="acts_by"):
        make(tokenizer, token_weight=0.0)


def test_a_policy_that_acts_by_regression_tokens_decodes_those_of_the_regressed_chunk(tokenizer):
    policy, inputs = make(tokenizer, acts_by="regression_tokens"), random_inputs(3)
    regressed = policy.regress_chunk(inputs)
    output = policy.predict(inputs)
    assert torch.equal(output.tokens, tokenizer.encode_normalized(regressed))
    assert torch.equal(output.chunk, tokenizer.decode_normalized(output.tokens))
    assert not torch.equal(output.chunk, regressed)
    assert not policy.supports_context and output.confidence is None


@pytest.mark.parametrize("name", ["ar", "ar_guided"])
def test_environment_state_and_past_commands_change_the_prediction(tokenizer, name):
    policy = make(tokenizer, name, cameras=[], environment_state_dim=3, n_past_commands=4)
    inputs = random_inputs(2)._replace(images={})
    state, commands = torch.randn(2, 2, 3), torch.randn(2, 4, 7)
    both = inputs._replace(environment_state=state, past_commands=commands)
    tokens = policy.predict(both).tokens
    before = policy.token_log_probs(both, tokens)
    for changed in (
        both._replace(environment_state=state + 1),
        both._replace(past_commands=commands.flip(1)),
    ):
        assert not torch.allclose(policy.token_log_probs(changed, tokens), before)


@pytest.mark.parametrize("name", ["ar", "ar_guided"])
def test_new_statistics_of_the_state_do_not_change_a_trained_policy(tokenizer, name):
    policy, inputs = make(tokenizer, name), random_inputs(2)
    rng = np.random.default_rng(0)
    policy.fit_state(rng.normal(1.0, 2.0, (100, 7)).astype(np.float32))
    tokens = policy.predict(inputs).tokens
    before = policy.token_log_probs(inputs, tokens)
    policy.fit_state(rng.normal(-1.0, 0.5, (100, 7)).astype(np.float32))
    after = policy.token_log_probs(inputs, tokens)
    assert torch.allclose(before.exp(), after.exp(), atol=1e-3)


def test_new_statistics_of_the_environment_do_not_change_a_trained_policy(tokenizer):
    policy = make(tokenizer, "ar", cameras=[], environment_state_dim=3)
    state, rng = torch.randn(2, 2, 3), np.random.default_rng(0)
    inputs = random_inputs(2)._replace(images={}, environment_state=state)
    joints = rng.normal(1.0, 2.0, (100, 7)).astype(np.float32)
    policy.fit_state(joints, rng.normal(1.0, 2.0, (100, 3)).astype(np.float32))
    tokens = policy.predict(inputs).tokens
    before = policy.token_log_probs(inputs, tokens)
    policy.fit_state(joints, rng.normal(-1.0, 0.5, (100, 3)).astype(np.float32))
    after = policy.token_log_probs(inputs, tokens)
    assert torch.allclose(before.exp(), after.exp(), atol=1e-3)


def test_a_tokenizer_is_frozen_saved_apart_and_must_be_the_one_of_the_training(
    tokenizer, tmp_path
):
    policy = make(tokenizer, "ar").train()
    assert not policy.tokenizer.training
    assert not any(p.requires_grad for p in policy.tokenizer.parameters())
    assert not any(key.startswith("tokenizer.") for key in policy.own_state())
    policy.save_pretrained(tmp_path)
    other = copy.deepcopy(tokenizer)
    other.quantizer.codebooks[0].codewords.add_(0.01)
    with pytest.raises(BundleError, match="over another rotated_rvq tokenizer"):
        load_policy(tmp_path, other)


def test_a_policy_without_tokens_takes_no_tokenizer_and_the_other_way_round(tokenizer):
    facts = {"cameras": [], "tasks": TASKS, "state_dim": 7}
    with pytest.raises(ConfigError, match="give its tokenizer"):
        make_policy("ar", "small", ChunkSpec(), **facts)
    with pytest.raises(ConfigError, match="give no tokenizer"):
        make_policy("regression", "small", tokenizer, **facts)


@pytest.mark.parametrize("name", ["ar", "ar_guided"])
def test_a_policy_fits_one_batch(tokenizer, name):
    policy = make(tokenizer, name).train()
    inputs = random_inputs(8)
    steps = np.random.default_rng(1).standard_normal((8, 32, 7))
    targets = targets_of(policy, torch.from_numpy((0.02 * steps.cumsum(1)).astype(np.float32)))
    policy.fit_targets(targets)
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], 3e-3)
    first = {key: float(value.detach()) for key, value in policy.loss(inputs, targets).items()}
    for _ in range(60):
        losses = policy.loss(inputs, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert losses["tokens"] < 0.9 * first["tokens"]
    if name == "ar_guided":
        assert losses["regression"] < 0.6 * first["regression"]


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
    other.quantizer.codebooks[0].codewords.add_(0.01)
    fresh = make(other)
    before = fresh.codeword_head.residual_projection.weight.clone()
    assert warm_start(fresh, tmp_path) > 20
    assert torch.equal(
        fresh.observation_encoder.vision["scene"].layers[0].weight,
        trained.observation_encoder.vision["scene"].layers[0].weight,
    )
    assert torch.equal(fresh.codeword_head.residual_projection.weight, before)
    with pytest.raises(BundleError, match="start from"):
        warm_start(fresh, tmp_path / "nowhere")


def test_a_warm_start_copies_the_tasks_that_both_policies_know(tokenizer, tmp_path):
    trained = make(tokenizer, tasks={"pour": "Pour.", "wipe": "Wipe."})
    trained.save_pretrained(tmp_path)
    fresh = make(tokenizer, tasks={"stack": "Stack.", "cut": "Cut.", "wipe": "Wipe."})
    new = fresh.observation_encoder.task_embedding.weight.clone()
    warm_start(fresh, tmp_path)
    assert torch.equal(
        fresh.observation_encoder.task_embedding.weight[2],
        trained.observation_encoder.task_embedding.weight[1],
    )
    assert torch.equal(
        fresh.observation_encoder.task_embedding.weight[:2], new[:2]
    ) and not torch.equal(fresh.observation_encoder.task_embedding.weight, new)


def test_nan_logits_and_positions_without_a_legal_token_are_rejected(tokenizer):
    with pytest.raises(BadTokens, match="NaN"):
        check_logits(torch.tensor([[0.0, torch.nan, 0.0, 0.0]]))
    with pytest.raises(BadTokens, match="legal"):
        mask_illegal(torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool))


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
    with pytest.raises(ConfigError, match="task"):
        make(tokenizer, tasks={})
    assert {"ar", "ar_guided"} <= set(list_policies())
