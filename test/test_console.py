"""A person's blind session in a real browser, with the real nodes and the twin over DDS."""

import json
import re
import shutil
import signal
import urllib.error
import urllib.request
from dataclasses import replace

import pytest
import yaml
from security_audit import forbidden

pytest.importorskip("rclpy")
pytest.importorskip("mujoco")
pytest.importorskip("nicegui")

from rcl_interfaces.srv import GetParameters

from nac_ros.apps.demo import running_graph
from nac_ros.core.config import config_dir
from nac_ros.core.errors import NacError
from nac_ros.datasets.mcap import reader
from nac_ros.robot.spec import load_robot
from nac_ros.ros.node_graph import evaluate_graph

WAIT_S = 90.0
PATIENT = {"min_rate_share": 0.0, "max_gap_s": 10.0, "max_offset_s": 1.0, "min_free_gb": 0.0}
RUBRIC = ["grasped", "lifted", "over the bin"]


@pytest.fixture(scope="module")
def browser():
    """A real Chromium; the tests of this file skip without one."""
    drivers = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium or google-chrome on this machine")
    with drivers.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The robot's YAML with more patience for sensors: a test machine may be busy."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    facts["joint_states_max_age_s"] = 1.5
    for camera in facts["cameras"]:
        camera["max_age_s"] = 1.5
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return str(path)


def write_protocol(folder, bundle, second):
    """Two methods that are the same, on two tasks."""
    facts = {"tasks": ["marker", "weighing"], "trials": 1, "rubric": {"marker": RUBRIC}}
    facts |= {"conditions": {"randomization": "varied"}}
    facts |= {"methods": {"first_method": str(bundle), "second_method": str(second)}}
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def graph_of(robot, folder, names=(), **trials):
    """What evaluate.launch.py starts on the twin, all of it or the nodes named."""
    given = {"protocol": str(folder / "protocol.yaml"), "out": str(folder / "run"), "port": 0}
    nodes = evaluate_graph("twin", **{**given, **trials})
    more = {"recorder": PATIENT, "guard": {"max_heartbeat_age_s": 5.0, "call_log": "none"}}
    return [
        replace(node, parameters={**node.parameters, "robot": robot, **more.get(node.name, {})})
        for node in nodes
        if not names or node.name in names
    ]


class Operator:
    """Looks at the page, presses keys and clicks, as a person does."""

    def __init__(self, browser, bench, address, width=1280, height=800):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(1000 * WAIT_S)
        self.bench, self.asked = bench, []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_selector(".act-start")

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def sees(self, selector, text):
        self.page.wait_for_function(
            "([s, t]) => [...document.querySelectorAll(s)].some(e => e.innerText.includes(t))",
            arg=[selector, text],
        )

    def text(self, selector):
        return self.page.inner_text(selector)

    def may(self, deed):
        """Until an order is offered."""
        self.page.wait_for_selector(f".act-{deed}:not([disabled]):not(.disabled)")

    def may_not(self, deed):
        self.page.wait_for_selector(f".act-{deed}[disabled], .act-{deed}.disabled")

    def begin(self):
        self.may("start")
        self.press("Space")
        self.sees(".phase", "The policy drives")

    def write(self):
        self.may("write")
        self.press("Enter")


def console_of(bench):
    """The page's address, once the node is there."""
    bench.wait_until(lambda: bench.latest_diagnostics("trials").get("address"), "the console", WAIT_S)
    return bench.latest_diagnostics("trials")["address"]


def scenes_of(bench):
    """What the twin was told of how its scenes vary."""
    request = GetParameters.Request(names=["randomization"])
    return bench.call(GetParameters, "twin/get_parameters", request).values[0].string_value


def records_of(folder):
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["entry"] == "trial"]


