"""Console controller: shows why there is no session, forwards actions, always stops the arm."""

import shutil

import pytest
from fake_trial_robot import FakeTrialRobot, ImmediateWorker

from nac_ros.core.errors import TrialError
from nac_ros.trials.console import text
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.protocol import TrialProtocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.session_state import NO_TRIAL, TrialId
from nac_ros.trials.trial_robot import Blocker

RUBRIC = {"marker": ("grasped", "lifted")}


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def open_controller(bundle, tmp_path):
    opened = []

    def open_session():
        fields = {"tasks": ("marker",), "methods": {"nac": str(bundle)}, "rubric": RUBRIC}
        run = TrialRun.create_or_resume(tmp_path / "run", TrialProtocol(trials=2, **fields))
        return OperatorSession(run, robot, ImmediateWorker(), 30.0)

    def open_controller():
        opened.append(ConsoleController(open_session, robot, 8.0, lambda: now[0]))
        return opened[-1]

    robot, now = FakeTrialRobot(), [100.0]
    open_controller.now = now
    yield open_controller
    for controller in opened:
        controller.close()


def test_the_error_of_an_altered_bundle_is_shown_until_it_is_restored(bundle, open_controller):
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "robot.yaml").write_text("name: other\n")
    controller = open_controller()
    state = controller.state()
    assert state.phase == "no_run" and "robot.yaml" in state.error
    assert "press R (try again)" in text.alarm(state)
    enabled = [
        a for a in ("start", "save", "save_reference", "retry") if text.is_enabled(state, a)
    ]
    assert enabled == ["retry"]
    controller.act("start", NO_TRIAL)
    controller.abort()
    assert controller.session is None
    shutil.rmtree(bundle)
    controller.act("retry", NO_TRIAL)
    assert "no bundle at" in controller.state().error
    bundle.mkdir()
    (bundle / "manifest.json").write_text(manifest)
    controller.act("retry", NO_TRIAL)
    assert controller.session is None


def test_a_second_session_on_the_same_run_gives_an_error(open_controller):
    open_controller()
    assert "being written by another process" in open_controller().state().error


def test_actions_of_the_page_reach_the_session(open_controller):
    controller = open_controller()
    trial = controller.state().trial_id
    for action in ("save_reference", "start", "success", "rubric:2", "save"):
        is_rubric = action.startswith("rubric")
        assert is_rubric or text.is_enabled(controller.state(), action), action
        controller.act(action, trial)
    assert controller.session is not None and controller.session.run.records[0].rubric == 2
    with pytest.raises(TrialError, match="was for another trial"):
        controller.act("start", trial)
    with pytest.raises(TrialError, match="unknown action 'dance'; known are: start, save"):
        controller.act("dance", TrialId(1, 0))


def test_images_are_those_of_known_cameras_and_of_the_reference(open_controller):
    controller = open_controller()
    assert controller.cameras() == ["scene"] and controller.latest_image("scene") is not None
    assert controller.latest_image("../etc/passwd") is None and controller.reference() is None
    controller.act("save_reference", controller.state().trial_id)
    assert controller.reference() is not None


def test_a_fault_enables_the_guard_s_reset_and_no_motion(open_controller):
    controller = open_controller()
    controller.session.robot.blocking = [
        Blocker("the guard stopped the arm (stopped)", "look", "reset_guard")
    ]
    state = controller.state()
    assert text.is_enabled(state, "reset_guard") and not text.is_enabled(state, "start")
    assert "the guard stopped the arm (stopped): look" in text.alarm(state)


def test_a_trial_without_an_open_page_is_aborted_once_with_that_reason(open_controller):
    controller = open_controller()
    robot = controller.session.robot
    open_controller.now[0] += 100
    controller.tick()
    assert controller.state().phase == "setup" and "abort" not in robot.called()
    controller.heartbeat()
    controller.act("start", controller.state().trial_id)
    open_controller.now[0] += 7.9
    controller.tick()
    assert controller.state().phase == "running"
    controller.heartbeat()
    open_controller.now[0] += 8.1
    for _ in range(3):
        controller.tick()
    state = controller.state()
    assert robot.called().count("abort") == 1 and state.phase == "verdict"
    assert state.proposed_outcome == "aborted" and "no page was open for 8.1 s" in state.end_reason


def test_the_server_passes_on_heartbeats_images_and_the_stop(open_controller):
    client = pytest.importorskip("fastapi.testclient")
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("nicegui")
    from nac_ros.trials.console import server

    controller = open_controller()
    controller.act("start", controller.state().trial_id)
    open_controller.now[0] += 9
    application = fastapi.FastAPI()
    server.add_routes(application, controller)
    with client.TestClient(application) as page:
        assert page.post("/heartbeat").status_code == 204
        controller.tick()
        assert controller.state().phase == "running"
        assert page.get("/camera/scene.jpg").headers["content-type"] == "image/jpeg"
        assert page.post("/abort").status_code == 204
    assert controller.state().phase == "verdict"
