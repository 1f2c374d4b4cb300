"""Policy over a vision-language model: appended tokens, cache, adapters, saving, rejected folders.

The models are tiny and have random weights (tiny_vlm.py); no real checkpoint is tested here.
"""

import hashlib
import shutil
import sys

import numpy as np
import pytest
import torch
from tiny_vlm import qwen_processor, save_tiny_vlm

from nac_ros.core.errors import BundleError, ConfigError, UnknownName
from nac_ros.core.types import Observation
from nac_ros.datasets.frames import Frames, ImageStack
from nac_ros.export.bundle import load_bundle, write_bundle
from nac_ros.policies.base import (
    POLICIES,
    PredictionContext,
    load_policy,
    make_policy,
    warm_start,
)
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import make_tokenizer
from nac_ros.training import policy_trainer

pytest.importorskip("peft")
AutoProcessor = pytest.importorskip("transformers").AutoProcessor

TASKS = {"marker": "Place the marker in the bin.", "weighing": "Turn on the weighing machine."}
SIZE, CAMERAS, HORIZON = 20, ("scene", "wrist"), 8
KINDS = ("llava", "idefics3", "qwen2_vl")


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """Each of the tiny models."""
    folder = save_tiny_vlm(tmp_path_factory.mktemp(request.param), request.param)
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "qwen2_vl":
            processor = qwen_processor()
            patch.setattr(AutoProcessor, "from_pretrained", lambda folder, **options: processor)
        yield folder


def fitted(name, **config):
    steps = np.random.default_rng(0).standard_normal((200, HORIZON, 7))
    chunks = (0.05 * steps.cumsum(1)).astype(np.float32)
    return make_tokenizer(name, horizon=HORIZON, **config).fit(chunks, 0 * chunks[:, 0])


@pytest.fixture(scope="module")
def tokenizer():
    return fitted("bin", n_bins=16)


def make(tokenizer, folder, **changes):
    torch.manual_seed(0)
    facts = {"cameras": CAMERAS, "tasks": TASKS, "state_dim": 7, "image_size": SIZE}
    facts |= {"model_folder": str(folder), "dtype": "float32"}
    return make_policy("vlm", "small", tokenizer, **{**facts, **changes}).eval()


