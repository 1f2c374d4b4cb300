"""Networks and losses on torch's `meta` device, and all other computations with explicit devices.

No GPU is needed. A tensor on `meta` has no values, and an operation that mixes it with a tensor
on the CPU fails, as it would on a GPU. What depends on values (sampling, k-means, BPE) runs on the
CPU instead, where a tensor that this package makes without naming its device is an error.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_policy_contract import (
    HORIZON,
    INPUTS,
    TOKENIZER_SIZES,
    cases,
    prepared,
    targets_of,
    walks,
)
from tiny_policies import (
    FACTS,
    chunk_under_way,
    missing_facts,
    random_inputs,
    seeded,
)
from torch.overrides import TorchFunctionMode

import nac_ros
import nac_ros.tokenizers.base as tokenizers_base
from nac_ros.codec import discriminators
from nac_ros.codec.losses import KINDS, ControlLoss, ReconstructionLoss
from nac_ros.core.chunk_spec import ChunkSpec
from nac_ros.datasets.action_chunks import ActionChunks
from nac_ros.export.bundle import load_bundle
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.policies import list_policies
from nac_ros.policies.base import POLICIES, Inputs, make_policy
from nac_ros.tokenizers import list_tokenizers, make_tokenizer
from nac_ros.tokenizers.base import TOKENIZERS, Tokenizer
from nac_ros.training.tokenizer_trainer import TokenizerTrainer, TokenizerTrainingConfig, augment

PACKAGE = str(Path(nac_ros.__file__).parent)
FACTORIES = {
    *(torch.arange, torch.as_tensor, torch.empty, torch.eye, torch.full, torch.hann_window),
    *(torch.linspace, torch.logspace, torch.normal, torch.ones, torch.rand, torch.randint),
    *(torch.randn, torch.randperm, torch.tensor, torch.zeros),
}
BATCH = 3


class ExplicitDevices(TorchFunctionMode):
    """Inside, a tensor that the package makes without naming its device is an AssertionError."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in FACTORIES and "device" not in kwargs:
            caller = sys._getframe(1)
            of_tensor = func is torch.as_tensor and isinstance(args[0], torch.Tensor)
            of_package = caller.f_code.co_filename.startswith(PACKAGE)
            if of_package and not of_tensor and not _makes_module(caller):
                place = f"{caller.f_code.co_filename}:{caller.f_lineno}"
                raise AssertionError(f"{place}: {func.__name__} names no device")
        return func(*args, **kwargs)


def _makes_module(frame) -> bool:
    """Whether a module is being made, which is moved to its device afterwards."""
    while frame is not None:
        is_init = frame.f_code.co_name == "__init__"
        if is_init and isinstance(frame.f_locals.get("self"), torch.nn.Module):
            return True
        frame = frame.f_back
    return False


def learned_presets():
    for name in list_tokenizers():
        if TOKENIZERS.get(name).learned:
            for preset in TOKENIZERS.get(name).presets:
                yield pytest.param(name, preset, id=f"{name}-{preset}")


def make_on_meta(name, preset) -> Tokenizer:
    with torch.device("meta"):
        tokenizer = make_tokenizer(name, preset)
    tokenizer._is_fitted = True
    return tokenizer.to("meta")


@pytest.mark.parametrize(("name", "preset"), [*learned_presets()])
def test_every_tokenizer_computes_on_another_device(name, preset):
    tokenizer = make_on_meta(name, preset)
    shape = (BATCH, tokenizer.config.horizon, tokenizer.config.action_dim)
    chunks = torch.zeros(shape, device="meta")
    for quantize in (False, True):
        output = tokenizer.training_step(chunks, quantize)
        loss = output.reconstruction.square().mean() + sum(output.losses.values())
        loss.backward()
    tokens = tokenizer.encode_normalized(chunks)
    assert tokens.shape == (BATCH, tokenizer.grammar.max_tokens)
    assert tokenizer.detokenize(tokens).shape == shape
    for length in tokenizer.prefix_lengths[:1]:
        assert tokenizer._decode_prefix(tokens[:, :length]).shape == shape
    targets = tokenizer.residual_targets(chunks)
    assert targets is None or targets(tokens).device.type == "meta"
    physical = tokenizer.denormalize(chunks)
    assert tokenizer.normalizer.normalize(physical).device.type == "meta"


@pytest.mark.parametrize("kind", KINDS)
def test_every_reconstruction_loss_computes_on_another_device(kind):
    with torch.device("meta"):
        loss = ReconstructionLoss(kind, torch.ones(HORIZON), torch.ones(7)).to("meta")
        chunks = torch.zeros(BATCH, HORIZON, 7, requires_grad=True)
    loss(chunks, chunks.detach()).backward()


