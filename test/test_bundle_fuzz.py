"""Damaged and invented bundles, tokenizer folders and policy folders are rejected."""

import json
import random
from functools import partial
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import yaml
from fuzz import damage_bytes, damage_tree, nested, pickle_payload, run_cases
from test_bundle import seal

from nac_ros.core.errors import BundleError, ConfigError
from nac_ros.export.bundle import DETOKENIZER, REQUIRED, load_bundle
from nac_ros.export.manifest import MANIFEST, read_manifest
from nac_ros.inference.torch_runtime import TorchRuntime
from nac_ros.policies.base import load_policy
from nac_ros.robot.spec import load_robot
from nac_ros.tokenizers import list_tokenizers, load_tokenizer, make_tokenizer
from nac_ros.tokenizers.serialization import CONFIG_FILE, MAX_SIZE, WEIGHTS_FILE

JSON = (MANIFEST, "policy/config.json", "tokenizer/config.json", "statistics.json")
BINARY = ("policy/model.safetensors", "tokenizer/model.safetensors", "golden.safetensors")
TREES = (*JSON, "robot.yaml")


@pytest.fixture
def copied(tiny_bundle, tmp_path):
    return copytree(tiny_bundle, tmp_path / "copy")


def write_tree(path: Path, tree) -> None:
    if path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    else:
        path.write_text(json.dumps(tree))


def read_tree(path: Path):
    return (
        yaml.safe_load(path.read_text())
        if path.suffix == ".yaml"
        else json.loads(path.read_text())
    )


def change(path: Path, *keys, value) -> None:
    """Sets one value of a JSON or YAML file."""
    tree = read_tree(path)
    place = tree
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    write_tree(path, tree)


def damage(path: Path, content: bytes, folder: Path, rng: random.Random) -> bytes:
    """New content of one file: damaged bytes, a changed tree, or another file's content."""
    kind = rng.random()
    if kind < 0.08:
        return pickle_payload(folder / "executed")
    if kind < 0.12:
        return rng.choice(
            (b"", nested(100_000).encode(), b"\0" * 64, b'{"a":' + b"9" * 5000 + b"}")
        )
    if path.suffix in (".json", ".yaml") and kind < 0.8:
        try:
            tree = damage_tree(read_tree(path), rng)
            dumped = yaml.safe_dump(tree) if path.suffix == ".yaml" else json.dumps(tree)
            return dumped.encode(errors="surrogatepass")
        except (ValueError, yaml.YAMLError):  # the damaged tree cannot be written
            return b"{}"
    return damage_bytes(content, rng)


def bundle_cases(folder: Path, seed: int, count: int):
    """Damages one or two files; most cases get new hashes, as an attacker would write."""
    rng, bundle = random.Random(seed), folder / "copy"
    load_bundle(bundle)  # imports and compilation must not count for the first case
    original = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    names = (*TREES, *TREES, *BINARY, DETOKENIZER)
    for n in range(count):
        chosen = rng.sample(names, rng.choice((1, 1, 2)))
        for name in chosen:
            path = bundle / name
            path.write_bytes(damage(path, original[path], folder, rng))
        rehashed = rng.random() < 0.85 and MANIFEST not in chosen
        if rehashed:
            seal(bundle)
        yield (
            f"case {n}: {', '.join(chosen)}{', rehashed' * rehashed}",
            lambda: load_bundle(bundle),
        )
        for path, content in original.items():
            if path.name == MANIFEST or path.relative_to(bundle).as_posix() in chosen:
                path.write_bytes(content)


def part_cases(folder: Path, seed: int, count: int):
    """Damages and loads a tokenizer folder of any method, or a policy folder."""
    rng, tokenizer = random.Random(seed), load_tokenizer(folder / "copy")
    places = [folder / name for name in list_tokenizers()] + [folder / "copy" / "policy"]
    for n in range(count):
        place = rng.choice(places)
        path = place / rng.choice((CONFIG_FILE, CONFIG_FILE, WEIGHTS_FILE))
        content = path.read_bytes()
        path.write_bytes(damage(path, content, folder, rng))
        if place.name == "policy":
            yield f"case {n}: {path.name} of policy", partial(load_policy, place, tokenizer)
        else:
            yield f"case {n}: {path.name} of {place.name}", partial(load_tokenizer, place)
        path.write_bytes(content)


