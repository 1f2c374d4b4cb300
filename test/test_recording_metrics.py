"""Jerk and SPARC of a trial from the commands in its recording."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mcap")

from nac_ros.core.errors import DatasetError
from nac_ros.core.message_decoding import NANO
from nac_ros.datasets.mcap import exporter, topics
from nac_ros.datasets.mcap import writer as mcap_writer
from nac_ros.robot.kinematics import CollisionModel
from nac_ros.robot.spec import load_robot
from nac_ros.ros.diagnostics_summary import transition_jumps
from nac_ros.stats.smoothness import sparc
from nac_ros.trials.recording_metrics import Smoothness, recording_smoothness

SPEC = load_robot("vx300s")
RATE = SPEC.guard_rate_hz


def swing(seconds, reach=0.6):
    """A minimum-jerk motion of the shoulder, `[T, D]`."""
    u = np.linspace(0, 1, round(seconds * RATE) + 1)
    rows = np.tile(SPEC.home, (len(u), 1))
    rows[:, 1] += reach * (10 * u**3 - 15 * u**4 + 6 * u**5)
    return rows


def record(folder, rows, missing=()):
    """Records the rows as commands in mode policy, between other motion in mode hold."""
    noise = SPEC.home + np.random.default_rng(0).normal(0, 0.1, (30, SPEC.action_dim))
    parts = [("hold", noise), ("policy", rows), ("hold", noise)]
    writer, at = mcap_writer.BagWriter(folder, {}), NANO
    writer.add_topic(topics.MODE, topics.TEXT)
    writer.add_topic(topics.COMMAND, topics.JOINTS)
    for mode, part in parts:
        writer.write(topics.MODE, at, at, exporter.serialize_text(mode))
        for k, row in enumerate(part):
            at += round(NANO / RATE)
            if mode != "policy" or k not in missing:
                data = exporter.serialize_joint_state(at, SPEC.joint_names, row)
                writer.write(topics.COMMAND, at, at, data)
    return writer.finish()


def test_jerk_and_sparc_are_those_of_the_policy_s_motion(tmp_path):
    rows = swing(2.0)
    found = recording_smoothness(record(tmp_path / "episode", rows), SPEC)
    jerks = np.diff(rows, 3, axis=0) * RATE**3 / SPEC.jerk_limit
    assert found.jerk == pytest.approx(np.sqrt((jerks**2).mean()), rel=1e-6)
    places = CollisionModel(SPEC, SPEC.body).points(rows)[:, 0]
    speed = np.linalg.norm(np.diff(places, axis=0), axis=1) * RATE
    assert found.sparc == pytest.approx(sparc(speed, RATE), abs=0.02)


def test_a_lost_set_point_does_not_change_the_jerk(tmp_path):
    whole = recording_smoothness(record(tmp_path / "whole", swing(2.0)), SPEC)
    holed = recording_smoothness(
        record(tmp_path / "holed", swing(2.0), missing={80, 81, 120}), SPEC
    )
    assert holed.jerk == pytest.approx(whole.jerk, rel=0.1)
    assert holed.sparc == pytest.approx(whole.sparc, abs=0.02)


def test_unknown_smoothness_is_none_and_the_error_names_a_damaged_recording(tmp_path):
    assert recording_smoothness(record(tmp_path / "none", swing(2.0)[:2]), SPEC) == Smoothness()
    shapeless = replace(SPEC, body=None)
    found = recording_smoothness(record(tmp_path / "episode", swing(1.0)), shapeless)
    assert found.sparc is None and found.jerk is not None
    file = tmp_path / "episode" / mcap_writer.FILE
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DatasetError, match="nac data repair"):
        recording_smoothness(tmp_path / "episode", SPEC)


def chunk(stamp, jump):
    return {"hold": "", "chunk_stamp": stamp, "transition_jump": jump}


def test_each_chunk_transition_counts_once_and_a_start_from_rest_does_not():
    before = {"hold": "mode_hold"}
    reports = [{"hold": "no_chunk"}, *[chunk(1.0, 0.3)] * 2, *[chunk(2.0, 0.01)] * 3]
    assert transition_jumps(reports, before) == [0.01]
    reports += [{"hold": "chunk_stale"}, chunk(2.5, 0.2), chunk(3.0, 0.02)]
    assert transition_jumps(reports, before) == [0.01, 0.02]
    assert transition_jumps([chunk(2.0, 0.01)], chunk(2.0, 0.01)) == []


def test_smoothness_can_be_computed_at_a_low_action_rate(tmp_path):
    folder = record(tmp_path / "episode", swing(2.0))
    slow = recording_smoothness(folder, replace(SPEC, action_rate_hz=10.0))
    assert slow.sparc == pytest.approx(recording_smoothness(folder, SPEC).sparc, abs=0.05)
