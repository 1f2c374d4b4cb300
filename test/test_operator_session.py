"""Operator session: each action counts once and for its trial, and no verdict is lost."""

import json
import os
import shutil
from dataclasses import replace

import pytest
from fake_trial_robot import FakeTrialRobot, ImmediateWorker, QueueWorker

from nac_ros.core.errors import ConfigError, TrialError
from nac_ros.trials import operator_session as session_module
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.protocol import TrialProtocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.session_state import TrialId
from nac_ros.trials.trial_log import TrialLog
from nac_ros.trials.trial_robot import Blocker

TASKS = ("marker", "weighing")
RUBRIC = {"marker": ("grasped", "lifted")}


@pytest.fixture
def methods(tiny_bundle, tmp_path):
    """Two equal bundles, so that only the paths could reveal a method."""
    copy = shutil.copytree(tiny_bundle, tmp_path / "copy")
    return {"one": str(tiny_bundle), "two": str(copy)}


@pytest.fixture
def protocol(methods):
    facts = {"tasks": TASKS, "methods": methods, "trials": 2, "rubric": RUBRIC}
    return TrialProtocol(**facts, max_steps=100)


@pytest.fixture
def open_session(protocol, tmp_path):
    """Opens the run with a new session; the one before ends as in a crash."""
    opened = []

    def open_session(worker=None, robot=None):
        for one in opened:
            one.run.close()
        run = TrialRun.create_or_resume(tmp_path / "run", protocol)
        opened.append(
            OperatorSession(
                run, robot or FakeTrialRobot(), worker or ImmediateWorker(), 30.0, operator="Ada"
            )
        )
        return opened[-1]

    yield open_session
    for one in opened:
        one.run.close()


def trial_id(session):
    return session.state().trial_id


def run_trial(session, outcome="success"):
    session.start(trial_id(session))
    session.propose_outcome(trial_id(session), outcome)
    if outcome == "invalid":
        session.annotate(trial_id(session), reason="the cable was caught")
    session.commit_verdict(trial_id(session))
    return session.run.records[-1]


