"""Documents, controller settings and the CI workflow agree with the code: names, codes, keys."""

import argparse
import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from nac_ros.cli import main
from nac_ros.cli.ros import NODES
from nac_ros.control.checks import CLOCK_SKEW_S, OVERSHOOT
from nac_ros.core import config
from nac_ros.robot.geometry import BodySpec, CapsuleSpec, LinkSpec, PointSpec
from nac_ros.robot.spec import CameraSpec, ControllerGroup, Intrinsics, JointSpec, RobotSpec

ROOT = Path(__file__).resolve().parent.parent
BRING_UP = (ROOT / "docs/bring-up.md").read_text()
CAMERA = (ROOT / "docs/camera.md").read_text()
ADDING = (ROOT / "docs/adding-a-robot.md").read_text()
CONTROLLERS = sorted((ROOT / "config/controllers").glob("*.yaml"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
CONTROLLER_KINDS = {  # type of controller -> kind of group, topic below its name
    "joint_trajectory_controller/JointTrajectoryController": ("jtc", "joint_trajectory"),
    "ur_controllers/ScaledJointTrajectoryController": ("jtc", "joint_trajectory"),
    "forward_command_controller/ForwardCommandController": ("forward", "commands"),
}
REASON_FUNCTIONS = ("stale_reason", "end_reason", "_find_hold_reason")
CODE = re.compile(r"[a-z]+(_[a-z]+)*")


def by_name(path):
    return str(path.relative_to(ROOT))


def controllers_of(path):
    """Full name -> (kind, topic, parameters) of each controller that moves joints."""
    content, found = yaml.safe_load(path.read_text()), {}
    (namespace,) = [key for key in content if key.startswith("/")] or [""]
    content = content[namespace] if namespace else content
    for name, facts in content["controller_manager"]["ros__parameters"].items():
        if not isinstance(facts, dict) or facts["type"].startswith("joint_state_broadcaster/"):
            continue
        kind, topic = CONTROLLER_KINDS[facts["type"]]
        full = f"{namespace}/{name}".lstrip("/")
        found[full] = (kind, f"{full}/{topic}", content[name]["ros__parameters"])
    return found


def groups_of(path):
    """The `groups:` snippet in the comment at the top of a file."""
    header = path.read_text().split("\n\n")[0]
    lines = [line.removeprefix("#").removeprefix(" ") for line in header.splitlines()]
    assert lines.count("groups:") == 1, f"{path.name} shows no groups"
    begin = lines.index("groups:")
    end = next(i for i in range(begin + 1, len(lines)) if not lines[i].startswith(" "))
    snippet = yaml.safe_load("\n".join(lines[begin:end]))
    return [config.build(ControllerGroup, group, path.name) for group in snippet["groups"]]


def rows_of(section):
    """First cells of the table between a heading of docs/bring-up.md and the next one."""
    text = re.split(r"\n#+ ", BRING_UP.split(f"\n{section}\n")[1])[0]
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert len(rows) == len(set(rows)), f"a code is listed twice: {rows}"
    return set(rows)


def constants(node):
    """The reason codes among the strings below a node."""
    values = (n.value for n in ast.walk(node) if isinstance(n, ast.Constant))
    return {value for value in values if isinstance(value, str) and CODE.fullmatch(value)}


def parsed(*patterns):
    for pattern in patterns:
        for path in sorted((ROOT / "nac_ros").glob(pattern)):
            yield from ast.walk(ast.parse(path.read_text()))


def reasons_of_the_guard():
    """Reason codes of rejections, faults and holds."""
    found = set()
    for node in parsed(
        "control/*.py",
        "robot/kinematics.py",
        "nodes/guard.py",
        "ros/guard_*.py",
        "ros/controller_state.py",
    ):
        if isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "id", getattr(node.func, "attr", ""))
            has_reason = called in ("Rejection", "reject", "_set_fault", "Violation")
            found |= constants(node.args[0]) if has_reason else set()
            if called == "get" and "JOINT_STATE_REASONS" in ast.dump(node.func):
                found |= constants(node.args[1])
            if called == "SourceRules":
                found = found.union(*map(constants, node.args))
        if isinstance(node, ast.FunctionDef) and node.name in REASON_FUNCTIONS:
            returns = [child for child in ast.walk(node) if isinstance(child, ast.Return)]
            found = found.union(*map(constants, returns))
        if isinstance(node, ast.ClassDef) and node.name == "SourceRules":
            fields = [
                child for child in node.body if isinstance(child, ast.AnnAssign) and child.value
            ]
            found = found.union(*(constants(field.value) for field in fields))
        if isinstance(node, ast.Assign) and "_fault" in ast.dump(node.targets[0]):
            found |= constants(node.value)  # of the hold reason and the fault together
        if isinstance(node, ast.Assign) and "JOINT_STATE_REASONS" in ast.dump(node.targets[0]):
            found = found.union(*map(constants, node.value.values))
    return found


def reasons_of_the_policy():
    """Reason codes of observations that cannot be used."""
    called = [
        node
        for node in parsed("robot/*.py", "core/message_decoding.py", "ros/observation_source.py")
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "BadObservation"
    ]
    assert all(len(node.args) == 2 for node in called), "name a reason"
    return set().union(*(constants(node.args[1]) for node in called))


@pytest.mark.parametrize("path", CONTROLLERS, ids=by_name)
def test_the_groups_of_a_controller_file_name_its_controllers_topics_and_joints(path):
    controllers = controllers_of(path)
    groups = {group.topic.rpartition("/")[0]: group for group in groups_of(path)}
    assert groups.keys() == controllers.keys()
    for name, (kind, topic, parameters) in controllers.items():
        assert (groups[name].kind, groups[name].topic) == (kind, topic)
        assert list(groups[name].joints) == parameters["joints"]
        assert groups[name].stamps == "clock"


@pytest.mark.parametrize("path", CONTROLLERS, ids=by_name)
def test_every_trajectory_controller_accepts_a_stream_of_trajectories_that_end_at_rest(path):
    for kind, _, parameters in controllers_of(path).values():
        if kind == "jtc":
            assert parameters["interpolate_from_desired_state"] is True
            assert parameters["allow_nonzero_velocity_at_trajectory_end"] is False
            assert parameters["allow_trajectory_replacement"] is False
            assert "position" in parameters["state_interfaces"]
            assert set(parameters["command_interfaces"]) <= {"position", "velocity", "effort"}


def test_bring_up_names_every_controller_file_and_its_topic():
    for path in CONTROLLERS:
        (row,) = re.findall(rf"^\|.*\(\.\./config/controllers/{path.name}\).*$", BRING_UP, re.M)
        assert row.split("|")[3].strip(" `") == groups_of(path)[0].topic


def test_every_reason_of_the_guard_is_in_the_table_and_no_other():
    assert rows_of("### Guard") == reasons_of_the_guard()


def test_every_reason_of_the_policy_is_in_the_table_and_no_other():
    assert rows_of("### Policy") == reasons_of_the_policy()


def test_the_collected_reasons_include_known_ones():
    known = {"jump", "stopped", "heartbeat_lost", "no_chunk", "no_approach", "joint_states_names"}
    assert known <= reasons_of_the_guard()
    assert {"stale", "image_encoding"} <= reasons_of_the_policy()


def test_limits_stated_in_bring_up_are_those_of_the_code():
    assert BRING_UP.count(f"| {CLOCK_SKEW_S} s |") == 2
    assert f"more than {OVERSHOOT:.0%}".replace("%", " %") in BRING_UP
    assert f"more than {JointSpec.max_offset} rad or m" in BRING_UP


def test_the_table_of_the_guard_s_parameters_has_their_names_and_defaults():
    pytest.importorskip("rclpy")
    from nac_ros.nodes.guard import GuardNodeConfig

    rows = re.findall(r"^\| `(\w+)` \| `?([\w.]+)`? \| ", BRING_UP, re.MULTILINE)
    known = {field.name: str(field.default) for field in dataclasses.fields(GuardNodeConfig)}
    known["cpus"] = {"()": "all"}[known["cpus"]]  # none named
    assert {name: default for name, default in rows if name in known} == known


def test_the_table_of_the_camera_s_parameters_has_their_names_and_defaults():
    pytest.importorskip("rclpy")
    from nac_ros.nodes.camera import CameraParameters

    table = CAMERA.split("| parameter | default | meaning |\n")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([\w.]*)`? ?\| ", table, re.MULTILINE))
    fields = dataclasses.fields(CameraParameters)
    assert rows == {field.name: str(field.default) for field in fields}


def test_the_table_of_a_camera_s_states_has_every_state():
    pytest.importorskip("rclpy")
    from nac_ros.nodes.camera import LEVELS

    table = CAMERA.split("| `state` | level | meaning |\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert {state for row in rows for state in re.findall(r"`(\w+)`", row)} == set(LEVELS)


def test_the_table_of_the_recorder_s_parameters_has_their_names_and_defaults():
    pytest.importorskip("rclpy")
    pytest.importorskip("mcap")
    from nac_ros.nodes.recorder import RecorderParameters

    text = (ROOT / "docs/recording.md").read_text()
    rows = re.findall(r"^\| `([a-z_]+)` \| `?([\w./]*)`? ?\| ", text, re.MULTILINE)
    fields = dataclasses.fields(RecorderParameters)
    known = {field.name: str(field.default).replace("('',)", "") for field in fields}
    assert {key: default for key, default in rows if key in known} == known


@pytest.mark.parametrize(
    ("heading", "cls"),
    [
        ("## Key by key", RobotSpec),
        ("Each of `joints`:", JointSpec),
        ("Each of `cameras`:", CameraSpec),
        ("The `intrinsics`:", Intrinsics),
        ("Each of `groups`:", ControllerGroup),
        ("The `body`:", BodySpec),
        ("Each of `links`:", LinkSpec),
        ("Each of `capsules`:", CapsuleSpec),
        ("Each of `points`:", PointSpec),
    ],
)
def test_the_tables_of_a_robot_s_keys_have_every_key(heading, cls):
    table = ADDING.split(f"\n{heading}\n\n")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    named = [key for row in rows for key in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(cls))


def test_the_python_of_adding_a_robot_prints_the_result_in_its_comment(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", ADDING, re.DOTALL)
    exec(block, {})
    assert capsys.readouterr().out.strip() == block.strip().rpartition("# ")[2]


def test_the_python_of_bring_up_uses_existing_names():
    pytest.importorskip("rclpy")
    (block,) = re.findall(r"```python\n(.*?)```", BRING_UP, re.DOTALL)
    tree = ast.parse(block)
    imports = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names: dict = {}
    exec(compile(ast.Module(imports, []), "nudge.py", "exec"), names)
    used = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("messages", "qos")
    ]
    assert used and all(hasattr(names[node.value.id], node.attr) for node in used)


def code_in(document):
    """Commands that a reader would copy: fenced lines except Python, and inline code."""
    text = document.read_text()
    fences = re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL)
    lines = [line for kind, block in fences if kind != "python" for line in block.splitlines()]
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return lines + re.findall(r"`([^`\n]+)`", outside)


def subcommands(parser):
    actions = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return actions[0].choices if actions else {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_every_nac_command_in_a_document_exists_with_its_options(document):
    for line in code_in(document):
        for call in re.findall(r"(?:^|[ /])nac ([a-z].*)", line.split(" #")[0]):
            parser, words = main._parser(), call.split()
            while (known := subcommands(parser)) and words:
                word = words.pop(0)
                for name in word.split("|"):
                    assert name in known, f"`nac {call}`: there is no {name}; known: {list(known)}"
                parser = known[word.split("|")[0]]
            options = {option for action in parser._actions for option in action.option_strings}
            if any(action.nargs == argparse.REMAINDER for action in parser._actions):
                continue  # the arguments are another program's
            given = {word.split("=")[0] for word in words if word.startswith("--")}
            assert given <= options, f"`nac {call}`: {given - options} unknown"


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_launch_files_executables_and_targets_in_a_document_exist(document):
    scripts = {"nac", *NODES}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code_in(document):
        for name in re.findall(r"ros2 launch nac_ros (\S+)", line):
            assert (ROOT / "launch" / name).is_file(), line
        for name in re.findall(r"ros2 run nac_ros (\S+)", line):
            assert name in scripts, line
        for name in re.findall(r"(?:^|; |&& )make ([a-z]+)", line):
            assert name in targets, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_name)
def test_services_and_parameters_in_a_document_exist(document):
    sources = "\n".join(path.read_text() for path in (ROOT / "nac_ros").glob("[nr]o*s/*.py"))
    for line in code_in(document):
        for node, name in re.findall(r"ros2 service call /?(\w+)/(\w+) ", line):
            offered = (f'Trigger, "{node}/{name}"', f'Trigger, "~/{name}"')
            assert any(text in sources for text in offered), line
        for node, given in re.findall(r"ros2 run nac_ros (\w+) --ros-args(.*)", line):
            own = (ROOT / f"nac_ros/nodes/{node}.py").read_text()
            own += (ROOT / "nac_ros/control/types.py").read_text()
            parameter_files = {
                "policy": ["ros/policy_loading.py"],
                "teleop": ["teleop/teleoperator.py"],
                "camera": ["cameras/factory.py", "cameras/capture.py"],
                "recorder": ["datasets/mcap/recorder.py", "datasets/mcap/stream_monitor.py"],
            }
            for name in parameter_files.get(node, ()):
                own += (ROOT / "nac_ros" / name).read_text()
            for name in re.findall(r"-p (\w+):=", given):
                assert re.search(rf"^    {name}: ", own, re.MULTILINE), line


def test_links_name_existing_files_and_headings():
    for document in DOCUMENTS:
        for link, anchor in re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", document.read_text()):
            target = document.parent / link if link else document
            if link.startswith(("http", "mailto:")):
                continue
            assert target.exists(), f"{document.name}: {link}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor[1:] in slugs, f"{document.name}: {link}{anchor}"


def test_the_ci_workflow_runs_make_lint_and_make_test():
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        assert "secrets." not in path.read_text()
        (job,) = workflow["jobs"].values()
        uses = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", use) for use in uses)
        runs = "\n".join(step.get("run", "") for step in job["steps"])
        assert {"make lint", "make test"} <= set(runs.splitlines())
        for package in ("libegl1", "libgl1-mesa-dri"):
            assert package in runs
