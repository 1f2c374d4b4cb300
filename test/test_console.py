"""A blind session in a real browser, with the real nodes and the twin over DDS."""

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
RECORDER = {"min_rate_share": 0.0, "max_gap_s": 10.0, "max_offset_s": 1.0, "min_free_gb": 0.0}
RUBRIC = ["grasped", "lifted", "over the bin"]


@pytest.fixture(scope="module")
def browser():
    """A real Chromium; without one the tests of this file are skipped."""
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
    """The robot's YAML with larger sensor ages, because a test machine may be busy."""
    facts = yaml.safe_load((config_dir() / "robots" / "vx300s.yaml").read_text())
    facts["joint_states_max_age_s"] = 1.5
    for camera in facts["cameras"]:
        camera["max_age_s"] = 1.5
    path = tmp_path_factory.mktemp("robot") / "vx300s.yaml"
    path.write_text(yaml.safe_dump(facts))
    return str(path)


def write_protocol(folder, bundle, second):
    """Two equal methods on two tasks."""
    facts = {"tasks": ["marker", "weighing"], "trials": 1, "rubric": {"marker": RUBRIC}}
    facts |= {"conditions": {"randomization": "varied"}}
    facts |= {"methods": {"first_method": str(bundle), "second_method": str(second)}}
    path = folder / "protocol.yaml"
    path.write_text(yaml.safe_dump(facts))
    return path


def graph_of(robot, folder, names=(), **trials):
    """The graph of evaluate.launch.py on the twin, or the named nodes of it."""
    given = {"protocol": str(folder / "protocol.yaml"), "out": str(folder / "run"), "port": 0}
    nodes = evaluate_graph("twin", **{**given, **trials})
    more = {"recorder": RECORDER, "guard": {"max_heartbeat_age_s": 5.0, "call_log": "none"}}
    return [
        replace(node, parameters={**node.parameters, "robot": robot, **more.get(node.name, {})})
        for node in nodes
        if not names or node.name in names
    ]


class Operator:
    """A person at the page: reads texts, presses keys, clicks."""

    def __init__(self, browser, address, width=1280, height=800):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.page.set_default_timeout(1000 * WAIT_S)
        self.requests = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address, wait_until="domcontentloaded")
        self.page.wait_for_selector(".action-start")

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

    def wait_until_enabled(self, action):
        self.page.wait_for_selector(f".action-{action}:not([disabled]):not(.disabled)")

    def wait_until_disabled(self, action):
        disabled = f".action-{action}[disabled], .action-{action}.disabled"
        self.page.wait_for_selector(disabled)

    def start_trial(self):
        self.wait_until_enabled("start")
        self.press("Space")
        self.sees(".phase", "The policy drives")

    def save(self):
        self.wait_until_enabled("save")
        self.press("Enter")


def console_of(client):
    """The page's address, once the node runs."""
    client.wait_until(
        lambda: client.latest_diagnostics("trials").get("address"), "the console", WAIT_S
    )
    return client.latest_diagnostics("trials")["address"]


def randomization_of(client):
    """The twin's parameter `randomization`."""
    request = GetParameters.Request(names=["randomization"])
    return client.call(GetParameters, "twin/get_parameters", request).values[0].string_value