def log_of(session):
    lines = (session.run.folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_trial_goes_from_the_setup_to_a_verdict_on_disk(open_session):
    session = open_session()
    state = session.state()
    assert (state.phase, state.n_completed, state.n_trials) == ("setup", 0, 8)
    assert state.task == "marker" and state.success_criterion.startswith("the marker lies")
    assert state.prompt and state.code in session.run.codes.values() and state.can_start
    session.start(state.trial_id)
    assert session.state().phase == "running"
    session.robot.steps = 60
    session.propose_outcome(state.trial_id, "success")
    assert session.state().phase == "verdict" and session.state().steps == 60
    session.set_rubric_steps(state.trial_id, 2)
    session.annotate(state.trial_id, note="a bit late ")
    session.commit_verdict(state.trial_id)
    (record,) = session.run.records
    assert (record.outcome, record.steps, record.rubric) == ("success", 60, 2)
    assert (record.seconds, record.clips, record.chunk_ms) == (2.0, 3, (40.0, 42.0))
    assert (record.transition_jumps, record.jerk, record.sparc) == ((0.01,), 0.1, -2.5)
    assert (record.note, record.operator) == ("a bit late", "Ada")
    assert record.recording.startswith("/elsewhere/recordings/") and record.attempt == 0
    calls = [name for name in session.robot.called() if name != "prepare"]
    assert calls == ["start", "stop", "finish_recording"] and session.robot.calls[3] == (
        "finish_recording",
        "success",
    )
    assert session.state().phase == "setup" and session.state().trial_id.slot == 1
    assert session.state().note == "" and session.state().steps_reached is None


def test_the_success_detector_s_outcome_is_shown_only_after_the_verdict(open_session):
    session = open_session()
    session.start(trial_id(session))
    assert session.state().detected_outcome == ""
    session.propose_outcome(trial_id(session), "failure")
    assert session.state().detected_outcome == ""
    session.commit_verdict(trial_id(session))
    assert "next to the bin" in session.state().detected_outcome


def test_the_recording_s_metadata_has_code_trial_and_attempt_but_no_method(open_session, methods):
    session = open_session()
    code = session.state().code
    session.start(trial_id(session))
    assert session.robot.metadata["operator"] == "Ada"
    note = session.robot.metadata["note"]
    assert (
        note.startswith(f"marker, trial 0, {code}, attempt 0") and session.run.sha256[:12] in note
    )
    assert not any(path in note for path in methods.values())


def test_a_second_click_gives_neither_this_trial_a_second_verdict_nor_the_next_one(open_session):
    session = open_session()
    first = trial_id(session)
    session.start(first)
    with pytest.raises(TrialError, match="not possible now"):
        session.start(first)
    session.propose_outcome(first, "success")
    session.propose_outcome(first, "success")
    session.commit_verdict(first)
    for action in (
        session.commit_verdict,
        session.start,
        lambda at: session.propose_outcome(at, "success"),
    ):
        with pytest.raises(TrialError, match="was for another trial"):
            action(first)
    assert len(session.run.records) == 1 and session.state().phase == "setup"


def test_an_action_is_rejected_during_an_operation(open_session):
    worker = QueueWorker()
    session = open_session(worker)
    assert session.state().operation == "loading the method" and not session.state().can_start
    with pytest.raises(TrialError, match="it needs phase setup, it is loading"):
        session.start(trial_id(session))
    worker.work()
    session.start(trial_id(session))
    with pytest.raises(TrialError, match="wait: starting the trial"):
        session.start(trial_id(session))
    worker.work()
    assert session.state().phase == "running"


def test_an_invalid_trial_needs_a_reason_and_is_repeated(open_session):
    session = open_session()
    first = session.state()
    session.start(first.trial_id)
    session.propose_outcome(first.trial_id, "invalid")
    with pytest.raises(TrialError, match="needs a reason"):
        session.commit_verdict(first.trial_id)
    session.annotate(first.trial_id, reason="the cable was caught")
    session.commit_verdict(first.trial_id)
    again = session.state()
    assert again.trial_id == TrialId(first.trial_id.slot, 1) and again.code == first.code
    assert again.n_completed == 0 and session.run.records[0].reason == "the cable was caught"
    with pytest.raises(TrialError, match="was for another trial"):
        session.start(first.trial_id)
    assert run_trial(session).attempt == 1


def test_the_last_proposed_outcome_is_the_verdict(open_session):
    session = open_session()
    session.start(trial_id(session))
    session.propose_outcome(trial_id(session), "success")
    session.propose_outcome(trial_id(session), "failure")
    session.commit_verdict(trial_id(session))
    assert session.run.records[0].outcome == "failure"
    session.start(trial_id(session))
    with pytest.raises(TrialError, match="needs phase verdict, it is running"):
        session.commit_verdict(trial_id(session))
    with pytest.raises(TrialError, match="unknown outcome 'fine'"):
        session.propose_outcome(trial_id(session), "fine")


def test_the_step_limit_ends_a_trial_and_the_operator_decides_its_outcome(open_session):
    session = open_session()
    session.start(trial_id(session))
    session.robot.steps = 99
    session.tick()
    assert session.state().phase == "running"
    session.robot.steps = 100
    session.tick()
    state = session.state()
    assert (state.phase, state.proposed_outcome, state.end_reason) == (
        "verdict",
        "",
        "step limit reached",
    )
    with pytest.raises(TrialError, match="choose success, failure or invalid first"):
        session.commit_verdict(state.trial_id)


def test_abort_stops_the_arm_first_and_the_verdict_is_aborted(open_session):
    session = open_session()
    session.start(trial_id(session))
    session.abort()
    assert session.robot.called()[-2:] == ["abort", "stop"]
    assert session.state().proposed_outcome == "aborted"
    with pytest.raises(TrialError, match="only be aborted or invalid"):
        session.propose_outcome(trial_id(session), "success")
    session.commit_verdict(trial_id(session))
    assert session.run.records[0].outcome == "aborted" and session.state().n_completed == 1


@pytest.mark.parametrize("phase", ["loading", "setup", "verdict"])
def test_abort_works_in_every_phase_and_gives_no_verdict(open_session, phase):
    worker = QueueWorker()
    session = open_session(worker)
    if phase != "loading":
        worker.work()
    if phase == "verdict":
        session.start(trial_id(session)), worker.work()
        session.propose_outcome(trial_id(session), "success"), worker.work()
    session.abort()
    assert session.robot.called()[-1] == "abort" and session.run.records == []
    worker.work()
    assert session.state().proposed_outcome == ("success" if phase == "verdict" else "")
    if phase == "setup":
        session.start(trial_id(session)), worker.work()
        assert session.state().phase == "running"


def test_an_abort_during_the_start_of_a_trial_ends_it(open_session):
    worker = QueueWorker()
    session = open_session(worker)
    worker.work()
    session.start(trial_id(session))
    session.abort()
    worker.work()
    assert (session.state().phase, session.state().proposed_outcome) == ("verdict", "aborted")
    assert session.robot.called()[-1] == "stop"


def test_a_blocker_prevents_the_start_of_a_trial(open_session):
    session = open_session()
    session.robot.blocking = [Blocker("camera scene: no image for 2 s", "look at its plug")]
    assert not session.state().can_start
    with pytest.raises(TrialError, match="no image for 2 s: look at its plug"):
        session.start(trial_id(session))
    assert "start" not in session.robot.called() and len(log_of(session)) == 1
    session.robot.blocking = []
    assert run_trial(session).outcome == "success"


def test_a_start_that_fails_moves_nothing_and_can_be_repeated(open_session):
    session = open_session()
    session.robot.failures["start"] = "recorder/start: wrist/image_raw: no message yet"
    session.start(trial_id(session))
    state = session.state()
    assert state.phase == "setup" and "wrist/image_raw" in state.error
    session.robot.failures.clear()
    assert run_trial(session).attempt == 1 and session.state().error == ""


def test_the_error_of_a_method_that_cannot_be_loaded_hides_its_path(open_session, methods):
    robot = FakeTrialRobot()
    robot.failures["prepare"] = f"no bundle at {methods['one']} or {methods['two']}"
    session = open_session(robot=robot)
    state = session.state()
    assert state.phase == "loading" and "no bundle at the bundle of" in state.error
    assert not any(path in state.error for path in methods.values())
    robot.failures.clear()
    session.retry()
    assert session.state().phase == "setup"


def test_a_failed_stop_is_shown_and_the_trial_can_get_a_verdict(open_session):
    session = open_session()
    session.robot.failures["stop"] = "service policy/stop was not answered within 5 s"
    session.start(trial_id(session))
    session.propose_outcome(trial_id(session), "failure")
    assert session.state().phase == "verdict" and "policy/stop" in session.state().error


def test_a_verdict_is_written_even_if_its_recording_cannot_be_completed(open_session):
    session = open_session()
    session.robot.failures["finish_recording"] = "the disk took nothing for 60 s"
    record = run_trial(session)
    assert record.recording == "" and "no recording: the disk took nothing" in record.note


def test_a_crash_during_a_trial_repeats_that_trial_and_counts_the_attempt(open_session):
    session = open_session()
    run_trial(session)
    session.start(trial_id(session))
    before = session.state()
    session = open_session()
    again = session.state()
    assert again.n_completed == 1 and (again.task, again.code) == (before.task, before.code)
    assert again.trial_id == TrialId(before.trial_id.slot, 1)
    assert run_trial(session).attempt == 1
    starts = [entry for entry in log_of(session) if entry["entry"] == "start"]
    assert [(entry["slot"], entry["attempt"]) for entry in starts] == [(0, 0), (1, 0), (1, 1)]


def test_a_crash_between_two_trials_repeats_none(open_session):
    codes = []
    for _ in range(8):
        session = open_session()
        codes.append(run_trial(session).slot)
    assert codes == list(range(8)) and session.state().phase == "finished"


def test_a_verdict_that_does_not_fit_on_the_disk_can_be_written_later(open_session, monkeypatch):
    session = open_session()
    session.start(trial_id(session))
    session.propose_outcome(trial_id(session), "success")

    def full(self, entry):
        raise TrialError("log.jsonl cannot be written, No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(TrialLog, "append", full)
        session.commit_verdict(trial_id(session))
        state = session.state()
        assert state.phase == "verdict" and state.proposed_outcome == "success"
        assert "No space left" in state.error and session.run.records == []
    session.commit_verdict(trial_id(session))
    assert session.run.records[0].outcome == "success"
    assert session.robot.called().count("finish_recording") == 1


def test_no_trial_starts_on_a_full_disk(open_session, monkeypatch):
    session = open_session()
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "free_bytes", lambda folder: 1000)
        assert [one.problem for one in session.state().blockers] == ["the disk of the log is full"]
        with pytest.raises(TrialError, match="disk of the log is full"):
            session.start(trial_id(session))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "full")))
        session.start(trial_id(session))
        assert session.state().phase == "setup" and "full" in session.state().error
    assert "start" not in session.robot.called()