def test_control_loss_adversary_and_augmentation_compute_on_another_device():
    with torch.device("meta"):
        discriminator = discriminators.Discriminator()
        chunks = torch.zeros(BATCH, HORIZON, 7, requires_grad=True)
        relative = torch.ones(7, dtype=torch.bool)
    real = augment(chunks.detach(), TokenizerTrainingConfig(mirror_probability=0.5), relative)
    features = discriminator(real), discriminator(chunks)
    loss = discriminators.discriminator_loss(*features)
    loss = loss + discriminators.generator_loss(features[1])
    loss = loss + discriminators.feature_loss(*features)
    (loss + ControlLoss(1.0, 1.0, 1.0, (6,))(chunks, real)).backward()


def policy_cases():
    """Every policy, preset and tokenizer as parameters (name, preset, tokenizer or None)."""
    for name in list_policies():
        cls = POLICIES.get(name)
        if missing_facts(cls) or cls.required_folder:
            continue  # made from a model of the user's; see below
        for tokenizer in list_tokenizers() if cls.takes_tokenizer else [None]:
            for preset in cls.presets:
                known = () if tokenizer is None else TOKENIZERS.get(tokenizer).presets
                used = preset if preset in known else next(iter(known), None)
                case_id = "-".join(filter(None, (name, preset, tokenizer)))
                yield pytest.param(name, preset, tokenizer, used, id=case_id)


def to_meta(inputs: Inputs) -> Inputs:
    images = {name: frames.to("meta") for name, frames in inputs.images.items()}
    return Inputs(images, *(None if x is None else x.to("meta") for x in inputs[1:]))


@pytest.mark.parametrize(("name", "preset", "tokenizer", "tokenizer_preset"), [*policy_cases()])
def test_every_policy_computes_its_loss_on_another_device(
    name, preset, tokenizer, tokenizer_preset, monkeypatch
):
    monkeypatch.setattr(tokenizers_base, "check_actions", lambda actions, *shape: actions)
    monkeypatch.setattr(tokenizers_base, "check_references", lambda reference, *shape: reference)
    source = ChunkSpec(relative=(True,) * 7)
    if tokenizer is not None:
        source = make_on_meta(tokenizer, tokenizer_preset)
        if not source.learned:  # its codes depend on the values of the chunk
            shape = (BATCH, source.grammar.max_tokens)
            tokens = torch.zeros(shape, dtype=torch.int64, device="meta")
            source._encode = lambda normalized: tokens
    facts = {**FACTS, **INPUTS, "image_size": 32}
    with torch.device("meta"):
        policy = make_policy(name, preset, source, **facts).to("meta").train()
    inputs = to_meta(random_inputs(policy, BATCH))
    actions = torch.zeros(BATCH, len(policy.target_offsets), 7, device="meta")
    targets = policy.prepare_targets(actions, inputs.proprio[:, -1])
    losses = policy.loss(inputs, targets)
    torch.stack(list(losses.values())).sum().backward()
    features = policy.encode_images(inputs)
    assert features.device.type == "meta"


def chunks_of(first: int, end: int) -> ActionChunks:
    actions = walks()[first:end, :HORIZON]
    return ActionChunks(actions, np.zeros_like(actions[:, 0]))


@pytest.mark.parametrize("name", list_tokenizers())
def test_fitting_training_and_coding_name_every_device(name, tmp_path):
    tokenizer = make_tokenizer(
        name, relative=[True] * 6 + [False], **TOKENIZER_SIZES.get(name, {})
    )
    adversary = "dac" if name == "nac" else "none"
    config = TokenizerTrainingConfig(
        steps=3, batch=8, warmup=1, discriminator=adversary, adversarial_start=0.5
    )
    with ExplicitDevices():
        trainer = TokenizerTrainer(tokenizer, config, tmp_path)
        trainer.run(chunks_of(0, 200), chunks_of(200, 240))
        tokens = tokenizer.encode(*chunks_of(200, 210))
        tokenizer.decode(tokens, np.zeros((10, 7), np.float32))


def sampled_cases():
    """As `cases`; a policy with a large model, which takes seconds, over one tokenizer only."""
    large = {name for name in list_policies() if POLICIES.get(name).required_folder}
    return [c for c in cases() if c.values[0][0] not in large or c.values[0][1] in (None, "nac")]


@pytest.mark.parametrize("case", sampled_cases())
def test_policies_fit_sample_and_evaluate_with_explicit_devices(case):
    name, tokenizer = case
    policy = prepared(name, tokenizer)
    inputs, targets = random_inputs(policy, 2), targets_of(policy, 2)
    context = chunk_under_way(targets["chunk"], 4, 12) if policy.supports_context else None
    with ExplicitDevices():
        policy.fit_targets(targets_of(policy, 16))
        policy.predict(inputs, 2, context, generator=seeded(0))
        policy.evaluate(inputs, targets, seeded(0))
        sum(policy.train().loss(inputs, targets).values()).backward()


def test_the_engine_names_every_device(tiny_bundle):
    engine = Engine(TorchRuntime(load_bundle(tiny_bundle)))
    with ExplicitDevices():
        engine.warm_up()