@pytest.mark.timeout(600)
def test_a_whole_blind_session_in_a_browser(browser, robot, tiny_bundle, tmp_path):
    second = shutil.copytree(tiny_bundle, tmp_path / "second_bundle")
    write_protocol(tmp_path, tiny_bundle, second)
    graph = graph_of(robot, tmp_path, operator="Ada")
    with running_graph(graph, tmp_path) as (processes, bench):
        one = Operator(browser, bench, console_of(bench))
        one.may("start")
        assert_blind(one)
        assert forbidden(bench.node, ("trials", "recorder"), load_robot(robot)) == set()
        assert scenes_of(bench) == "varied"
        with pytest.raises(NacError, match="clean up first to set bundle"):
            bench.set_parameters("policy", {"bundle": str(second)})
        play_through_a_reload(one)
        one = play_through_a_crash(browser, one, processes, bench, graph[-1])
        play_invalid(one, tmp_path)
        play_aborted(one, processes, bench)
        play_with_a_lost_camera(one, processes)
        play_by_touch(browser, one, bench)
        one.press("u")
        one.sees(".last", "report:")
        assert "is first_method" in one.text(".last")
        assert all(url.startswith((one.page.url, "data:", "blob:")) for url in one.asked)
    records = records_of(tmp_path)
    assert [r["outcome"] for r in records] == [
        "success", "invalid", "aborted", "failure", "success"
    ]  # fmt: skip
    assert records[0]["rubric"] == 2 and records[0]["operator"] == "Ada"
    assert records[1]["reason"] == "the cable was caught" and records[2]["attempt"] == 2
    for record in records:
        facts = reader.read_metadata(tmp_path / "run" / record["recording"])
        assert (
            facts["operator"] == "Ada"
            and facts["bundle"] == ""
            and record["code"] in facts["note"]
        )
        assert facts["task"] == record["task"]
    crashed = [p.name for p in (tmp_path / "run/recordings").iterdir() if "discarded" in p.name]
    assert len(crashed) == 2, "the invalid trial's, and that of the crash"
    assert records[0]["seconds"] > 0 and records[0]["plan_ms"]
    moved = [r for r in records if r["jerk"] > 0]  # an untrained policy's chunks may be refused
    assert moved and all(r["sparc"] < 0 for r in moved)
    assert (tmp_path / "run" / "report.html").is_file()


def assert_blind(one):
    content = one.page.content()
    assert not re.search("first_method|second_method|second_bundle|bundle0", content)
    assert one.text(".code")


def play_through_a_reload(one):
    """A page that is loaded again in the middle of a trial shows that trial, still running."""
    code = one.text(".code")
    one.begin()
    one.page.reload(wait_until="domcontentloaded")
    one.sees(".phase", "The policy drives")
    assert one.text(".code") == code
    one.press("s")
    one.sees(".phase", "How did it go? success")
    one.press("2")
    one.page.wait_for_selector(".step-2.chosen")
    one.write()
    one.sees(".last", "The twin's judge says")
    one.sees(".scene", "Mismatch 0.")
    assert "as the reference" in one.text(".scene")


def play_through_a_crash(browser, one, processes, bench, node):
    """A console that dies in the middle of a trial comes again, stops the arm and repeats it."""
    code, before = one.text(".code"), console_of(bench)
    one.begin()
    processes.kill("trials")
    processes.start(node)
    bench.wait_until(lambda: console_of(bench) != before, "the console again", WAIT_S)
    bench.wait_until(lambda: bench.latest_diagnostics("guard").get("mode") == "hold", "the arm to hold", WAIT_S)
    one.page.close()
    one = Operator(browser, bench, console_of(bench))
    one.may("start")
    one.sees(".bar", "marker, trial 0, attempt 2")
    assert one.text(".code") == code and "1 of 4 judged" in one.page.content()
    return one


def play_invalid(one, folder):
    """It needs a reason; keys typed into it are text; the same trial comes again."""
    one.begin()
    one.press("i")
    one.sees(".phase", "How did it go? invalid")
    one.write()
    one.sees("body", "an invalid trial needs a reason")
    assert len(records_of(folder)) == 1
    one.page.click(".reason input")
    one.page.keyboard.type("the cable was caught")
    one.press("Enter", "Enter")
    one.sees("body", "attempt 3")
    assert "How did it go" not in one.text(".phase")


