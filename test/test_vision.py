"""Image encoders: shapes, the ResNet's layers, a local pretrained model, frozen parts."""

import json
import shutil
import sys

import numpy as np
import pytest
import torch

from nac_ros.core.errors import ConfigError
from nac_ros.policies.base import load_policy, make_policy
from nac_ros.policies.observation_encoder import Inputs
from nac_ros.policies.vision import (
    PretrainedEncoder,
    Resnet18Encoder,
    describe_vision_model,
    spatial_softmax,
)
from nac_ros.tokenizers import make_tokenizer

SIZE, CAMERAS = 40, ("scene", "wrist")
FACTS = {"cameras": CAMERAS, "tasks": {"a": "A.", "b": "B."}, "state_dim": 7, "image_size": SIZE}
SMALL = {"dim": 32, "n_layers": 1, "n_heads": 2, "vision_width": 32, "n_keypoints": 4}
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


@pytest.fixture(scope="module")
def vision_folder(tmp_path_factory):
    """A tiny DINOv2 with random weights, saved as such models are."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    folder = tmp_path_factory.mktemp("dinov2")
    transformers.Dinov2Model(config).save_pretrained(folder)
    preprocessor = {"image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    chunks = np.random.default_rng(0).standard_normal((64, 8, 7)).astype(np.float32)
    return make_tokenizer("bin", horizon=8).fit(chunks)


def make(tokenizer, **changes):
    """A small policy with random weights."""
    torch.manual_seed(0)
    return make_policy("ar", "small", tokenizer, **{**FACTS, **SMALL, **changes}).eval()


def random_inputs(batch: int) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, 2, SIZE, SIZE, 3)
    images = {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
        for name in CAMERAS
    }
    return Inputs(images, torch.zeros(batch, 2, 7), torch.zeros(batch, dtype=torch.int64))


def features(policy, inputs):
    with torch.no_grad():
        return policy.encode_images(inputs)


def test_the_keys_of_the_small_encoder_start_with_its_camera(tokenizer):
    keys = make(tokenizer).state_dict()
    assert "observation_encoder.vision.scene.layers.0.weight" in keys
    assert "observation_encoder.vision.wrist.project.bias" in keys


def test_the_resnet_has_the_parameters_of_resnet18():
    encoder = Resnet18Encoder(1, 16, 4)
    body = [*encoder.stem.parameters(), *encoder.blocks.parameters()]
    # 11,689,512 of the published network less the 513,000 of its classifier; a group norm has as
    # many parameters as a batch norm
    assert sum(p.numel() for p in body) == 11_176_512
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.GroupNorm)]
    assert len(norms) == 20 and all(n.num_channels == 16 * n.num_groups for n in norms)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in encoder.modules())
    assert encoder.blocks(encoder.stem(torch.zeros(1, 3, 96, 96))).shape == (1, 512, 3, 3)


def test_the_resnet_encodes_each_frame_on_its_own():
    encoder = Resnet18Encoder(2, 16, 4).eval()
    images = torch.randint(0, 256, (1, 2, SIZE, SIZE, 3), dtype=torch.uint8)
    swapped = encoder.features(images.flip(1))
    first, second = encoder.features(images).chunk(2, 1)
    assert torch.allclose(torch.cat([second, first], 1), swapped, atol=1e-5)


@pytest.mark.parametrize("vision", ["keypoints", "resnet18"])
def test_each_encoder_gives_one_vector_per_camera_and_depends_on_its_images_alone(
    tokenizer, vision
):
    policy, inputs = make(tokenizer, vision=vision), random_inputs(3)
    found = features(policy, inputs)
    assert found.shape == (3, 2, 32) and found.dtype == torch.float32
    darker = {**inputs.images, "wrist": inputs.images["wrist"] // 2}
    changed = features(policy, inputs._replace(images=darker))
    assert torch.equal(changed[:, 0], found[:, 0]) and not torch.equal(changed[:, 1], found[:, 1])


def test_a_pretrained_encoder_gives_what_the_saved_model_gives(tokenizer, vision_folder):
    from transformers import Dinov2Model

    policy = make(tokenizer, vision="pretrained", vision_folder=str(vision_folder))
    inputs = random_inputs(2)
    model = Dinov2Model.from_pretrained(vision_folder).eval()
    frames = inputs.images["wrist"].flatten(0, 1).permute(0, 3, 1, 2) / 255  # [4, 3, S, S]
    small = torch.nn.functional.interpolate(frames, (28, 28), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        pooled = model((small - mean) / std).pooler_output.reshape(2, -1)  # [B, K * F]
        wanted = policy.observation_encoder.vision.project["wrist"](pooled)
    assert torch.allclose(features(policy, inputs)[:, 1], wanted, atol=1e-5)


def test_a_saved_policy_with_a_pretrained_encoder_is_loaded_without_its_folder(
    tokenizer, vision_folder, tmp_path
):
    copy = shutil.copytree(vision_folder, tmp_path / "vision")
    policy = make(tokenizer, vision="pretrained", vision_folder=str(copy))
    policy.save_pretrained(tmp_path / "policy")
    shutil.rmtree(copy)
    loaded, inputs = load_policy(tmp_path / "policy", tokenizer), random_inputs(2)
    assert torch.equal(features(loaded, inputs), features(policy, inputs))


def test_a_pretrained_encoder_is_shared_by_the_cameras(tokenizer, vision_folder):
    both = make(tokenizer, vision="pretrained", vision_folder=str(vision_folder))
    facts = {"vision": "pretrained", "vision_folder": str(vision_folder)}
    one = make(tokenizer, cameras=["scene"], **facts)
    vision = one.observation_encoder.vision
    assert isinstance(vision, PretrainedEncoder)
    projection = sum(p.numel() for p in vision.project.parameters())
    counts = [len(p.vision_parameters()) for p in (one, both)]
    assert counts[1] - counts[0] == 2 and projection > 0  # weight and bias of a projection


@pytest.mark.parametrize("vision", ["keypoints", "resnet18", "pretrained"])
def test_a_frozen_encoder_trains_its_projection_alone(tokenizer, vision_folder, vision):
    folder = str(vision_folder) if vision == "pretrained" else ""
    policy = make(tokenizer, vision=vision, vision_folder=folder, freeze_vision=True).train()
    encoder = policy.observation_encoder.vision
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    chunk = torch.zeros(3, 8, 7)
    targets = policy.prepare_targets(chunk, chunk[:, 0])
    optimizer = torch.optim.SGD([p for p in policy.parameters() if p.requires_grad], 1.0)
    sum(policy.loss(random_inputs(3), targets).values()).backward()
    optimizer.step()
    changed = [k for k, v in encoder.state_dict().items() if not torch.equal(v, before[k])]
    assert changed and all("project" in key for key in changed)
    assert all(p.grad is None for k, p in encoder.named_parameters() if "project" not in k)
    parts = [m for name, m in encoder.named_modules() if name.endswith(("norms", "stem", "model"))]
    assert parts and not any(part.training for part in parts)


def test_an_encoder_that_is_not_frozen_trains_every_weight(tokenizer, vision_folder):
    policy = make(tokenizer, vision="pretrained", vision_folder=str(vision_folder)).train()
    policy.encode_images(random_inputs(2)).square().sum().backward()
    named = policy.observation_encoder.vision.named_parameters()
    without = [key for key, parameter in named if parameter.grad is None]
    assert without == ["model.embeddings.mask_token"]  # of pretraining alone


def test_the_vision_half_of_an_image_text_model_is_taken(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**size, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    text = {**size, "num_attention_heads": 2, "vocab_size": 30}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    model = transformers.CLIPModel(config)
    model.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": MEAN, "image_std": STD})
    )
    policy = make(tokenizer, vision="pretrained", vision_folder=str(tmp_path))
    assert features(policy, random_inputs(2)).shape == (2, 2, 32)
    own = policy.observation_encoder.vision.model.state_dict()
    wanted = model.vision_model.state_dict()
    assert own.keys() == wanted.keys() and all(torch.equal(own[k], wanted[k]) for k in own)


def test_folders_that_do_not_fit_are_rejected(tokenizer, vision_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"vision_folder.*no-model.*NAC_MODELS"):
        make(tokenizer, vision="pretrained", vision_folder=str(tmp_path / "no-model"))
    with pytest.raises(ConfigError, match="vision_folder names"):
        make(tokenizer, vision="pretrained")
    with pytest.raises(ConfigError, match="vision_folder names"):
        make(tokenizer, vision_folder=str(vision_folder))
    copy = shutil.copytree(vision_folder, tmp_path / "copy")
    (copy / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json is missing"):
        make(tokenizer, vision="pretrained", vision_folder=str(copy))


def test_a_missing_library_is_named_with_its_extra(tokenizer, vision_folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"transformers; .* pip install nac_ros\[pretrained\]"):
        make(tokenizer, vision="pretrained", vision_folder=str(vision_folder))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("auto_map", {"AutoModel": "other--code.Model"}),
        ("attn_implementation", "kernels-community/flash"),
        ("backbone", "resnet50"),
        ("num_hidden_layers", 10**9),
        ("layer_norm_eps", 1e300),
        ("model_type", "no_such_model"),
    ],
)
def test_a_described_model_that_names_other_code_or_is_huge_is_rejected(
    vision_folder, name, value
):
    description = json.loads(describe_vision_model(str(vision_folder)))
    description["config"][name] = value
    with pytest.raises(ConfigError, match=name if name != "model_type" else "no_such_model"):
        PretrainedEncoder(CAMERAS, 2, 16, json.dumps(description), False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"mean": [0, 0, 0], "std": [0, 1, 1]}'])
def test_a_damaged_description_is_rejected(text):
    with pytest.raises(ConfigError, match="vision_model"):
        PretrainedEncoder(CAMERAS, 2, 16, text, False)


def test_spatial_softmax_finds_a_bright_spot():
    maps = torch.full((1, 1, 11, 21), -20.0)
    maps[0, 0, 2, 15] = 20.0
    x, y = spatial_softmax(maps)[0]
    assert x == pytest.approx(15 / 10 - 1, abs=1e-3)
    assert y == pytest.approx(2 / 5 - 1, abs=1e-3)
