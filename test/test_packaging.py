"""Packaging for pip and colcon: installed files, executables, declared dependencies."""

import ast
import io
import os
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import setuptools
import yaml

from nac_ros.cli.ros import NODES

ROOT = Path(__file__).resolve().parent.parent
NAMED = {  # what users are told that the package stands on: rosdep key -> PyPI name
    "python3-pytorch-pip": "torch",
    "python3-numpy": "numpy",
    "python3-opencv": "opencv-python",
    "python3-onnxruntime-gpu-pip": "onnxruntime-gpu",
    "python3-pyrealsense2-pip": "pyrealsense2",
    "python3-yaml": "pyyaml",
    "python3-pytest": "pytest",
}
MODULE_OF = {  # PyPI name -> module, where they differ
    "pyyaml": "yaml",
    "opencv-python": "cv2",
    "onnxruntime-gpu": "onnxruntime",
    "google-crc32c": "google_crc32c",
    "gym-aloha": "gym_aloha",
    "rerun-sdk": "rerun",
}


@pytest.fixture(scope="module")
def facts():
    """The arguments of setup()."""
    seen = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(setuptools, "setup", lambda **arguments: seen.update(arguments))
    patch.chdir(ROOT)
    runpy.run_path("setup.py")
    patch.undo()
    return seen


@pytest.fixture(scope="module")
def package_xml():
    return ET.parse(ROOT / "package.xml").getroot()


def _names(requirements):
    return {re.split(r"[<>=;\[ ]", requirement, maxsplit=1)[0] for requirement in requirements}


def _modules(requirements):
    return {MODULE_OF.get(name, name) for name in _names(requirements)}


def test_package_xml_is_an_ament_python_package_of_the_same_version(facts, package_xml):
    assert package_xml.get("format") == "3"
    assert package_xml.findtext("export/build_type") == "ament_python"
    for key in ("name", "version", "license"):
        assert package_xml.findtext(key) == facts[key]


def test_package_xml_and_setup_name_the_same_dependencies(facts, package_xml):
    keys = {
        depend.text for tag in ("exec_depend", "test_depend") for depend in package_xml.iter(tag)
    }
    assert "rclpy" in keys
    assert set(NAMED) <= keys
    extras = facts["extras_require"]
    known = _names(facts["install_requires"]).union(*(_names(extra) for extra in extras.values()))
    assert set(NAMED.values()) <= known
    assert "ros-kilted-rclpy" in known


def test_every_message_package_that_a_node_imports_is_declared(package_xml):
    declared = {depend.text for depend in package_xml.iter("exec_depend")}
    folders = (ROOT / "nac_ros" / folder for folder in ("nodes", "ros", "apps"))
    for path in (path for folder in folders for path in sorted(folder.glob("*.py"))):
        for top in _tops(path):
            if top.endswith(("_msgs", "_srvs", "_interfaces")) or top in ("launch", "launch_ros"):
                assert top in declared, f"{path.name} imports {top}; name it in package.xml"


def test_every_import_is_declared_by_the_package_or_an_extra(facts, package_xml):
    extras = facts["extras_require"]
    known = _modules(facts["install_requires"]).union(*(_modules(e) for e in extras.values()))
    known |= {depend.text for depend in package_xml.iter("exec_depend")}
    known |= set(sys.stdlib_module_names) | {"nac_ros"}
    known |= {"metaworld"}  # pins an old MuJoCo, so MetaworldSuite.install installs it apart
    for path in (ROOT / "nac_ros").rglob("*.py"):
        unknown = _tops(path) - known
        assert not unknown, f"{path.relative_to(ROOT)} imports {unknown}; declare it in setup.py"


def test_the_cpu_and_gpu_runtimes_are_never_required_together(facts):
    extras = facts["extras_require"]
    runtimes = {"onnxruntime", "onnxruntime-gpu"}
    assert _names(extras["cpu"]) & runtimes == {"onnxruntime"}
    assert _names(extras["gpu"]) & runtimes == {"onnxruntime-gpu"}
    rest = [facts["install_requires"], *(v for k, v in extras.items() if k not in ("cpu", "gpu"))]
    assert not any(_names(requirements) & runtimes for requirements in rest)


def test_every_shared_file_is_installed_once_in_its_folder(facts):
    placed = {source: target for target, sources in facts["data_files"] for source in sources}
    for source, target in placed.items():
        assert (ROOT / source).is_file(), source
        if source.startswith(("config/", "launch/", "models/")):
            assert target == f"share/nac_ros/{Path(source).parent}"
    assert placed["resource/nac_ros"] == "share/ament_index/resource_index/packages"
    assert placed["package.xml"] == "share/nac_ros"
    assert placed["config/robots/vx300s.yaml"] == "share/nac_ros/config/robots"
    assert {f"launch/{name}.launch.py" for name in ("policy", "twin")} <= set(placed)


def test_every_package_folder_is_installed(facts):
    folders = {path.parent for path in (ROOT / "nac_ros").rglob("*.py")}
    wanted = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(facts["packages"]) == wanted


def test_every_executable_has_its_function(facts):
    assert facts["entry_points"]["console_scripts"] == ["nac = nac_ros.cli.main:main"]
    placed = {source: target for target, sources in facts["data_files"] for source in sources}
    nodes = {path.stem for path in (ROOT / "nac_ros/nodes").glob("*.py")} - {"__init__"}
    assert set(NODES) == nodes == {path.name for path in (ROOT / "scripts").iterdir()}
    for name in nodes:
        script = ROOT / "scripts" / name
        assert placed[f"scripts/{name}"] == "lib/nac_ros" and os.access(script, os.X_OK)
        assert f"from nac_ros.nodes.{name} import main" in script.read_text()
        tree = ast.parse((ROOT / f"nac_ros/nodes/{name}.py").read_text())
        assert "main" in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_a_wheel_puts_only_nac_on_the_path_and_the_nodes_where_ros2_run_looks(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    files = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml")
    for name in (*files, "resource", "nac_ros", "launch", "config", "scripts"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (source / "models").mkdir()
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel", "--dist-dir", tmp_path / "dist"],
        cwd=source,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        (entries,) = (name for name in names if name.endswith("entry_points.txt"))
        assert content.read(entries).decode().split() == [
            "[console_scripts]",
            "nac",
            "=",
            "nac_ros.cli.main:main",
        ]
        assert not [name for name in names if ".data/scripts/" in name]
        for node in NODES:
            (found,) = (name for name in names if name.endswith(f"data/lib/nac_ros/{node}"))
            assert content.getinfo(found).external_attr >> 16 & 0o111, f"{node} is not executable"


def test_make_alone_lists_every_target():
    output = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("help", "setup", "demo", "test", "bench", "soak", "lint"):
        assert f"make {target} " in output


def test_the_ci_and_hook_files_are_valid():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]


def test_the_python_of_the_readme_prints_the_results_in_its_comments(monkeypatch):
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert found, "README.md shows no Python"
    monkeypatch.chdir(ROOT)
    for block in found:
        printed = io.StringIO()
        with redirect_stdout(printed):
            exec(block, {})
        expected = [line.split("# ")[1] for line in block.splitlines() if line.startswith("print")]
        assert printed.getvalue().splitlines() == expected


def test_links_between_documents_name_existing_files():
    documents = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    for document in documents:
        for link in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
            if not link.startswith(("http", "mailto:")):
                assert (document.parent / link).exists(), f"{document.name}: {link}"


def _tops(path):
    """First names of everything that a file imports."""
    tops = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            tops.add(str(node.module).split(".")[0])
    return tops