def play_aborted(one, processes, bench):
    """Esc stops the arm also while one types, and while another node hangs."""
    one.begin()
    one.page.click(".note input")
    one.page.keyboard.type("si")
    processes.pause("policy")
    one.press("Escape")
    bench.wait_until(lambda: bench.latest_diagnostics("guard").get("fault") == "stopped", "the stop", WAIT_S)
    one.sees(".phase", "How did it go? aborted")
    one.sees(".alarm", "service policy/stop was not answered within 5 s")
    processes.signal("policy", signal.SIGCONT)
    one.may_not("success")
    one.page.click(".prompt")
    one.write()
    one.sees(".bar", "weighing, trial 0")


def play_with_a_lost_camera(one, processes):
    """What was lost is named and keeps a trial from being begun; in a trial it is seen."""
    one.may("start")
    processes.pause("twin")
    one.sees(".alarm", "camera scene: no image for")
    one.page.wait_for_selector(".view.lost")
    one.may_not("start")
    one.press("Space")
    processes.signal("twin", signal.SIGCONT)
    one.page.wait_for_selector(".view.lost", state="detached")
    assert one.text(".phase") == "Set up the scene"
    if one.page.is_visible(".act-release:not(.disabled)"):
        one.press("g")
    one.begin()
    processes.pause("twin")
    one.sees(".alarm", "camera scene: no image for")
    processes.signal("twin", signal.SIGCONT)
    one.press("f")
    one.sees(".phase", "How did it go? failure")
    one.write()
    one.sees(".bar", "3 of 4 judged")


def play_by_touch(browser, one, bench):
    """On a tablet, beside the other page; both show the same."""
    two = Operator(browser, bench, one.page.url, 820, 1180)
    two.may("start")
    assert two.page.locator(".act-abort").bounding_box()["height"] >= 48
    two.page.click(".act-start")
    one.sees(".phase", "The policy drives")
    two.page.click(".act-success")
    two.may("write")
    two.page.click(".act-write")
    one.sees(".phase", "All trials are judged")


@pytest.mark.timeout(300)
def test_what_is_missing_is_said_with_how_to_mend_it(browser, robot, tiny_bundle, tmp_path):
    late = tmp_path / "bundle"
    write_protocol(tmp_path, tiny_bundle, late)
    graph = graph_of(robot, tmp_path, ("recorder", "trials"), host="0.0.0.0")
    recorder, trials = graph
    full = replace(recorder, parameters={**recorder.parameters, "min_free_gb": 1e6})
    with running_graph([full, trials], tmp_path) as (_, bench):
        console_of(bench)
        log = (tmp_path / "logs" / "trials.log").read_text()
        port, token = re.search(r"operator console: http://\S+?:(\d+)/\?token=(\S+)", log).groups()
        where = f"http://127.0.0.1:{port}/"
        for address in (where, f"{where}?token=no", f"{where}camera/scene.jpg"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address, timeout=WAIT_S)
        one = Operator(browser, bench, f"{where}?token={token}")
        assert token not in one.page.url
        one.sees(".alarm", "no bundle at")
        one.sees(".alarm", "press R (try again)")
        shutil.copytree(tiny_bundle, late)
        one.press("r")
        one.sees(".alarm", "service policy/get_state is not offered; is its node running?")
        for node in ("guard", "policy"):
            one.sees(".alarm", f"the node {node} does not report on diagnostics: start it")
        one.sees(".alarm", "camera scene: no image yet on scene/image_raw: check its plug")
        one.sees(".alarm", "free disk space or change `out`")
        one.may_not("start")
        one.press("Space", "Escape")
        one.sees(".words", "the guard does not answer guard/stop: use the emergency stop")
        assert not records_of(tmp_path)
