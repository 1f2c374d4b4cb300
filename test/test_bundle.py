"""Bundles: complete and verified; rejected with the reason if anything does not fit."""

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
from test_chunk_transition import noise_observation
from test_cli import run

from nac_ros.core.config import config_dir
from nac_ros.core.errors import BadObservation, BundleError, ConfigError
from nac_ros.core.types import Observation
from nac_ros.export.bundle import load_bundle, write_bundle
from nac_ros.export.manifest import write_manifest
from nac_ros.export.onnx import TOLERANCE, max_onnx_error
from nac_ros.export.onnx_session import OnnxDetokenizer
from nac_ros.inference.engine import Engine
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import load_tokenizer

MODELS = config_dir().parent / "models"
SHIPPED = {
    "default": {"marker", "weighing"},
    "four_tasks": {"grapes", "marker", "two_blocks", "weighing"},
}


@pytest.fixture
def copied(tiny_bundle, tmp_path):
    return copytree(tiny_bundle, tmp_path / "copy")


def engine_of(bundle, **options):
    return Engine(TorchRuntime(bundle), **options)


def seal(folder) -> None:
    """Writes new hashes for altered files, as an attacker would."""
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder, **{k: v for k, v in manifest.items() if k not in ("files", "format")})


def test_a_bundle_holds_policy_tokenizer_robot_statistics_and_card(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    names = set(bundle.manifest.files)
    assert {"policy/model.safetensors", "tokenizer/model.safetensors", "detokenizer.onnx"} <= names
    assert {"robot.yaml", "statistics.json", "golden.safetensors", "README.md"} <= names
    assert bundle.horizon == 32 and bundle.rate_hz == 30
    assert not [name for name in names if name.endswith((".pt", ".pkl", ".pth"))]


def test_onnx_equals_torch(tiny_bundle):
    graph = OnnxDetokenizer(tiny_bundle / "detokenizer.onnx")
    assert max_onnx_error(load_tokenizer(tiny_bundle), graph) <= TOLERANCE


def test_an_altered_file_is_rejected_by_its_hash(copied):
    path = copied / "policy" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"policy/model\.safetensors was altered"):
        load_bundle(copied)


def test_a_missing_file_is_named(copied):
    (copied / "detokenizer.onnx").unlink()
    with pytest.raises(BundleError, match=r"detokenizer\.onnx is missing"):
        load_bundle(copied)


def test_a_manifest_cannot_name_files_outside(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["files"]["../outside"] = "0" * 64
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "manifest"), ('{"format": 99}', "format 99"), ("[]", "manifest")]
)
def test_a_broken_manifest_is_rejected(copied, text, words):
    (copied / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=words):
        load_bundle(copied)


def test_an_empty_folder_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="nac export"):
        load_bundle(tmp_path)


def test_other_weights_fail_the_golden_vectors_even_with_matching_hashes(copied):
    from safetensors.torch import load_file, save_file

    path = copied / "policy" / "model.safetensors"
    weights = load_file(path)
    weights["codeword_head.codewords"] = weights["codeword_head.codewords"].flip(0).contiguous()
    save_file(weights, path)
    seal(copied)
    with pytest.raises(BundleError, match="golden"):
        load_bundle(copied)


def test_other_statistics_fail_the_golden_vectors(copied, tiny_bundle):
    tokenizer = load_tokenizer(tiny_bundle)
    tokenizer.high += 0.1
    from nac_ros.export.onnx import export_detokenizer

    export_detokenizer(tokenizer, copied / "detokenizer.onnx")
    seal(copied)
    with pytest.raises(BundleError, match="golden inputs differs"):
        load_bundle(copied)


def test_another_robot_is_rejected(tiny_bundle):
    bundle, robot = load_bundle(tiny_bundle), load_robot("vx300s")
    TorchRuntime(bundle).check_robot(robot)
    with pytest.raises(BundleError, match="action_rate_hz"):
        TorchRuntime(bundle).check_robot(replace(robot, action_rate_hz=50.0))
    wider = tuple(replace(camera, width=128) for camera in robot.cameras)
    with pytest.raises(BundleError, match="128x96"):
        TorchRuntime(bundle).check_robot(replace(robot, cameras=wider))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action_rate_hz": 15.0}, r"data at 30 Hz, and robot vx300s has action_rate_hz 15"),
        ({"cameras": ()}, r"uses camera '\w+', robot vx300s has: none"),
    ],
)
def test_export_for_another_robot_names_what_differs(tiny_bundle, tmp_path, changes, words):
    parts, robot = load_bundle(tiny_bundle), replace(load_robot("vx300s"), **changes)
    with pytest.raises(ConfigError, match=words):
        write_bundle(tmp_path / "out", parts.policy, robot, {}, "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"names": tuple("abcdefg")},
            r"names are a, b, .*, those of robot vx300s waist, .*--robot",
        ),
        ({"units": ("",) * 7}, r"units are unknown, .*, those of robot vx300s rad, .*--robot"),
    ],
)
def test_export_of_a_tokenizer_with_other_columns_names_them(
    tiny_bundle, tmp_path, changes, words
):
    parts, robot = load_bundle(tiny_bundle), load_robot("vx300s")
    parts.policy.chunk_spec = replace(parts.policy.chunk_spec, **changes)
    with pytest.raises(ConfigError, match=words):
        write_bundle(tmp_path / "out", parts.policy, robot, {}, "")


