"""The desk says why there is no sitting yet, hands orders on, and stops the arm in any case."""

import shutil

import pytest
from fake_trial_robot import AtOnce, StandIn

from nac_ros.core.errors import TrialError
from nac_ros.trials.console import text
from nac_ros.trials.console.controller import ConsoleController
from nac_ros.trials.operator_session import OperatorSession
from nac_ros.trials.protocol import Protocol
from nac_ros.trials.run import TrialRun
from nac_ros.trials.session_state import NO_TRIAL, TrialId
from nac_ros.trials.trial_robot import Blocker

RUBRIC = {"marker": ("grasped", "lifted")}


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


@pytest.fixture
def open_desk(bundle, tmp_path):
    opened = []

    def begin():
        facts = {"tasks": ("marker",), "methods": {"nac": str(bundle)}, "rubric": RUBRIC}
        run = TrialRun.begin(tmp_path / "run", Protocol(trials=2, **facts))
        return OperatorSession(run, arm, AtOnce(), 30.0)

    def open_desk():
        opened.append(ConsoleController(begin, arm, 8.0, lambda: now[0]))
        return opened[-1]

    arm, now = StandIn(), [100.0]
    open_desk.now = now
    yield open_desk
    for desk in opened:
        desk.close()


def test_an_altered_bundle_is_named_until_it_is_mended(bundle, open_desk):
    manifest = (bundle / "manifest.json").read_text()
    (bundle / "robot.yaml").write_text("name: other\n")
    desk = open_desk()
    view = desk.view()
    assert view.phase == "closed" and "robot.yaml" in view.trouble
    assert "press R (try again)" in text.alarm(view)
    useful = [deed for deed in ("start", "write", "keep", "retry") if text.is_enabled(view, deed)]
    assert useful == ["retry"]
    desk.act("start", NO_TRIAL)
    desk.abort()
    assert desk.session is None
    shutil.rmtree(bundle)
    desk.act("retry", NO_TRIAL)
    assert "no bundle at" in desk.view().trouble
    bundle.mkdir()
    (bundle / "manifest.json").write_text(manifest)
    desk.act("retry", NO_TRIAL)
    assert desk.session is None


def test_another_sitting_at_the_same_run_is_named(open_desk):
    open_desk()
    assert "being written by another process" in open_desk().view().trouble


def test_orders_of_the_page_reach_the_sitting(open_desk):
    desk = open_desk()
    at = desk.view().turn
    for deed in ("keep", "start", "success", "rubric:2", "write"):
        assert deed.startswith("rubric") or text.is_enabled(desk.view(), deed), deed
        desk.act(deed, at)
    assert desk.session is not None and desk.session.run.records[0].rubric == 2
    with pytest.raises(TrialError, match="meant for another trial"):
        desk.act("start", at)
    with pytest.raises(TrialError, match="'dance' is no order; known are: start, write"):
        desk.act("dance", TrialId(1, 0))


def test_pictures_are_those_of_known_cameras_and_of_the_place(open_desk):
    desk = open_desk()
    assert desk.cameras() == ["scene"] and desk.picture("scene") is not None
    assert desk.picture("../etc/passwd") is None and desk.reference() is None
    desk.act("keep", desk.view().turn)
    assert desk.reference() is not None


def test_a_fault_offers_the_guard_s_reset_and_nothing_that_moves(open_desk):
    desk = open_desk()
    desk.session.arm.lacks = [Blocker("the guard stopped the arm (stopped)", "look", "release")]
    view = desk.view()
    assert text.is_enabled(view, "release") and not text.is_enabled(view, "start")
    assert "the guard stopped the arm (stopped): look" in text.alarm(view)


def test_a_trial_that_no_page_looks_on_is_aborted_once_and_says_so(open_desk):
    desk = open_desk()
    arm = desk.session.arm
    open_desk.now[0] += 100
    desk.tick()
    assert desk.view().phase == "reset" and "abort" not in arm.names()
    desk.watch()
    desk.act("start", desk.view().turn)
    open_desk.now[0] += 7.9
    desk.tick()
    assert desk.view().phase == "running"
    desk.watch()
    open_desk.now[0] += 8.1
    for _ in range(3):
        desk.tick()
    view = desk.view()
    assert arm.names().count("abort") == 1 and view.phase == "judging"
    assert view.proposed == "aborted" and "no page was open for 8.1 s" in view.ended


def test_a_page_says_that_it_is_there(open_desk):
    client = pytest.importorskip("fastapi.testclient")
    fastapi = pytest.importorskip("fastapi")
    pytest.importorskip("nicegui")
    from nac_ros.trials.console import server

    desk = open_desk()
    desk.act("start", desk.view().turn)
    open_desk.now[0] += 9
    application = fastapi.FastAPI()
    server.offer(application, desk)
    with client.TestClient(application) as page:
        assert page.post("/here").status_code == 204
        desk.tick()
        assert desk.view().phase == "running"
        assert page.get("/camera/scene.jpg").headers["content-type"] == "image/jpeg"
        assert page.post("/abort").status_code == 204
    assert desk.view().phase == "judging"
