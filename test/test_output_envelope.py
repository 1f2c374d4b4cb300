"""Output envelope: values against direct computation, search, and bundles that still verify."""

import json
from itertools import product
from shutil import copytree

import numpy as np
import pytest

from nac_ros.cli.main import main
from nac_ros.core.errors import BadActions, BundleError, ConfigError
from nac_ros.export.bundle import load_bundle
from nac_ros.export.output_envelope import (
    MEANING,
    ExtremeSearch,
    alternative_tokens,
    measure_envelope,
    random_references,
    write_envelope,
)
from nac_ros.robot.spec import ControllerGroup, JointSpec, RobotSpec, load_robot
from nac_ros.tokenizers import list_tokenizers, make_tokenizer
from nac_ros.tokenizers.grammar import PAD, random_sequences

QUANTITIES = ("position", "velocity", "acceleration", "first_step")
RATE = 20.0


def two_joints() -> RobotSpec:
    """A robot with one relative and one absolute joint."""
    limits = {"velocity": 2.0, "acceleration": 10.0, "jerk": 100.0}
    arm = JointSpec(name="arm", unit="rad", position=(-2.0, 3.0), home=2.5, **limits)
    jaw = JointSpec(name="jaw", unit="m", position=(0.0, 0.1), home=0.1, relative=False, **limits)
    group = ControllerGroup(name="all", kind="jtc", topic="t", joints=("arm", "jaw"))
    return RobotSpec(name="two_joints", joints=(arm, jaw), cameras=(), groups=(group,))


def small_tokenizer(name: str, horizon: int = 8, rate_hz: float = RATE, **config):
    """A tokenizer fitted to random walks of the two joints, the first one relative."""
    steps = np.random.default_rng(0).standard_normal((200, horizon, 2))
    walks = (steps.cumsum(1) * [0.05, 0.002] + [0.0, 0.05]).astype(np.float32)
    made = make_tokenizer(name, "small", horizon, 2, rate_hz=rate_hz, relative=[True, False])
    return made.fit(walks, walks[:, 0])


@pytest.fixture(scope="module", params=list_tokenizers())
def measured(request):
    tokenizer = small_tokenizer(request.param)
    return tokenizer, measure_envelope(tokenizer, two_joints(), samples=60, seed=3)


def exact_bins(low, high):
    """A tokenizer of 16 bins and 4 steps whose outermost bins are centred on `low` and `high`."""
    low, high = np.array(low), np.array(high)
    half, middle = (high - low) / 2 * 16 / 15, (low + high) / 2
    corners = np.stack([np.tile(middle - half, (4, 1)), np.tile(middle + half, (4, 1))])
    made = make_tokenizer("bin", "small", 4, 2, rate_hz=RATE, n_bins=16, limit=1.0)
    return made.fit(corners)


def computed_directly(tokenizer, worst, quantity: str, joint: int) -> float:
    """The largest value of a quantity, step by step, in the sequence of a WorstCase."""
    reference = np.array([worst.reference], np.float32)
    (chunk,) = tokenizer.decode(np.array([worst.tokens]), reference).double().numpy()
    path, steps = chunk[:, joint], range(1, len(chunk) - 1)
    start = reference[0, 0] if joint == 0 else 0.05  # for the jaw the middle of its limits
    return {
        "position": max(abs(q - start) for q in path),
        "velocity": max(abs(path[i] - path[i - 1]) * RATE for i in range(1, len(path))),
        "acceleration": max(abs(path[i + 1] - 2 * path[i] + path[i - 1]) * RATE**2 for i in steps),
        "first_step": abs(path[0] - reference[0, joint]) * RATE,
    }[quantity]