def test_the_first_scene_of_a_start_position_becomes_its_reference(open_session):
    session = open_session()
    assert not session.state().has_reference and session.state().mismatch is None
    run_trial(session)  # the next trial has the same start position: another method of the block
    session.tick()
    assert session.state().has_reference and session.state().mismatch < 0.01
    session.robot.image = session.robot.image[::-1].copy()
    session.scene.select(next(session.run.pending()))
    session.tick()
    assert session.state().mismatch > session.state().max_mismatch and session.state().can_start
    session.save_reference(trial_id(session))
    session.tick()
    assert session.state().mismatch < 0.01


def test_the_operator_can_reset_the_guard_but_not_while_a_trial_runs(open_session):
    session = open_session()
    session.reset_guard()
    assert session.robot.called()[-1] == "reset_guard"
    session.start(trial_id(session))
    with pytest.raises(TrialError, match="a trial runs"):
        session.reset_guard()


def test_unblinding_reveals_the_methods_and_writes_the_report(open_session):
    session = open_session()
    with pytest.raises(TrialError, match="not all trials have a verdict"):
        session.unblind()
    for n in range(8):
        assert session.state().methods_by_code == ()
        run_trial(session, "success" if n % 2 else "failure")
    assert session.state().phase == "finished" and session.state().n_completed == 8
    session.unblind()
    state = session.state()
    assert dict(state.methods_by_code).keys() == set(session.run.codes.values())
    assert state.report_path.endswith("report.html")


def test_a_session_rejects_the_expert_as_a_method(open_session, protocol, tmp_path):
    run = TrialRun.create_or_resume(
        tmp_path / "other", replace(protocol, methods={"expert": "expert"})
    )
    with pytest.raises(ConfigError, match="experts need no operator"):
        OperatorSession(run, FakeTrialRobot(), ImmediateWorker(), 30.0)
    run.close()


def test_more_rubric_steps_than_the_task_has_are_rejected(open_session):
    session = open_session()
    session.start(trial_id(session))
    with pytest.raises(TrialError, match="marker has 2 rubric steps"):
        session.set_rubric_steps(trial_id(session), 3)
