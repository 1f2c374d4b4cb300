"""Import order of the package, what each folder may import, and class names that are unique."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nac_ros"
LAYERS = (  # docs/architecture.md; a module imports from its own folder or from an earlier row
    ("core", "codec"),
    ("robot", "stats"),
    ("control", "cameras", "tokenizers", "simulation", "datasets"),
    ("policies", "teleop", "environments"),
    ("export",),
    ("inference", "training", "reporting"),
    ("evaluation",),
    ("trials", "demonstrations"),
    ("ros",),
    ("nodes",),
    ("apps",),
    ("cli",),
)
LAYER_OF = {folder: layer for layer, row in enumerate(LAYERS) for folder in row}
NODES = {"policy", "guard", "camera", "teleop", "recorder", "twin", "trials", "view", "relay"}
ROS_FOLDERS = ("ros", "nodes", "apps")  # the only ones that import rclpy, launch or messages
WITHOUT_TORCH = (
    "core",
    "robot",
    "stats",
    "control",
    "cameras",
    "teleop",
    "datasets",
    "reporting",
    "nodes.guard",
    "inference.engine",
    "inference.load_runtime",
)
WITHOUT_SIMULATOR = ("core", "robot", "stats", "control", "cameras", "teleop", "datasets")
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


class Module(NamedTuple):
    """One file: its module name below nac_ros, its text and its tree."""

    module: str
    text: str
    tree: ast.Module

    @property
    def folder(self) -> str:
        """Folder below nac_ros; empty for nac_ros/__init__.py."""
        return self.module.split(".")[0]


def _read(path: Path) -> Module:
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__")
    return Module(module.rstrip("."), path.read_text(), ast.parse(path.read_text()))


SOURCES = [_read(path) for path in sorted(PACKAGE.rglob("*.py"))]
MODULES = {source.module for source in SOURCES}


def _imported(source: Module) -> set[str]:
    """Absolute names that a file imports, at its top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source.module}: imports are written in full, not with dots"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _own(source: Module) -> set[str]:
    """Modules of nac_ros that a file imports, below nac_ros."""
    own = {name.removeprefix("nac_ros.") for name in _imported(source) if "nac_ros." in name}
    return (own & MODULES) - {source.module}


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def _import_blocked(modules: list[str], blocked: list[str], endings: list[str]) -> None:
    facts = f"MODULES = {modules!r}; BLOCKED = {blocked!r}; ENDINGS = {endings!r}"
    _run(facts + BLOCK)


def _below(prefixes: Sequence[str]) -> list[str]:
    """Modules of the named folders (or the named modules), with the package's name in front."""
    return [
        f"nac_ros.{source.module}"
        for source in SOURCES
        if any(source.module == p or source.module.startswith(f"{p}.") for p in prefixes)
    ]


def test_every_folder_is_in_one_layer():
    folders = {source.folder for source in SOURCES if source.module}
    assert folders == set(LAYER_OF), "add the folder to LAYERS and to docs/architecture.md"
    assert sum(len(row) for row in LAYERS) == len(LAYER_OF)


def test_imports_point_to_the_same_folder_or_a_lower_layer():
    wrong = [
        f"{source.module} imports {target}"
        for source in SOURCES
        if source.module
        for target in _own(source)
        if target.split(".")[0] != source.folder
        and LAYER_OF[target.split(".")[0]] >= LAYER_OF[source.folder]
    ]
    assert not wrong, wrong


def test_the_package_and_the_codec_import_nothing_of_ours():
    for source in SOURCES:
        if source.module == "":
            assert not _own(source)
        if source.folder == "codec":
            assert all(target.startswith("codec") for target in _own(source)), source.module


def test_the_folder_nodes_holds_the_nine_nodes_and_none_imports_another():
    nodes = {s.module.removeprefix("nodes.") for s in SOURCES if s.module.startswith("nodes.")}
    assert nodes == NODES
    for source in SOURCES:
        if source.folder == "nodes":
            assert not {target for target in _own(source) if target.startswith("nodes.")}


def test_a_public_class_name_is_defined_once():
    places = defaultdict(list)
    for source in SOURCES:
        for node in source.tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(source.module)
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_imports_form_no_circle():
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


def test_only_ros_nodes_and_apps_import_ros():
    ros = ("rclpy", "rcl_interfaces", "launch", "launch_ros", "ament_index_python")
    for source in SOURCES:
        tops = {name.split(".")[0] for name in _imported(source)}
        found = [t for t in tops if t in ros or t.endswith(("_msgs", "_srvs"))]
        assert source.folder in ROS_FOLDERS or not found, f"{source.module} imports {found}"


def test_every_other_folder_is_imported_where_ros_is_absent():
    modules = _below([folder for folder in LAYER_OF if folder not in ROS_FOLDERS])
    _import_blocked(modules, ["rclpy", "rcl_interfaces", "launch"], ["_msgs", "_srvs"])


@pytest.mark.parametrize("folder", WITHOUT_TORCH)
def test_folders_without_torch_are_imported_where_torch_is_absent(folder):
    modules = _below([folder])
    assert modules
    _import_blocked(modules, ["torch", "onnxruntime"], [])


def test_folders_without_a_simulator_are_imported_where_mujoco_is_absent():
    _import_blocked(_below([*WITHOUT_SIMULATOR, "nodes.guard"]), ["mujoco"], [])


def test_the_grammar_needs_numpy_alone():
    (grammar,) = (source for source in SOURCES if source.module == "tokenizers.grammar")
    assert {name.split(".")[0] for name in _imported(grammar)} <= {"abc", "numpy", "nac_ros"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_functions_stay_short_and_files_open_with_a_sentence(source):
    assert (ast.get_docstring(source.tree) or "").strip(), (
        "the file needs a docstring that says what it contains"
    )
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno - node.lineno < MAX_FUNCTION, f"{node.name} is too long"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_the_code_is_valid_python_3_10(source):
    ast.parse(source.text, feature_version=(3, 10))
    newer = {"tomllib", "typing.Self", "typing.assert_never", "enum.StrEnum", "datetime.UTC"}
    newer |= {"typing.override", "itertools.batched", "typing.Unpack", "typing.Never"}
    assert not _imported(source) & newer


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.module or "nac_ros")
def test_no_error_is_swallowed_and_nothing_is_left_to_do(source):
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: name the error that is caught"
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            broad = isinstance(node.type, ast.Name) and node.type.id in ("Exception", "Error")
            assert not (silent and broad), f"line {node.lineno}: an error vanishes"
    for mark in ("TO" + "DO", "FIX" + "ME", "weights_only=False", "allow_pickle=True"):
        assert mark not in source.text, mark