def test_a_rate_with_another_rounding_is_accepted(tiny_bundle, tmp_path):
    parts, robot = load_bundle(tiny_bundle), load_robot("vx300s")
    rounded = replace(robot, action_rate_hz=robot.action_rate_hz + 1e-4)
    made = write_bundle(tmp_path / "out", parts.policy, rounded, {}, "")
    assert load_bundle(made).rate_hz == rounded.action_rate_hz


def test_a_bundle_names_no_folder_of_the_machine_it_was_made_on(tiny_bundle):
    here = str(Path(__file__).resolve().parent.parent).encode()
    for path in tiny_bundle.rglob("*"):
        assert path.is_dir() or here not in path.read_bytes(), path


def test_a_policy_that_acts_by_regression_tokens_is_exported(tiny_bundle, tmp_path):
    policy = load_bundle(tiny_bundle).policy
    policy.config = replace(policy.config, acts_by="regression_tokens")
    bundle = load_bundle(write_bundle(tmp_path / "out", policy, load_robot("vx300s"), {}, ""))
    observation = noise_observation(bundle, 2.5)
    chunk = engine_of(bundle).predict_chunk(observation)
    wanted = bundle.tokenizer.decode(chunk.tokens[None], observation.reference[None])[0]
    np.testing.assert_allclose(chunk.actions, wanted, atol=1e-5)


def test_export_changes_a_field_that_the_weights_do_not_depend_on(tiny_bundle, tmp_path, capsys):
    parts = ("--policy", tiny_bundle, "--tokenizer", tiny_bundle / "tokenizer")
    out = tmp_path / "out"
    assert run(capsys, "export", *parts, "--model", "acts_by=regression", "--out", out)[0] == 0
    assert load_bundle(out).policy.config.acts_by == "regression"
    code, _, error = run(capsys, "export", *parts, "--model", "acts_by=hope", "--out", out)
    assert code == 2 and "acts_by" in error


def test_a_folder_that_is_no_bundle_is_not_overwritten(tiny_bundle, tmp_path):
    bundle = load_bundle(tiny_bundle)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="is no bundle"):
        write_bundle(tmp_path, bundle.policy, bundle.robot, {}, "")
    assert (tmp_path / "thesis.txt").is_file()


def test_an_engine_predicts_and_a_seed_repeats_the_chunk(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    observation = Observation(
        2.5,
        {
            name: np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), dtype=np.uint8)
            for name in ("scene", "wrist")
        },
        np.repeat(bundle.robot.home[None].astype(np.float32), 2, 0),
        "marker",
    )
    first, again = (engine_of(bundle, seed=3).predict_chunk(observation) for _ in range(2))
    assert first.stamp == 2.5 and first.actions.shape == (32, 7)
    assert first.names == bundle.robot.joint_names
    assert np.array_equal(first.actions, again.actions)
    wanted = bundle.tokenizer.decode(first.tokens[None], observation.reference[None])[0]
    assert np.allclose(first.actions, wanted, atol=1e-5)
    with pytest.raises(BadObservation, match="no image"):
        engine_of(bundle).predict_chunk(replace(observation, images={}))
    with pytest.raises(ConfigError, match="horizon"):
        engine_of(bundle, n_action_steps=33)


@pytest.mark.parametrize(("name", "tasks"), SHIPPED.items())
def test_a_shipped_bundle_is_complete_and_small(name, tasks):
    folder = MODELS / name
    bundle = load_bundle(folder)
    assert set(bundle.manifest.tasks) == tasks
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 20e6
    assert bundle.tokenizer.bits == 120
    assert (
        max_onnx_error(bundle.tokenizer, OnnxDetokenizer(folder / "detokenizer.onnx")) <= TOLERANCE
    )
    TorchRuntime(bundle).check_robot(load_robot("vx300s"))


def test_every_folder_of_models_is_tested():
    assert {path.name for path in MODELS.iterdir() if path.is_dir()} == set(SHIPPED)