def test_the_worst_case_of_bins_jumps_over_the_whole_range_at_every_step():
    envelope = measure_envelope(exact_bins([-1.0, 0.01], [2.0, 0.09]), two_joints(), samples=300)
    for row, low, high in zip(envelope.joints, (-1.0, 0.01), (2.0, 0.09)):
        assert row.lowest == pytest.approx(low, abs=1e-5)
        assert row.highest == pytest.approx(high, abs=1e-5)
        assert row.velocity.value == pytest.approx((high - low) * RATE, rel=1e-4)
        assert row.acceleration.value == pytest.approx(2 * (high - low) * RATE**2, rel=1e-4)
    arm, jaw = envelope.joints
    assert arm.first_step.value == pytest.approx((3.0 - -1.0) * RATE, rel=1e-4)
    assert jaw.first_step.value == pytest.approx(0.09 * RATE, rel=1e-4)
    assert arm.velocity.ratio == pytest.approx(3.0 * RATE / 2.0, rel=1e-4)
    assert arm.acceleration.limit == 10.0 and arm.position.limit == 2.5


def test_positions_of_absolute_joints_do_not_depend_on_the_reference():
    envelope = measure_envelope(exact_bins([-2.0, -0.05], [3.0, 0.12]), two_joints(), samples=100)
    arm, jaw = envelope.joints
    assert not jaw.relative and jaw.beyond_from_home == pytest.approx(0.05, abs=1e-5)
    assert jaw.position.ratio == pytest.approx(0.1 / 0.05, rel=1e-4)
    assert arm.beyond_from_home == pytest.approx(0, abs=1e-5)


def test_every_value_is_that_of_the_stored_sequence(measured):
    tokenizer, envelope = measured
    for joint, row in enumerate(envelope.joints):
        for quantity in QUANTITIES:
            worst = getattr(row, quantity)
            assert worst.value == pytest.approx(
                computed_directly(tokenizer, worst, quantity, joint), rel=1e-3, abs=1e-3
            ), (row.name, quantity)
            assert worst.ratio == worst.value / worst.limit


def test_offsets_of_relative_joints_are_counted_from_home(measured):
    arm = measured[1].joints[0]
    assert arm.relative and arm.lowest < arm.highest
    beyond = max(0.0, 2.5 + arm.highest - 3.0, -2.0 - (2.5 + arm.lowest))
    assert arm.beyond_from_home == pytest.approx(beyond)
    assert arm.position.value == max(-arm.lowest, arm.highest) and arm.position.limit == 5.0


def test_the_search_never_reports_less_than_sampling(measured):
    tokenizer, envelope = measured
    found = [getattr(row, quantity) for row in envelope.joints for quantity in QUANTITIES]
    assert all(worst.value >= worst.sampled for worst in found)
    assert any(worst.found == "search" and worst.value > worst.sampled for worst in found)
    sampling = ExtremeSearch(tokenizer, two_joints(), seed=3)
    sampling.sample(60)
    assert sampling.decoded == 60 < envelope.decoded <= 60 * 7
    sampled = sampling.values.reshape(5, 2)
    assert [row.velocity.sampled for row in envelope.joints] == sampled[2].tolist()
    assert [row.first_step.sampled for row in envelope.joints] == sampled[4].tolist()


def test_a_seed_repeats_the_envelope(measured):
    tokenizer, envelope = measured
    assert measure_envelope(tokenizer, two_joints(), samples=60, seed=3) == envelope
    assert measure_envelope(tokenizer, two_joints(), samples=60, seed=4).joints != envelope.joints


def test_alternative_tokens_leave_a_sequence_complete(measured):
    grammar = measured[0].grammar
    sequences = random_sequences(grammar, 9, np.random.default_rng(0))
    sequences = sequences[np.argsort((sequences != PAD).sum(1))]
    longest = sequences[-1]
    for row, position in product((sequences[0], longest), range(len(longest))):
        tokens = alternative_tokens(grammar, row, position)
        changed = np.repeat(row[None], len(tokens), 0)
        changed[:, position] = tokens
        grammar.check(changed)
        assert row[position] not in tokens and not (len(tokens) and row[position] == PAD)
    assert len(alternative_tokens(grammar, longest, 0))


def test_references_are_home_corners_and_points_inside_the_limits():
    robot = two_joints()
    states = random_references(robot, 300, np.random.default_rng(0))
    low, high = robot.position_low.astype(np.float32), robot.position_high.astype(np.float32)
    assert (states >= low).all() and (states <= high).all()
    assert np.allclose(states[::3], robot.home)
    assert set(states[1::3, 0].tolist()) == {-2.0, 3.0} and len(set(states[2::3, 0])) > 90


