"""The house: floors that only look down, no circles, what may not be imported where, sizes."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nac_ros"
FLOORS = {
    7: (
        "cli", "data_cli", "arguments", "commands", "data_commands", "recording_commands",
        "tokenizer_commands", "trial_commands",
    ),
    6: ("nodes", "evaluation", "trials", "console"),
    5: ("runtime", "training"),
    4: ("export",),
    3: ("tokenizers", "policies", "data", "safety", "simulation", "devices"),
    2: (
        "body", "robot", "normalize", "align", "decode", "config", "registry", "provenance",
        "terminal", "jsonfile",
    ),
    1: ("chunk", "errors", "codec"),
}  # fmt: skip
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}
WITHOUT_TORCH = (
    "align", "body", "chunk", "config", "decode", "errors", "jsonfile", "normalize", "provenance",
    "registry", "robot", "runtime.guard", "runtime.playback", "safety.limits", "safety.stopping",
)  # fmt: skip
MAX_FUNCTION = 60  # lines; files are as long as their idea
BLOCK = """
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED or any(name.split(".")[0].endswith(b) for b in ENDINGS):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocked())
for module in MODULES:
    importlib.import_module(module)
"""


class Source(NamedTuple):
    """One file: its module name below nac_ros, its text and its tree."""

    module: str
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.module.split(".")[0]


def _read(path: Path) -> Source:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
    return Source(module.rstrip("."), path.read_text(), ast.parse(path.read_text()))


SOURCES = [_read(path) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = {source.module for source in SOURCES}


def _imported(source: Source) -> set[str]:
    """Absolute names that a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.module}: imports are written in full, not with dots"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _own(source: Source) -> set[str]:
    """Modules of nac_ros that a file imports, below nac_ros."""
    own = {name.removeprefix("nac_ros.") for name in _imported(source) if "nac_ros." in name}
    return (own & MODULES) - {source.module}


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def _import_blocked(modules: list[str], blocked: list[str], endings: list[str]) -> None:
    facts = f"MODULES = {modules!r}; BLOCKED = {blocked!r}; ENDINGS = {endings!r}"
    _run(facts + BLOCK)


def test_every_part_has_its_floor():
    lost = {source.part for source in SOURCES if source.module} - set(FLOOR_OF)
    assert not lost, f"put {sorted(lost)} on a floor, here and in docs/architecture.md"
    assert set(FLOOR_OF) == {source.part for source in SOURCES if source.module}


def test_imports_point_to_the_same_floor_or_a_lower_one():
    upward = [
        f"{source.module} (floor {FLOOR_OF[source.part]}) imports {target}"
        for source in SOURCES
        if source.module
        for target in _own(source)
        if FLOOR_OF[target.split(".")[0]] > FLOOR_OF[source.part]
    ]
    assert not upward, upward


def test_the_package_and_the_codec_import_nothing_of_ours():
    for source in SOURCES:
        if source.module == "":
            assert not _own(source)
        if source.part == "codec":
            assert all(target.startswith("codec") for target in _own(source)), source.module


def test_no_module_imports_itself_over_others():
    graph = {source.module: _own(source) for source in SOURCES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_only_nodes_import_ros():
    ros = ("rclpy", "rcl_interfaces", "launch", "launch_ros", "ament_index_python")
    for source in SOURCES:
        tops = {name.split(".")[0] for name in _imported(source)}
        found = [t for t in tops if t in ros or t.endswith(("_msgs", "_srvs"))]
        assert source.part == "nodes" or not found, f"{source.module} imports {found}"


def test_everything_but_the_nodes_is_imported_where_ros_is_absent():
    modules = [f"nac_ros.{s.module}" for s in SOURCES if s.module and s.part != "nodes"]
    _import_blocked(modules, ["rclpy", "rcl_interfaces", "launch"], ["_msgs", "_srvs"])


def test_the_guard_and_the_parts_it_stands_on_are_imported_where_torch_is_absent():
    modules = [f"nac_ros.{module}" for module in WITHOUT_TORCH]
    _import_blocked(modules, ["torch", "onnxruntime", "rclpy"], [])


def test_the_grammar_needs_numpy_alone():
    (grammar,) = (source for source in SOURCES if source.module == "tokenizers.grammar")
    assert {name.split(".")[0] for name in _imported(grammar)} <= {"abc", "numpy", "nac_ros"}


def test_the_guard_node_is_imported_where_torch_is_absent():
    _import_blocked(["nac_ros.nodes.guard"], ["torch", "onnxruntime", "mujoco"], [])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_functions_stay_short_and_files_open_with_a_sentence(source):
    assert (ast.get_docstring(source.tree) or "").strip(), "say in a sentence what one finds here"
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} is too long"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_the_code_is_understood_by_python_3_10(source):
    ast.parse(source.text, feature_version=(3, 10))
    newer = {"tomllib", "typing.Self", "typing.assert_never", "enum.StrEnum", "datetime.UTC"}
    newer |= {"typing.override", "itertools.batched", "typing.Unpack", "typing.Never"}
    assert not _imported(source) & newer


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_a_failure_never_becomes_a_value_and_nothing_is_left_undone(source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: name the error that is caught"
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "Error")
            assert not (silent and broad), f"line {node.lineno}: an error vanishes"
    for mark in ("TO" + "DO", "FIX" + "ME", "weights_only=False", "allow_pickle=True"):
        assert mark not in source.text, mark