def size_cases(folder: Path, seed: int, count: int):
    """Sets every integer of every tokenizer's config to a far too large value, one at a time."""
    for name in list_tokenizers():
        path = folder / name / CONFIG_FILE
        original = path.read_bytes()
        for key, value in read_tree(path)["config"].items():
            if isinstance(value, int) and not isinstance(value, bool):
                for huge in (5_000, 65_536, MAX_SIZE, 10**9, 10**12):
                    change(path, "config", key, value=huge)
                    yield f"{name}: {key} {huge}", partial(load_tokenizer, folder / name)
                path.write_bytes(original)


def save_tokenizers(folder: Path) -> None:
    """Saves a small fitted tokenizer of every method below `folder`."""
    rng = np.random.default_rng(0)
    actions = rng.standard_normal((600, 8, 2)).cumsum(1).astype(np.float32)
    small = {
        "nac": {"decoder_dim": 32, "decoder_hidden": 64, "decoder_blocks": 1, "n_filters": 4}
        | {"latent_dim": 8, "codebook_size": 16},
        "rotated_rvq": {"encoder_hidden": 16, "decoder_hidden": 16, "latent_dim": 8}
        | {"codebook_size": 16},
        "oat": {"width": 16, "n_heads": 2, "n_registers": 2},
        "vqvla": {
            "widths": (4, 8, 8),
            "bottleneck_dim": 8,
            "bottleneck_hidden": 8,
            "latent_dim": 4,
        }
        | {"codebook_size": 16, "n_quantizers": 2},
    }
    for name in list_tokenizers():
        tokenizer = make_tokenizer(name, "small", 8, 2, **small.get(name, {}))
        tokenizer.fit(actions).save_pretrained(folder / name)


@pytest.mark.timeout(300)
def test_500_damaged_bundles_are_rejected_or_harmless(copied, tmp_path):
    result = run_cases(__file__, "bundle_cases", tmp_path)
    assert result["rejected"] > 300
    assert not (tmp_path / "executed").exists()


@pytest.mark.timeout(300)
def test_500_damaged_tokenizer_and_policy_folders_are_rejected_or_harmless(copied, tmp_path):
    save_tokenizers(tmp_path)
    result = run_cases(__file__, "part_cases", tmp_path)
    assert result["rejected"] > 300
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [*REQUIRED, DETOKENIZER])
def test_a_manifest_without_a_required_file_is_rejected(copied, name):
    manifest = read_tree(copied / MANIFEST)
    del manifest["files"][name]
    write_tree(copied / MANIFEST, manifest)
    with pytest.raises(BundleError, match=f"does not list {name}.*export it again"):
        load_bundle(copied)


@pytest.mark.parametrize(
    ("file", "keys", "value", "words"),
    [
        (MANIFEST, ["rate_hz"], 60.0, "rate_hz is 60.0 in manifest.json and 30.0 in robot.yaml"),
        (MANIFEST, ["horizon"], 16, "horizon is 16 in manifest.json and 32 in tokenizer"),
        (MANIFEST, ["robot"], "other", "robot is other in manifest.json and vx300s"),
        (MANIFEST, ["tasks"], {"marker": "x"}, "tasks is"),
        ("policy/config.json", ["config", "n_action_steps"], 33, "beyond the horizon 32"),
        ("policy/config.json", ["config", "n_action_steps"], 10**6, "beyond the horizon 32"),
        ("policy/config.json", ["config", "n_action_steps"], 10**9, "n_action_steps 1000000000"),
        ("policy/config.json", ["config", "n_layers"], 10**6, "as large"),
        (
            "tokenizer/config.json",
            ["config", "rate_hz"],
            50.0,
            "fitted to data at 50 Hz, and robot vx300s",
        ),
        ("tokenizer/config.json", ["config", "units"], ["rad"] * 7, "units are rad"),
        ("tokenizer/config.json", ["config", "codebook_size"], 10**6, "more than|as large"),
        ("statistics.json", ["action_max"], [9.0] * 7, "statistics.json: action_max"),
    ],
)
def test_parts_that_contradict_one_another_are_rejected(copied, file, keys, value, words):
    change(copied / file, *keys, value=value)
    if file != MANIFEST:
        seal(copied)
    with pytest.raises(BundleError, match=words):
        load_bundle(copied)


