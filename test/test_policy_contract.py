"""Contract of every registered policy, over every registered tokenizer if it takes one."""

import sys
from functools import cache

import numpy as np
import pytest
import torch
from tiny_policies import (
    TASKS,
    chunk_under_way,
    make_tiny,
    missing_facts,
    random_inputs,
    seeded,
)

import nac_ros.policies as policies_package
import nac_ros.tokenizers as tokenizers_package
from nac_ros.core import config as configs
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.core.errors import BadObservation, ConfigError, UnknownName
from nac_ros.core.types import Observation
from nac_ros.policies import list_policies
from nac_ros.policies.base import POLICIES, load_policy
from nac_ros.tokenizers import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS
from nac_ros.tokenizers.serialization import WEIGHTS_FILE, read_shapes

HORIZON, ACTION_DIM = 32, 7
RELATIVE = [True] * 6 + [False]
INPUTS = {"cameras": ("scene",), "environment_state_dim": 2, "n_past_commands": 2}
INPUTS |= {"state_dim": ACTION_DIM}
# Smaller networks than those of preset `small`; a tokenizer that is not here keeps that preset.
TOKENIZER_SIZES = {
    "nac": {"latent_dim": 16, "decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1},
    "rotated_rvq": {"encoder_hidden": 32, "decoder_hidden": 32, "codebook_size": 64},
}


def skip_of(name):
    """Marks of a policy that cannot be made from sizes alone; it has tests of its own."""
    facts = ", ".join(sorted(missing_facts(POLICIES.get(name))))
    return [pytest.mark.skip(reason=f"policy {name} needs its {facts}")] if facts else []


def policy_names():
    """Every policy as a parameter."""
    return [pytest.param(name, marks=skip_of(name), id=name) for name in list_policies()]


def cases():
    """Every policy over every tokenizer as parameters (name, tokenizer or None)."""
    for name in list_policies():
        marks, takes = skip_of(name), POLICIES.get(name).takes_tokenizer
        for tokenizer in list_tokenizers() if takes and not marks else [None]:
            case_id = "-".join(filter(None, (name, tokenizer)))
            yield pytest.param((name, tokenizer), marks=marks, id=case_id)


@cache
def walks():
    """Random walks `[300, 128, D]` like joints in motion; the state before them is zero."""
    steps = np.random.default_rng(0).standard_normal((300, 128, ACTION_DIM))
    return (0.02 * steps.cumsum(1)).astype(np.float32)


@cache
def fitted(name):
    """A tokenizer fitted to the walks."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(name, relative=RELATIVE, **TOKENIZER_SIZES.get(name, {}))
    chunks = walks()[:, :HORIZON]
    return tokenizer.fit(chunks, np.zeros_like(chunks[:, 0]))


def prepared(name, tokenizer, **changes):
    """A tiny policy with all its statistics, in evaluation mode."""
    spec = ChunkSpec(horizon=HORIZON, action_dim=ACTION_DIM, relative=tuple(RELATIVE))
    policy = make_tiny(name, fitted(tokenizer) if tokenizer else spec, **INPUTS, **changes)
    states = np.zeros((300, ACTION_DIM), np.float32)
    policy.fit_actions(walks()[:, :HORIZON], states)
    policy.fit_state(states, np.zeros((300, 2), np.float32))
    policy.fit_targets(targets_of(policy, 64))
    return policy.eval()


def targets_of(policy, batch):
    """Training targets of the first walks."""
    actions = torch.from_numpy(walks()[:batch, policy.target_offsets])
    return policy.prepare_targets(actions, torch.zeros(batch, ACTION_DIM))


@pytest.fixture(scope="module", params=cases())
def policy(request):
    return prepared(*request.param)


def observation(**changes):
    """One observation that fits INPUTS."""
    values = {
        "stamp": 0.0,
        "images": {"scene": np.zeros((2, 24, 24, 3), np.uint8)},
        "proprio": np.zeros((2, ACTION_DIM), np.float32),
        "task": "marker",
        "environment_state": np.zeros((2, 2), np.float32),
        "past_commands": np.zeros((2, ACTION_DIM), np.float32),
    }
    return Observation(**{**values, **changes})


def is_deterministic(policy, inputs):
    chunks = [policy.predict(inputs, 1, None, seeded(k)).chunk for k in (1, 2)]
    return torch.equal(*chunks)


@pytest.mark.parametrize("name", policy_names())
def test_presets_are_valid_and_at_least_paper_and_small(name):
    cls = POLICIES.get(name)
    assert cls.name == name and {"paper", "small"} <= set(cls.presets)
    facts = {"cameras": [], "tasks": TASKS, "state_dim": 3}
    facts |= {} if cls.takes_tokenizer else {"chunk_spec": {}}
    for preset in cls.presets.values():
        assert configs.build(cls.Config, {**preset, **facts}).n_action_steps
    assert set(cls.training_defaults) <= set(cls.presets)


def test_losses_are_finite_float32_and_reach_the_parameters(policy):
    inputs, targets = random_inputs(policy, 4), targets_of(policy, 4)
    assert targets["chunk"].shape == (4, HORIZON, ACTION_DIM)
    assert targets["chunk"].abs().max() < 1.5
    policy.train().zero_grad()
    losses = policy.loss(inputs, targets)
    policy.eval()
    assert losses
    for loss in losses.values():
        assert loss.shape == () and loss.dtype == torch.float32 and torch.isfinite(loss)
    sum(losses.values()).backward()
    trained = {key for key, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained and not any(key.startswith("tokenizer.") for key in trained)
    assert any(key.startswith("observation_encoder.") for key in trained)
    policy.zero_grad()


def test_predicted_chunks_are_finite_and_a_seed_repeats_them(policy):
    inputs = random_inputs(policy, 2)
    first, again = (policy.predict(inputs, 1, None, seeded(1)) for _ in range(2))
    assert first.chunk.shape == (2, HORIZON, ACTION_DIM)
    assert first.chunk.dtype == torch.float32 and torch.isfinite(first.chunk).all()
    assert not first.chunk.requires_grad
    assert torch.equal(first.chunk, again.chunk)
    physical = policy.normalizer.denormalize(first.chunk, torch.zeros(2, ACTION_DIM))
    assert torch.isfinite(physical).all()


def test_tokens_and_confidence_come_with_a_tokenizer_alone(policy):
    output = policy.predict(random_inputs(policy, 2), generator=seeded(0))
    if not policy.takes_tokenizer:
        assert output.tokens is None and output.confidence is None
        return
    policy.grammar.check(output.tokens.numpy())
    assert torch.allclose(policy.tokenizer.decode_normalized(output.tokens), output.chunk)
    assert output.confidence.entropy.shape == output.confidence.margin.shape
    assert (output.confidence.entropy >= -1e-5).all()


def test_samples_of_one_observation_are_adjacent(policy):
    inputs = random_inputs(policy, 2)
    actions = targets_of(policy, 2)["chunk"]
    many = policy.predict(inputs, 3, None, seeded(1)).chunk
    assert many.shape == (6, HORIZON, ACTION_DIM)
    if is_deterministic(policy, inputs):
        one = policy.predict(inputs, 1, None, seeded(1)).chunk
        assert torch.allclose(many[::3], one, atol=1e-4)
    elif policy.supports_context:
        context = chunk_under_way(actions, 4, 20)
        kept = policy.predict(inputs, 3, context, seeded(1)).chunk.unflatten(0, (2, 3))
        assert torch.allclose(kept[:, :, :4], actions[:, None, :4].expand(-1, 3, -1, -1))


def test_committed_steps_are_kept_where_a_context_is_supported(policy):
    inputs, actions = random_inputs(policy, 2), targets_of(policy, 2)["chunk"]
    context = chunk_under_way(actions, 8, 20)
    if not policy.supports_context:
        with pytest.raises(ConfigError, match="blend"):
            policy.predict(inputs, 1, context, seeded(0))
        return
    output = policy.predict(inputs, 2, context, seeded(0))
    if output.tokens is None:
        wanted = actions[:, :8].repeat_interleave(2, 0)
        assert torch.allclose(output.chunk[:, :8], wanted, atol=1e-5)
        return
    spans = policy.grammar.token_time_spans
    committed = torch.from_numpy((spans[:, 0] < 8) & (spans[:, 1] <= 20))
    wanted = policy.tokenizer.encode_normalized(actions).repeat_interleave(2, 0)
    assert committed.any() and not committed.all()
    assert torch.equal(output.tokens[:, committed], wanted[:, committed])


def test_metrics_of_held_out_data_include_the_l1_error(policy):
    inputs, targets = random_inputs(policy, 4), targets_of(policy, 4)
    metrics = policy.evaluate(inputs, targets, seeded(0))
    assert metrics["l1"] > 0 and all(np.isfinite(value) for value in metrics.values())


def test_saved_and_loaded_policies_agree_and_repeat_the_golden_outputs(policy, tmp_path):
    policy.save_pretrained(tmp_path / "policy")
    stored = read_shapes(tmp_path / "policy" / WEIGHTS_FILE)
    assert stored and not any(key.startswith("tokenizer.") for key in stored)
    tokenizer = None
    if policy.takes_tokenizer:
        policy.tokenizer.save_pretrained(tmp_path / "tokenizer")
        tokenizer = load_tokenizer(tmp_path / "tokenizer")
    again, inputs = load_policy(tmp_path / "policy", tokenizer), random_inputs(policy, 2)
    output = policy.predict(inputs, 1, None, seeded(0))
    assert torch.allclose(again.predict(inputs, 1, None, seeded(0)).chunk, output.chunk, atol=1e-5)
    golden = policy.golden_outputs(inputs, output.tokens)
    for other in (policy, again):
        found = other.golden_outputs(inputs, output.tokens)
        assert found.keys() == golden.keys() and golden
        for key, values in golden.items():
            assert len(values) == 2
            assert torch.allclose(found[key], values, rtol=1e-3, atol=1e-3)


def test_a_tokenizer_stays_in_evaluation_mode_and_is_no_part_of_the_size(policy):
    policy.train()
    assert policy.training
    if policy.takes_tokenizer:
        assert not any(module.training for module in policy.tokenizer.modules())
        assert not any(p.requires_grad for p in policy.tokenizer.parameters())
    policy.eval()
    own = [p for key, p in policy.named_parameters() if not key.startswith("tokenizer.")]
    assert policy.params_m == pytest.approx(sum(p.numel() for p in own) / 1e6)
    vision = {id(p) for p in policy.vision_parameters()}
    assert vision <= {id(p) for p in own}
    assert vision or policy.required_folder, "only a model of the user's may see on its own"


def test_an_observation_becomes_a_batch_of_one(policy):
    inputs = policy.inputs(observation(task=TASKS["marker"]))
    assert inputs.task.tolist() == [1]
    assert policy.predict(inputs, generator=seeded(0)).chunk.shape == (1, HORIZON, ACTION_DIM)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": {}}, BadObservation, "scene"),
        ({"images": {"scene": np.zeros((2, 24, 20, 3), np.uint8)}}, BadObservation, "uint8"),
        ({"proprio": np.zeros((1, ACTION_DIM), np.float32)}, BadObservation, "proprioception"),
        ({"proprio": np.full((2, ACTION_DIM), np.nan)}, BadObservation, "finite"),
        ({"environment_state": None}, BadObservation, "environment_state"),
        ({"past_commands": np.zeros((3, ACTION_DIM))}, BadObservation, "past_commands"),
        ({"task": "juggle"}, UnknownName, "Place the marker"),
    ],
)
def test_observations_that_do_not_fit_are_rejected(policy, changes, error, message):
    with pytest.raises(error, match=message):
        policy.inputs(observation(**changes))


@pytest.mark.parametrize("name", policy_names())
def test_it_works_without_cameras_and_optional_inputs(name):
    tokenizer = "rotated_rvq" if POLICIES.get(name).takes_tokenizer else None
    bare = {"cameras": (), "environment_state_dim": 0, "n_past_commands": 0}
    spec = ChunkSpec(horizon=HORIZON, action_dim=ACTION_DIM)
    policy = make_tiny(name, fitted(tokenizer) if tokenizer else spec, **{**INPUTS, **bare})
    policy.fit_targets(targets_of(policy, 64))
    inputs = random_inputs(policy, 2)
    assert inputs.images == {} and inputs.environment_state is None
    sum(policy.train().loss(inputs, targets_of(policy, 2)).values()).backward()
    assert policy.eval().predict(inputs, 2).chunk.shape == (4, HORIZON, ACTION_DIM)


POLICY_FILE = '''
"""Predicts a chunk by one linear layer."""

import torch
from torch import nn

from nac_ros.policies.base import POLICIES, PolicyOutput
from nac_ros.policies.direct_policy import DirectPolicy
from nac_ros.policies.observation_encoder import ObservationEncoder


@POLICIES.register("linear_chunk")
class LinearChunkPolicy(DirectPolicy):
    name = "linear_chunk"
    presets = {"paper": {}, "small": {}}

    def __init__(self, config, preset, chunk_spec):
        super().__init__(config, preset, chunk_spec)
        self.observation_encoder = ObservationEncoder(config, 16, chunk_spec.action_dim)
        size = chunk_spec.horizon * chunk_spec.action_dim
        self.head = nn.Linear(16 * self.observation_encoder.n_vectors, size)

    def loss(self, inputs, targets):
        return {"l1": (self._chunk(inputs) - targets["chunk"]).abs().mean()}

    @torch.no_grad()
    def predict(self, inputs, n_samples=1, context=None, generator=None):
        return PolicyOutput(self._chunk(inputs).repeat_interleave(n_samples, 0))

    def _chunk(self, inputs):
        spec = self.chunk_spec
        flat = self.head(self.context_vectors(inputs).flatten(1))
        return flat.view(-1, spec.horizon, spec.action_dim)
'''
TOKENIZER_FILE = '''
"""One token for the mean of each column over the chunk."""

from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer
from nac_ros.tokenizers.grammar import FixedGrammar


@TOKENIZERS.register("column_mean")
class ColumnMeanTokenizer(Tokenizer):
    name = "column_mean"

    def __init__(self, config, preset="small"):
        super().__init__(config, preset)
        self.grammar = FixedGrammar([0] * config.action_dim, [64] * config.action_dim)

    def _encode(self, normalized):
        return ((normalized.mean(1) + 1) * 32).long().clamp(0, 63)

    def _decode(self, tokens):
        mean = (tokens.float() + 0.5) / 32 - 1
        return mean[:, None].expand(-1, self.config.horizon, -1)
'''


@pytest.fixture
def add_file(tmp_path, monkeypatch):
    """Function that adds a file to a package for one test."""
    added = []

    def add(package, registry, name, text):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
        added.append(f"{package.__name__}.{name}")

    yield add
    for module in added:
        sys.modules.pop(module, None)


def train_one_step(policy):
    inputs, targets = random_inputs(policy, 16), targets_of(policy, 16)
    optimizer = torch.optim.SGD(policy.parameters(), 0.01)
    before = sum(policy.loss(inputs, targets).values())
    before.backward()
    optimizer.step()
    assert sum(policy.loss(inputs, targets).values()) < before


def test_a_policy_is_added_by_one_file(add_file, tmp_path):
    add_file(policies_package, POLICIES, "linear_chunk", POLICY_FILE)
    assert "linear_chunk" in list_policies()
    policy = prepared("linear_chunk", None)
    train_one_step(policy)
    policy.save_pretrained(tmp_path / "saved")
    again, inputs = load_policy(tmp_path / "saved", None), random_inputs(policy, 2)
    assert type(again) is type(policy)
    assert torch.equal(again.predict(inputs).chunk, policy.predict(inputs).chunk)
    with pytest.raises(ConfigError, match="give no tokenizer"):
        make_tiny("linear_chunk", fitted("bin"))


def test_a_tokenizer_is_added_by_one_file_and_policies_take_it(add_file, tmp_path):
    add_file(tokenizers_package, TOKENIZERS, "column_mean", TOKENIZER_FILE)
    assert "column_mean" in list_tokenizers()
    policy = prepared("ar", "column_mean")
    train_one_step(policy)
    policy.save_pretrained(tmp_path / "policy")
    policy.tokenizer.save_pretrained(tmp_path / "tokenizer")
    again = load_policy(tmp_path / "policy", load_tokenizer(tmp_path / "tokenizer"))
    inputs = random_inputs(policy, 2)
    tokens = policy.predict(inputs, generator=seeded(0)).tokens
    assert tokens.shape == (2, ACTION_DIM)
    assert torch.equal(again.predict(inputs, generator=seeded(0)).tokens, tokens)


def test_a_policy_over_tokens_is_not_made_without_a_tokenizer():
    with pytest.raises(ConfigError, match="give its tokenizer"):
        make_tiny("ar", ChunkSpec())