def trained_a_little(policy):
    """The policy after the adapters, which start as zero, were changed."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in policy.named_parameters():
            if ".lora_" in key:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return policy


def random_inputs(batch, seed=0, task=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, 2, SIZE, SIZE, 3)
    images = {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for name in CAMERAS
    }
    proprio = torch.randn(batch, 2, 7, generator=generator)
    return Inputs(images, proprio, torch.full((batch,), task))


def random_targets(policy, batch):
    steps = np.random.default_rng(1).standard_normal((batch, HORIZON, 7))
    actions = torch.from_numpy((0.05 * steps.cumsum(1)).astype(np.float32))
    return policy.prepare_targets(actions, actions[:, 0])


def log_probs(policy, inputs, tokens):
    with torch.no_grad():
        return policy.token_log_probs(inputs, tokens)


def test_tokens_are_appended_to_the_vocabulary_of_the_model(tokenizer, folder):
    policy = make(tokenizer, folder)
    embedding, size = policy.backbone.get_input_embeddings(), tokenizer.grammar.vocab_size
    vocabulary = len(embedding.base.weight)
    ids = torch.tensor([[0, vocabulary - 1, vocabulary, vocabulary + size - 1]])
    rows = [embedding.base.weight[i] for i in (0, -1)]
    rows += [policy.action_embedding.weight[i] for i in (0, -1)]
    assert torch.equal(embedding(ids)[0], torch.stack(rows))
    assert policy.action_head.weight.shape == (size, embedding.base.weight.shape[1])


@pytest.mark.parametrize("name", ["bin", "fast", "rotated_rvq"])
def test_sampled_tokens_of_any_tokenizer_are_legal_and_decodable(folder, name):
    small = {"encoder_hidden": 16, "decoder_hidden": 16, "codebook_size": 16}
    tokenizer = fitted(name, **(small if name == "rotated_rvq" else {}))
    policy = make(tokenizer, folder, sampling={"top_k": 10})
    output = policy.predict(random_inputs(3), generator=torch.Generator().manual_seed(0))
    tokenizer.grammar.check(output.tokens.numpy())
    assert output.chunk.shape == (3, HORIZON, 7) and torch.isfinite(output.chunk).all()
    assert output.confidence.entropy.shape == output.tokens.shape


def test_the_cache_gives_the_same_tokens_as_a_full_pass(tokenizer, folder):
    policy = trained_a_little(make(tokenizer, folder))
    first, second = random_inputs(2), random_inputs(2, 1, task=1)  # prompts of two lengths
    inputs = Inputs(
        {name: torch.cat([first.images[name], second.images[name]]) for name in CAMERAS},
        *(torch.cat(pair) for pair in zip(first[1:3], second[1:3])),
    )
    greedy = policy.sample_tokens(inputs).tokens
    assert torch.equal(log_probs(policy, inputs, greedy).argmax(-1), greedy)
    assert len(greedy.unique(dim=0)) > 1
    logits = policy.next_token_logits(inputs)
    steps = [logits(greedy[:, :k]) for k in range(4)]
    with torch.no_grad():
        whole = policy._logits_along(inputs, greedy)[:, :4]
    assert torch.allclose(torch.stack(steps, 1), whole, atol=1e-4)


def test_the_length_of_other_prompts_does_not_matter(tokenizer, folder):
    policy = trained_a_little(make(tokenizer, folder))
    one, tokens = random_inputs(1), policy.sample_tokens(random_inputs(1)).tokens
    both = Inputs(
        {name: image.repeat(2, 1, 1, 1, 1) for name, image in one.images.items()},
        one.proprio.repeat(2, 1, 1),
        torch.tensor([0, 1]),
    )
    padded = log_probs(policy, both, tokens.repeat(2, 1)).exp()
    for task in (0, 1):  # one of the two prompts is the shorter one, which is padded
        other = one._replace(task=torch.tensor([task]))
        alone = log_probs(policy, other, tokens)[0].exp()
        assert torch.allclose(padded[task], alone, atol=1e-4)
    assert not torch.allclose(padded[0], padded[1], atol=1e-4)


def test_later_tokens_do_not_change_earlier_ones(tokenizer, folder):
    policy, inputs = trained_a_little(make(tokenizer, folder)), random_inputs(2)
    tokens = random_targets(policy, 2)["tokens"]
    changed = tokens.clone()
    changed[:, 9:] = (changed[:, 9:] + 1) % 16
    before, after = log_probs(policy, inputs, tokens), log_probs(policy, inputs, changed)
    assert torch.allclose(before[:, :10].exp(), after[:, :10].exp(), atol=1e-5)
    assert not torch.allclose(before[:, 10:].exp(), after[:, 10:].exp(), atol=1e-5)


def test_the_policy_reads_the_newest_images_of_every_camera_and_all_joint_states(
    tokenizer, folder
):
    policy, inputs = trained_a_little(make(tokenizer, folder)), random_inputs(1)
    tokens = random_targets(policy, 1)["tokens"]
    before = log_probs(policy, inputs, tokens).exp()

    def changes(other):
        return not torch.allclose(log_probs(policy, other, tokens).exp(), before, atol=1e-6)

    for name in CAMERAS:
        newest, oldest = inputs.images[name].clone(), inputs.images[name].clone()
        newest[:, -1] = 255 - newest[:, -1]
        oldest[:, 0] = 255 - oldest[:, 0]
        assert changes(inputs._replace(images={**inputs.images, name: newest}))
        assert not changes(inputs._replace(images={**inputs.images, name: oldest}))
    for step in (0, 1):
        proprio = inputs.proprio.clone()
        proprio[:, step] += 1
        assert changes(inputs._replace(proprio=proprio))


def test_environment_state_and_past_commands_are_read_and_cameras_are_optional(tokenizer, folder):
    policy = trained_a_little(
        make(tokenizer, folder, cameras=(), environment_state_dim=3, n_past_commands=4)
    )
    inputs = Inputs({}, torch.zeros(1, 2, 7), torch.tensor([0]))
    inputs = inputs._replace(
        environment_state=torch.zeros(1, 2, 3), past_commands=torch.zeros(1, 4, 7)
    )
    tokens = policy.predict(inputs).tokens
    before = log_probs(policy, inputs, tokens)
    for other in (
        inputs._replace(environment_state=torch.ones(1, 2, 3)),
        inputs._replace(past_commands=torch.ones(1, 4, 7)),
    ):
        assert not torch.allclose(log_probs(policy, other, tokens), before, atol=1e-5)


def test_a_policy_fits_one_batch_and_leaves_the_model_as_it_is(tokenizer, folder):
    policy = make(tokenizer, folder).train()
    inputs, targets = random_inputs(4), random_targets(policy, 4)
    base = {k: v.clone() for k, v in policy.state_dict().items() if policy.is_stored_elsewhere(k)}
    trained = [p for p in policy.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trained]
    optimizer = torch.optim.Adam(trained, 1e-2)
    first = float(policy.loss(inputs, targets)["tokens"].detach())
    assert first == pytest.approx(np.log(16), abs=1.0)  # of 16 legal bins
    for _ in range(40):
        loss = policy.loss(inputs, targets)["tokens"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first
    after = policy.state_dict()
    assert len(base) > 30 and all(torch.equal(after[key], value) for key, value in base.items())
    kept = [a for a, b in zip(trained, before) if torch.equal(a, b)]
    assert not kept, "every adapter, appended row and projection is trained"


def test_adapters_alone_belong_to_the_policy(tokenizer, folder):
    policy = make(tokenizer, folder)
    trained = {key for key, p in policy.named_parameters() if p.requires_grad}
    assert trained == {key for key, _ in policy.named_parameters() if key in policy.own_state()}
    assert all("lora_" in key for key in trained if key.startswith("backbone."))
    paper = make_policy(
        "vlm",
        "paper",
        tokenizer,
        cameras=CAMERAS,
        tasks=TASKS,
        state_dim=7,
        model_folder=str(folder),
    )
    assert paper.backbone.get_input_embeddings().weight.dtype == torch.bfloat16
    rows = [p for key, p in paper.named_parameters() if key.endswith("lora_A.default.weight")]
    assert rows and all(p.shape[0] == 32 and p.dtype == torch.float32 for p in rows)
    assert len(rows) > sum("lora_A" in key for key in trained)
    size = sum(p.numel() for p in paper.backbone.parameters()) / 1e6
    assert paper.params_m > size


def test_a_policy_over_a_bfloat16_model_samples_legal_tokens(tokenizer, folder):
    policy = make(tokenizer, folder, dtype="bfloat16")
    tokenizer.grammar.check(policy.predict(random_inputs(2)).tokens.numpy())


def test_several_samples_of_an_observation_are_those_of_a_repeated_one(tokenizer, folder):
    policy = trained_a_little(
        make(tokenizer, folder, sampling={"top_k": 1}, candidate_sampling={"top_k": 1})
    )
    inputs = random_inputs(2)
    one, three = policy.predict(inputs), policy.predict(inputs, n_samples=3)
    assert torch.equal(three.tokens, one.tokens.repeat_interleave(3, 0))


def test_an_observation_that_is_repeated_is_read_once(tokenizer, folder):
    policy, read = make(tokenizer, folder), []
    hook = policy.backbone.register_forward_pre_hook(
        lambda module, args, values: read.append(len(values["input_ids"])), with_kwargs=True
    )
    policy.predict(random_inputs(2), n_samples=4)
    hook.remove()
    steps = tokenizer.grammar.max_tokens - 1
    assert read == [2, *[2] * steps, 2, *[6] * steps]


def test_committed_steps_keep_their_tokens(tokenizer, folder):
    policy, inputs = make(tokenizer, folder), random_inputs(2)
    running = random_targets(policy, 2)
    committed = torch.arange(HORIZON).expand(2, -1) < 3
    context = PredictionContext(running["chunk"], committed, torch.ones_like(committed))
    tokens = policy.predict(inputs, n_samples=2, context=context).tokens
    wanted = running["tokens"].repeat_interleave(2, 0)
    spans = torch.from_numpy(tokenizer.grammar.token_time_spans)
    forced = spans[:, 0] < 3
    assert 0 < int(forced.sum()) < len(forced)
    assert torch.equal(tokens[:, forced], wanted[:, forced])
    assert not torch.equal(tokens, wanted)


def test_saved_and_loaded_policies_agree(tokenizer, folder, tmp_path):
    policy = trained_a_little(make(tokenizer, folder))
    policy.fit_state(np.random.default_rng(0).standard_normal((50, 7)).astype(np.float32))
    policy.save_pretrained(tmp_path)
    loaded, inputs = load_policy(tmp_path, tokenizer), random_inputs(2)
    tokens = policy.sample_tokens(inputs).tokens
    assert torch.equal(loaded.sample_tokens(inputs).tokens, tokens)
    expected = log_probs(policy, inputs, tokens)
    assert torch.equal(log_probs(loaded, inputs, tokens), expected)
    own = policy.own_state()
    stored = sum(value.numel() * value.element_size() for value in own.values())
    assert (tmp_path / "model.safetensors").stat().st_size < stored + 20_000
    assert not any(key.endswith("base_layer.weight") for key in own)


def test_a_moved_model_is_found_and_another_or_a_missing_one_is_rejected(
    tokenizer, folder, tmp_path, monkeypatch
):
    copy = shutil.copytree(folder, tmp_path / "models" / "tiny")
    make(tokenizer, copy).save_pretrained(tmp_path / "policy")
    moved = tmp_path / "moved"
    shutil.move(tmp_path / "models", moved)
    with pytest.raises(BundleError, match=r"model_folder of policy vlm.*models/tiny.*NAC_MODELS"):
        load_policy(tmp_path / "policy", tokenizer)
    monkeypatch.setenv("NAC_MODELS", str(moved))
    loaded = load_policy(tmp_path / "policy", tokenizer)
    digest = hashlib.sha256((moved / "tiny" / "config.json").read_bytes()).hexdigest()
    assert loaded.config.model_hash == digest
    text = (moved / "tiny" / "config.json").read_text()
    (moved / "tiny" / "config.json").write_text(text + "\n")
    with pytest.raises(BundleError, match="not of the model that the policy was trained on"):
        load_policy(tmp_path / "policy", tokenizer)


def random_frames(n_episodes=10, length=12):
    """Frames of random walks with noise images."""
    rng, n = np.random.default_rng(0), n_episodes * length
    steps = 0.05 * rng.standard_normal((n_episodes, length, 7))
    states = steps.cumsum(1).reshape(n, 7).astype(np.float32)
    episode = np.repeat(np.arange(n_episodes), length)
    return Frames(
        images={
            name: ImageStack([rng.integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)])
            for name in CAMERAS
        },
        proprio=states,
        actions=states,
        episode=episode,
        start=episode * length,
        end=(episode + 1) * length,
        tasks=tuple(TASKS.values()) * (n_episodes // 2),
        validation=np.arange(n_episodes) % 5 == 4,
        test=np.zeros(n_episodes, bool),
        names=tuple("abcdefg"),
        fps=30,
        intervention=np.zeros(n, bool),
    )


def test_the_trainer_trains_saves_and_resumes_it(tokenizer, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(policy_trainer, "HELD_OUT_FRAMES", 8)
    quick = {"batch": 4, "warmup": 1, "log_every": 2, "steps": 2}
    frames = random_frames()
    for steps in (2, 4):
        config = policy_trainer.PolicyTrainingConfig(**{**quick, "steps": steps})
        policy = make(tokenizer, folder)
        base = {k: v.clone() for k, v in policy.state_dict().items() if ".base_layer." in k}
        made = policy_trainer.PolicyTrainer(policy, frames, config, tmp_path)
        metrics = made.run(resume=steps > 2)
        assert np.isfinite(metrics["l1"]) and base
        after = policy.state_dict()
        assert all(torch.equal(after[key], value) for key, value in base.items())
    loaded, inputs = load_policy(tmp_path / "policy", tokenizer), made.data.inputs(np.arange(3))
    with made._averaged.applied_to(policy):
        tokens = policy.eval().predict(inputs).tokens
    assert torch.equal(loaded.predict(inputs).tokens, tokens)


def test_a_bundle_holds_the_adapters_and_predicts_the_same(folder, tmp_path):
    robot = load_robot("vx300s")
    columns = {"names": robot.joint_names, "units": robot.units, "rate_hz": robot.action_rate_hz}
    tokenizer = fitted("bin", n_bins=16, relative=robot.relative_mask.tolist(), **columns)
    cameras = [camera.name for camera in robot.cameras]
    policy = trained_a_little(make(tokenizer, folder, cameras=cameras, n_action_steps=4))
    path = write_bundle(tmp_path / "bundle", policy, robot, {}, "a card")
    bundle = load_bundle(path)
    assert sum(file.stat().st_size for file in path.rglob("*")) < 1_000_000
    images = {name: np.full((2, SIZE, SIZE, 3), 90, np.uint8) for name in cameras}
    observation = Observation(0.0, images, np.zeros((2, 7), np.float32), "marker")
    inputs = policy.inputs(observation)
    assert torch.equal(bundle.policy.predict(inputs).tokens, policy.predict(inputs).tokens)


def test_a_warm_start_copies_the_adapters(tokenizer, folder, tmp_path):
    trained = trained_a_little(make(tokenizer, folder))
    trained.save_pretrained(tmp_path)
    fresh = make(tokenizer, folder)
    warm_start(fresh, tmp_path)
    own = fresh.own_state()
    assert all(torch.equal(own[key], value) for key, value in trained.own_state().items())


def test_folders_and_options_that_do_not_fit_are_rejected(tokenizer, folder, tmp_path):
    with pytest.raises(ConfigError, match="model_folder of policy vlm must name a local folder"):
        make(tokenizer, "")
    with pytest.raises(ConfigError, match="HuggingFaceTB/SmolVLM-Instruct"):
        make(tokenizer, "HuggingFaceTB/SmolVLM-Instruct")  # an id of the hub is no folder
    with pytest.raises(ConfigError, match="lora_targets 'nothing'"):
        make(tokenizer, folder, lora_targets="nothing")
    with pytest.raises(ConfigError, match="sees with its own model"):
        make(tokenizer, folder, vision="resnet18")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ConfigError, match="holds no vision-language model"):
        make(tokenizer, tmp_path)


@pytest.mark.parametrize("library", ["transformers", "peft"])
def test_a_missing_library_is_named_with_its_extra(tokenizer, folder, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"library {library}; .* pip install nac_ros\[vlm\]"):
        make(tokenizer, folder)


def test_the_class_says_that_it_needs_a_folder():
    assert POLICIES.get("vlm").required_folder == "model_folder"
    assert POLICIES.get("ar").required_folder == ""


def test_prompts_are_laid_out_with_the_images_of_all_cameras(tokenizer, folder):
    policy = make(tokenizer, folder)
    prompt = policy._prompts[1]
    assert prompt.count(policy._processor.image_token) == 2 and TASKS["weighing"] in prompt
    if getattr(policy._processor, "chat_template", None):
        assert prompt.endswith("Assistant :")
    images = {name: np.zeros((2, SIZE, SIZE, 3), np.uint8) for name in CAMERAS}
    state = np.zeros((2, 7), np.float32)
    policy.predict(policy.inputs(Observation(0.0, images, state, "weighing")))
    with pytest.raises(UnknownName):
        policy.inputs(Observation(0.0, images, state, "pour coffee"))