def records_of(folder):
    lines = (folder / "run" / "log.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["entry"] == "trial"]


@pytest.mark.timeout(600)
def test_a_whole_blind_session_in_a_browser(browser, robot, tiny_bundle, tmp_path):
    second = shutil.copytree(tiny_bundle, tmp_path / "second_bundle")
    write_protocol(tmp_path, tiny_bundle, second)
    graph = graph_of(robot, tmp_path, operator="Ada")
    with running_graph(graph, tmp_path) as (processes, client):
        one = Operator(browser, console_of(client))
        one.wait_until_enabled("start")
        assert_blind(one)
        assert forbidden(client.node, ("trials", "recorder"), load_robot(robot)) == set()
        assert randomization_of(client) == "varied"
        with pytest.raises(NacError, match="clean up first to set bundle"):
            client.set_parameters("policy", {"bundle": str(second)})
        reload_during_a_trial(one)
        one = crash_during_a_trial(browser, one, processes, client, graph[-1])
        run_invalid_trial(one, tmp_path)
        run_aborted_trial(one, processes, client)
        run_trial_with_a_lost_camera(one, processes)
        run_trial_on_a_tablet(browser, one)
        one.press("u")
        one.sees(".last-verdict", "report:")
        assert "is first_method" in one.text(".last-verdict")
        assert all(url.startswith((one.page.url, "data:", "blob:")) for url in one.requests)
    records = records_of(tmp_path)
    assert [r["outcome"] for r in records] == [
        "success",
        "invalid",
        "aborted",
        "failure",
        "success",
    ]
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
    assert len(crashed) == 2, "of the invalid trial and of the crash"
    assert records[0]["seconds"] > 0 and records[0]["chunk_ms"]
    moved = [r for r in records if r["jerk"] > 0]  # an untrained policy's chunks may be rejected
    assert moved and all(r["sparc"] < 0 for r in moved)
    assert (tmp_path / "run" / "report.html").is_file()


def assert_blind(one):
    content = one.page.content()
    assert not re.search("first_method|second_method|second_bundle|bundle0", content)
    assert one.text(".code")


def reload_during_a_trial(one):
    """A page that is reloaded during a trial shows that trial, still running."""
    code = one.text(".code")
    one.start_trial()
    one.page.reload(wait_until="domcontentloaded")
    one.sees(".phase", "The policy drives")
    assert one.text(".code") == code
    one.press("s")
    one.sees(".phase", "How did it go? success")
    one.press("2")
    one.page.wait_for_selector(".step-2.chosen")
    one.save()
    one.sees(".last-verdict", "The twin's success detector says")
    one.sees(".scene", "Mismatch 0.")
    assert "like the reference" in one.text(".scene")


def crash_during_a_trial(browser, one, processes, client, node):
    """A console that crashes in a trial stops the arm after its restart and repeats the trial."""
    code, before = one.text(".code"), console_of(client)
    one.start_trial()
    processes.kill("trials")
    processes.start(node)
    client.wait_until(lambda: console_of(client) != before, "the restarted console", WAIT_S)
    client.wait_until(
        lambda: client.latest_diagnostics("guard").get("mode") == "hold", "the arm to hold", WAIT_S
    )
    one.page.close()
    one = Operator(browser, console_of(client))
    one.wait_until_enabled("start")
    one.sees(".bar", "marker, trial 0, attempt 2")
    assert one.text(".code") == code and "1 of 4 done" in one.page.content()
    return one


def run_invalid_trial(one, folder):
    """It needs a reason; keys typed into the field are text; the trial is repeated."""
    one.start_trial()
    one.press("i")
    one.sees(".phase", "How did it go? invalid")
    one.save()
    one.sees("body", "an invalid trial needs a reason")
    assert len(records_of(folder)) == 1
    one.page.click(".reason input")
    one.page.keyboard.type("the cable was caught")
    one.press("Enter", "Enter")
    one.sees("body", "attempt 3")
    assert "How did it go" not in one.text(".phase")


def run_aborted_trial(one, processes, client):
    """Esc stops the arm also while typing, and while another node hangs."""
    one.start_trial()
    one.page.click(".note input")
    one.page.keyboard.type("si")
    processes.pause("policy")
    one.press("Escape")
    client.wait_until(
        lambda: client.latest_diagnostics("guard").get("fault") == "stopped", "the stop", WAIT_S
    )
    one.sees(".phase", "How did it go? aborted")
    one.sees(".alarm", "service policy/stop was not answered within 5 s")
    processes.signal("policy", signal.SIGCONT)
    one.wait_until_disabled("success")
    one.page.click(".prompt")
    one.save()
    one.sees(".bar", "weighing, trial 0")


def run_trial_with_a_lost_camera(one, processes):
    """A lost camera is named and disables the start; during a trial it is shown."""
    one.wait_until_enabled("start")
    processes.pause("twin")
    one.sees(".alarm", "camera scene: no image for")
    one.page.wait_for_selector(".camera.lost")
    one.wait_until_disabled("start")
    one.press("Space")
    processes.signal("twin", signal.SIGCONT)
    one.page.wait_for_selector(".camera.lost", state="detached")
    assert one.text(".phase") == "Set up the scene"
    if one.page.is_visible(".action-reset_guard:not(.disabled)"):
        one.press("g")
    one.start_trial()
    processes.pause("twin")
    one.sees(".alarm", "camera scene: no image for")
    processes.signal("twin", signal.SIGCONT)
    one.press("f")
    one.sees(".phase", "How did it go? failure")
    one.save()
    one.sees(".bar", "3 of 4 done")


def run_trial_on_a_tablet(browser, one):
    """On a tablet, while another page is open; both show the same."""
    two = Operator(browser, one.page.url, 820, 1180)
    two.wait_until_enabled("start")
    assert two.page.locator(".action-abort").bounding_box()["height"] >= 48
    two.page.click(".action-start")
    one.sees(".phase", "The policy drives")
    two.page.click(".action-success")
    two.wait_until_enabled("save")
    two.page.click(".action-save")
    one.sees(".phase", "All trials are done")


@pytest.mark.timeout(300)
def test_the_page_shows_every_blocker_with_its_remedy(browser, robot, tiny_bundle, tmp_path):
    late = tmp_path / "bundle"
    write_protocol(tmp_path, tiny_bundle, late)
    graph = graph_of(robot, tmp_path, ("recorder", "trials"), host="0.0.0.0")
    recorder, trials = graph
    full = replace(recorder, parameters={**recorder.parameters, "min_free_gb": 1e6})
    with running_graph([full, trials], tmp_path) as (_, client):
        console_of(client)
        log = (tmp_path / "logs" / "trials.log").read_text()
        port, token = re.search(r"operator console: http://\S+?:(\d+)/\?token=(\S+)", log).groups()
        where = f"http://127.0.0.1:{port}/"
        for address in (where, f"{where}?token=no", f"{where}camera/scene.jpg"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address, timeout=WAIT_S)
        one = Operator(browser, f"{where}?token={token}")
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
        one.wait_until_disabled("start")
        one.press("Space", "Escape")
        one.sees(".messages", "the guard does not answer guard/stop: use the emergency stop")
        assert not records_of(tmp_path)