def test_a_bundle_with_an_envelope_verifies_and_its_manifest_covers_it(tiny_bundle, tmp_path):
    copied = copytree(tiny_bundle, tmp_path / "copy")
    robot = load_robot("vx300s")
    results = write_envelope(copied, robot, samples=20)
    before, after = load_bundle(tiny_bundle).manifest, load_bundle(copied).manifest
    assert set(after.files) - set(before.files) == {"envelope.json"}
    assert after.created_by == before.created_by and after.tasks == before.tasks
    assert json.loads((copied / "envelope.json").read_text()) == results
    assert results["weights_sha256"] == after.files["tokenizer/model.safetensors"]
    write_envelope(copied, robot, samples=20, seed=1)
    load_bundle(copied)
    (copied / "envelope.json").write_text("{}")
    with pytest.raises(BundleError, match=r"envelope\.json was altered"):
        load_bundle(copied)
    assert not list(copied.glob("*.partial"))


def test_an_altered_bundle_gets_no_new_hashes(tiny_bundle, tmp_path):
    copied = copytree(tiny_bundle, tmp_path / "copy")
    (copied / "robot.yaml").write_text("name: other")
    with pytest.raises(BundleError, match=r"robot\.yaml was altered"):
        write_envelope(copied, load_robot("vx300s"), samples=20)
    assert not (copied / "envelope.json").exists()


def test_the_command_prints_a_table_and_its_meaning(capsys, tiny_bundle, tmp_path):
    folder, results = copytree(tiny_bundle / "tokenizer", tmp_path / "codec"), tmp_path / "f.json"
    arguments = ["tokenizer", "envelope", str(folder), "--robot", "vx300s", "--samples", "20"]
    assert main([*arguments, "--seed", "2", "--json", str(results)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == MEANING and "lower bound of the worst case" in MEANING
    assert any(line.startswith("wrist_angle") for line in lines)
    written = json.loads(results.read_text())
    assert written == json.loads((folder / "envelope.json").read_text())
    assert (written["seed"], written["samples"], written["robot"]) == (2, 20, "vx300s")
    assert written["joints"][0]["velocity"]["limit"] == pytest.approx(3.14159)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"action_dim": 3}, "3 dimensions"),
        ({"rate_hz": 0.0}, "rate_hz=30"),
        ({"names": ["jaw", "arm"]}, "jaw, arm"),
        ({"units": ["m", "m"]}, "units"),
        ({"horizon": 2}, "3 steps"),
    ],
)
def test_a_codec_that_does_not_fit_the_robot_is_rejected(changes, words):
    values = {"horizon": 8, "action_dim": 2, "rate_hz": RATE, **changes}
    tokenizer = make_tokenizer("bin", **values)
    tokenizer.fit(np.random.default_rng(0).random((9, values["horizon"], values["action_dim"])))
    with pytest.raises(ConfigError, match=words):
        measure_envelope(tokenizer, two_joints(), samples=10)


def test_a_codec_that_decodes_to_nan_is_rejected():
    tokenizer = exact_bins([-1.0, 0.01], [2.0, 0.09])
    tokenizer.high[0] = np.nan
    with pytest.raises(BadActions, match="NaN"):
        measure_envelope(tokenizer, two_joints(), samples=10)


@pytest.mark.parametrize("wrong", ["robot", "folder", "dimensions", "output"])
def test_bad_input_is_one_sentence_and_code_2(capsys, tmp_path, wrong):
    folder, robot = tmp_path / "codec", "r2d2" if wrong == "robot" else "vx300s"
    if wrong == "output":
        make_tokenizer("bin", rate_hz=30.0).fit(np.zeros((2, 32, 7))).save_pretrained(folder)
        (folder / "envelope.json").mkdir()
    elif wrong == "dimensions":
        small_tokenizer("bin").save_pretrained(folder)
    arguments = ["tokenizer", "envelope", str(folder), "--robot", robot, "--samples", "5"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    words = {
        "robot": "known are",
        "dimensions": "7 joints",
        "folder": "codec",
        "output": "Is a directory",
    }
    assert words[wrong] in error and error.count("\n") == 1