@pytest.mark.parametrize("limit", ["velocity", "acceleration", "jerk", "position"])
def test_a_bundle_cannot_widen_a_limit_of_the_robot(copied, limit):
    joints = read_tree(copied / "robot.yaml")["joints"]
    before = joints[1][limit]
    wider = [1.01 * b for b in before] if limit == "position" else 1.01 * before
    change(copied / "robot.yaml", "joints", 1, limit, value=wider)
    seal(copied)
    with pytest.raises(BundleError, match=f"joint shoulder has {limit} .*wider than robot vx300s"):
        load_bundle(copied)


def test_a_bundle_of_a_slower_robot_still_loads(copied):
    velocity = read_tree(copied / "robot.yaml")["joints"][1]["velocity"]
    change(copied / "robot.yaml", "joints", 1, "velocity", value=velocity / 2)
    seal(copied)
    TorchRuntime(load_bundle(copied)).check_robot(load_robot("vx300s"))


@pytest.mark.parametrize(
    ("key", "value"),
    [("low", np.nan), ("high", np.inf), ("absolute_low", -np.inf), ("high", -1e3), ("low", -1e9)],
)
def test_statistics_that_are_no_range_are_rejected(copied, key, value):
    from safetensors.torch import load_file, save_file

    path = copied / "tokenizer" / WEIGHTS_FILE
    weights = load_file(path)
    weights[key][2] = value
    save_file(weights, path)
    seal(copied)
    with pytest.raises(BundleError, match=r"NaN or inf|no range"):
        load_bundle(copied)


@pytest.mark.parametrize("name", BINARY)
def test_a_pickle_instead_of_weights_is_never_opened(copied, tmp_path, name):
    (copied / name).write_bytes(pickle_payload(tmp_path / "executed"))
    seal(copied)
    with pytest.raises(BundleError, match=r"no safetensors file.*a pickle never is"):
        load_bundle(copied)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content",
    [
        nested(100_000).encode(),
        nested(100_000, "dict").encode(),
        b'{"format": "\xff"}',
        b'{"format": ' + b"1" * 5000 + b"}",
        b'{"format": 2, "robot": "\\u0000"}',
        b'{"format": 2, "robot": "\\ud800"}',
        b'{"format": 2, "rate_hz": 1e999}',
        b'{"format": 2, "rate_hz": Infinity}',
        b'{"format": 2, "format": 2}',
        b'{"format": 2, "files": {"a\\u0000b": ""}}',
        b"[" + b'"x",' * 1_000_000 + b"0]",
        b"",
    ],
)
def test_an_invalid_manifest_is_rejected_with_one_sentence(copied, content):
    (copied / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError) as caught:
        read_manifest(copied)
    text = str(caught.value)
    assert MANIFEST in text and "\n" not in text and len(text) < 1000


@pytest.mark.parametrize("name", [MANIFEST, "robot.yaml", "policy/model.safetensors"])
def test_a_link_in_a_bundle_is_rejected_even_one_to_itself(copied, tmp_path, name):
    path = copied / name
    path.rename(tmp_path / "elsewhere")
    for target in (tmp_path / "elsewhere", path):
        path.unlink(missing_ok=True)
        path.symlink_to(target)
        with pytest.raises(BundleError, match=r"symbolic link|missing"):
            load_bundle(copied)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../copy/robot.yaml", "policy/../robot.yaml", "."]
)
def test_a_manifest_may_name_only_plain_paths_inside_the_bundle(copied, name):
    manifest = read_tree(copied / MANIFEST)
    manifest["files"][name] = "0" * 64
    write_tree(copied / MANIFEST, manifest)
    with pytest.raises(BundleError, match="outside the bundle"):
        load_bundle(copied)


def test_a_config_cannot_allocate_more_than_its_weights_fill(tmp_path):
    save_tokenizers(tmp_path)
    result = run_cases(__file__, "size_cases", tmp_path, count=0)
    assert result["rejected"] > 100


def test_new_networks_may_be_large():
    with pytest.raises(ConfigError):
        make_tokenizer("nac", codebook_size=MAX_SIZE + 1)
    assert make_tokenizer("nac", "paper").params_m > 10
