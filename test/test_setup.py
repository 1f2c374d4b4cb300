"""Set-up of the environment: choice of Python and ROS 2, installed files, messages of checks."""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nac_ros.cli.ros import NODES

ROOT = Path(__file__).resolve().parent.parent


def _load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


setup_env, check_env = _load("setup_env"), _load("check_env")
WITHOUT_ROS = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}


@pytest.fixture
def sourced(tmp_path):
    """The environment of a shell that sourced a ROS 2 whose rclpy can be imported."""
    prefix = tmp_path / "ros"
    (prefix / "python/rclpy").mkdir(parents=True)
    (prefix / "python/rclpy/__init__.py").write_text("")
    return {**WITHOUT_ROS, "AMENT_PREFIX_PATH": str(prefix), "PYTHONPATH": str(prefix / "python")}


def _plan(**changes):
    facts = {"torch": "torch==2.13.0", "torch_index": "", "onnx": "cpu", **changes}
    return argparse.Namespace(**facts)


def test_without_a_sourced_ros_the_wheels_are_installed(tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the ROS 2 wheels exist for Python 3.11 alone")
    base = setup_env.choose_base(tmp_path, WITHOUT_ROS)
    assert not base.sourced
    (call,) = setup_env.pip_calls(base, _plan())
    assert call == [
        "torch==2.13.0",
        "--editable",
        f"{ROOT}[cpu,sim,metaworld,train,vlm,record,console,dev,ros,view]",
    ]


def test_a_sourced_ros_is_used_without_wheels(sourced, tmp_path):
    base = setup_env.choose_base(tmp_path, sourced)
    assert base.sourced
    (call,) = setup_env.pip_calls(base, _plan(onnx="gpu"))
    (package,) = (part for part in call if part.startswith(f"{ROOT}["))
    extras = package.removeprefix(f"{ROOT}[").removesuffix("]").split(",")
    assert {"gpu", "sim", "train", "dev"} <= set(extras) and "ros" not in extras


def test_system_packages_for_tests_are_installed_on_ci_only(monkeypatch):
    asked, install = [], ("install", "-y", "--no-install-recommends")
    monkeypatch.setattr(setup_env.os, "geteuid", lambda: 0)
    monkeypatch.setattr(setup_env, "_apt_get", lambda *words: asked.append(words) or 0)
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: name == "apt-get" or None)
    monkeypatch.setattr(setup_env, "USB", "libno-such-library.so.7")
    setup_env.provide_for_tests({})
    assert not asked
    setup_env.provide_for_tests({"CI": "true"})
    assert asked == [(*install, "chromium", "libusb-1.0-0")]
    monkeypatch.setattr(setup_env, "USB", "libc.so.6")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: name)
    setup_env.provide_for_tests({"CI": "true"})
    assert len(asked) == 1


def test_a_ros_built_for_another_python_is_named(sourced, tmp_path, monkeypatch):
    rclpy = Path(sourced["PYTHONPATH"]) / "rclpy/__init__.py"
    rclpy.write_text("raise ImportError('built for another Python')")
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: None)
    with pytest.raises(setup_env.SetupError, match=r"sourced from .*/ros, but no python3 here"):
        setup_env.choose_base(tmp_path, sourced)


def test_the_environment_in_the_ament_path_is_not_a_sourced_ros(tmp_path):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the ROS 2 wheels exist for Python 3.11 alone")
    environment = {**WITHOUT_ROS, "AMENT_PREFIX_PATH": str(tmp_path / "venv")}
    assert not setup_env.choose_base(tmp_path / "venv", environment).sourced


def test_messages_compiled_for_numpy_1_keep_numpy_1(tmp_path):
    (tmp_path / "numpy.py").write_text("__version__ = '1.26.4'")
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (call,) = setup_env.pip_calls(setup_env.Base(str(python), sourced=True), _plan())
    assert call[-1] == "numpy<2"
    assert not any(part.endswith("view]") for part in call), "rerun needs numpy 2"


def test_torch_from_another_index_is_installed_first_in_a_call_of_its_own():
    first, second = setup_env.pip_calls(
        setup_env.Base(sys.executable, sourced=False), _plan(torch_index="https://torch.example")
    )
    assert first == ["torch==2.13.0", "--index-url", "https://torch.example"]
    assert "torch==2.13.0" not in second


def test_ros2_run_and_launch_find_nodes_launch_files_and_configuration(tmp_path, monkeypatch):
    for _ in range(2):  # doing it again changes nothing
        setup_env.link(tmp_path)
    assert {path.name for path in (tmp_path / "lib/nac_ros").iterdir()} == set(NODES)
    first_line = (tmp_path / "lib/nac_ros/guard").read_text().splitlines()[0]
    assert first_line == f"#!{tmp_path}/bin/python"
    assert os.access(tmp_path / "lib/nac_ros/guard", os.X_OK)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    ament = pytest.importorskip("ament_index_python.packages")
    share = Path(ament.get_package_share_directory("nac_ros"))
    assert (share / "config/robots/vx300s.yaml").is_file()
    assert (share / "launch/policy.launch.py").is_file()
    assert (share / "package.xml").is_file()


def test_the_environment_of_another_checkout_is_left_alone(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / ".venv").symlink_to(tmp_path / "other")
    with pytest.raises(setup_env.SetupError, match=r"is a link to .*remove the link"):
        setup_env.create(tmp_path / ".venv", setup_env.Base(sys.executable, sourced=False))


def test_an_environment_with_another_ros_is_built_again(tmp_path):
    venv, python = tmp_path / "venv", tmp_path / "python3"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\n'
        f'mkdir -p "$3/bin"; ln -s {sys.executable} "$3/bin/python"; touch "$3/pyvenv.cfg"\n'
    )
    python.chmod(0o755)
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(sys.executable)
    (venv / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    (venv / "old").touch()
    base = setup_env.Base(str(python), sourced=False)
    setup_env.create(venv, base)
    assert not (venv / "old").exists()
    (venv / "kept").touch()
    setup_env.create(venv, base)
    assert (venv / "kept").exists()


def test_a_failed_check_prints_the_fix_in_one_line():
    def fail():
        raise RuntimeError("no device\nat all")

    good, line = check_env.run_check(check_env.Check(fail, "plug it in"))
    assert (good, line) == (False, "no device at all; plug it in")


def test_the_fix_for_a_missing_package_is_make_setup():
    def fail():
        raise ModuleNotFoundError("No module named 'mujoco'")

    assert check_env.run_check(check_env.Check(fail, "plug it in"))[1].endswith("run `make setup`")


@pytest.mark.parametrize("name", ["images", "gl", "ros", "onnx"])
def test_the_environment_of_these_tests_passes_its_own_check(name):
    check = [sys.executable, ROOT / "tools/check_env.py", "--only", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(check, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stdout
    assert done.stdout.startswith(f"ok    {name}")


def test_the_check_of_gl_names_the_packages_to_install():
    check = [sys.executable, ROOT / "tools/check_env.py", "--only", "gl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MUJOCO_GL": "glfw", "DISPLAY": ""}
    done = subprocess.run(check, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 1
    assert done.stdout.startswith("FAIL  gl")
    assert "apt-get install -y libegl1" in done.stdout
