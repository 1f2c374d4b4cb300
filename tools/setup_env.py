"""Builds the virtual environment of the project, makes it visible to ROS 2, and checks it."""

import argparse
import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
WHEELS_PYTHON = "3.11"  # the only Python that the ROS 2 wheels on PyPI are built for
SYSTEM_PACKAGES = ("libegl1", "libgl1", "libgl1-mesa-dri", "libglib2.0-0")
BROWSERS = ("chromium", "google-chrome")
USB = "libusb-1.0.so.0"  # needed by pyrealsense2 and not in its wheel
SHARED = ("package.xml", "config", "models")


class Base(NamedTuple):
    """Python of the environment; sourced: a ROS 2 outside the environment is used."""

    python: str
    sourced: bool


class SetupError(Exception):
    """The environment cannot be built; the message says why and how to fix it."""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parser().parse_args(argv)
    venv = Path(arguments.venv).absolute()
    try:
        base = choose_base(venv, os.environ)
        print(f"setup: {describe(base)}", flush=True)
        create(venv, base)
        for requirements in pip_calls(base, arguments):
            _pip(venv, requirements)
        link(venv)
        provide_gl(venv)
        provide_for_tests(os.environ)
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    if _check(venv) != 0:
        return 1
    Path(arguments.stamp).write_text(f"{describe(base)}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=ROOT / ".venv", help="folder of the environment")
    parser.add_argument("--stamp", required=True, help="file written at the end")
    parser.add_argument("--torch", default="torch", help="requirement, such as torch==2.13.0")
    parser.add_argument("--torch-index", default="", help="package index that has this build")
    parser.add_argument("--onnx", choices=("cpu", "gpu"), default="cpu")
    return parser


def choose_base(venv: Path, environment: Mapping[str, str]) -> Base:
    """A sourced ROS 2 with a Python that can import it, otherwise a Python for the wheels."""
    prefixes = [p for p in environment.get("AMENT_PREFIX_PATH", "").split(":") if p]
    foreign = [p for p in prefixes if Path(p).absolute() != venv]
    for python in _candidates("/usr/bin/python3"):
        if _output(python, "import rclpy; print('yes')", environment) == "yes":
            return Base(python, sourced=True)
    if foreign:
        raise SetupError(
            f"ROS 2 is sourced from {foreign[0]}, but no python3 here can import its rclpy; name "
            "the Python it was built for, `make setup PYTHON=...`, or use a shell without ROS 2"
        )
    version = "import sys; print('%d.%d' % sys.version_info[:2])"
    for python in _candidates(f"python{WHEELS_PYTHON}"):
        if _output(python, version, environment) == WHEELS_PYTHON:
            return Base(python, sourced=False)
    raise SetupError(
        f"the ROS 2 wheels need Python {WHEELS_PYTHON}, and python3 here is "
        f"{sys.version.split()[0]}; install it and run `make setup PYTHON=python{WHEELS_PYTHON}`, "
        "or source a ROS 2 first"
    )


def describe(base: Base) -> str:
    """Description of the environment, one line."""
    ros = "the sourced ROS 2" if base.sourced else "ROS 2 from PyPI wheels"
    return f"{base.python} with {ros}"


def create(venv: Path, base: Base) -> None:
    """Makes an empty environment; one with another Python or ROS 2 is replaced."""
    if venv.is_symlink():
        raise SetupError(f"{venv} is a link to {venv.resolve()}; remove the link and retry")
    if (venv / "pyvenv.cfg").is_file() and not _is_of(venv, base):
        print(
            f"setup: {venv} was built with another Python or ROS 2; building it again", flush=True
        )
        shutil.rmtree(venv)
    if (venv / "bin/python").exists():
        return
    command = [base.python, "-m", "venv", str(venv)]
    if base.sourced:  # rclpy's dependencies (numpy, yaml) are system packages
        command.append("--system-site-packages")
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise SetupError(f"`{' '.join(command)}` failed; on Debian: apt-get install python3-venv")


def pip_calls(base: Base, arguments: argparse.Namespace) -> list[list[str]]:
    """Arguments of each pip call; torch has a call of its own if it has its own index."""
    numpy = _numpy_of(base)
    extras = [arguments.onnx, "sim", "metaworld", "train", "vlm", "record", "console", "dev"]
    extras += [] if base.sourced else ["ros"]
    extras += [] if numpy else ["view"]  # rerun needs numpy 2
    package = ["--editable", f"{ROOT}[{','.join(extras)}]", *numpy]
    if arguments.torch_index:
        return [[arguments.torch, "--index-url", arguments.torch_index], package]
    return [[arguments.torch, *package]]


def link(venv: Path, root: Path = ROOT) -> None:
    """Adds the files that `ros2 run|launch` need and an editable install by pip leaves out."""
    for name in SHARED:
        _link(venv / "share/nac_ros" / name, root / name)
    # `ros2 launch` searches the folders below share, but does not follow links to folders
    launch_files = venv / "share/nac_ros/launch"
    if launch_files.is_symlink():
        launch_files.unlink()
    for path in sorted((root / "launch").glob("*.launch.py")):
        _link(launch_files / path.name, path)
    marker = "ament_index/resource_index/packages/nac_ros"
    _link(venv / "share" / marker, root / "resource/nac_ros")
    for script in sorted((root / "scripts").iterdir()):
        _install_script(script, venv)


def _install_script(script: Path, venv: Path) -> None:
    """Writes an executable of `ros2 run` that uses the Python of `venv`."""
    target = venv / "lib/nac_ros" / script.name
    target.parent.mkdir(parents=True, exist_ok=True)
    _, _, code = script.read_text().partition("\n")
    target.unlink(missing_ok=True)  # may be a link into bin/ of an earlier version
    target.write_text(f"#!{venv.absolute()}/bin/python\n{code}")
    target.chmod(0o755)


def provide_gl(venv: Path) -> None:
    """Installs the offscreen GL libraries if root; otherwise the check names the command."""
    if _check(venv, "--only", "images", "gl", "--quiet") == 0:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    _install(*SYSTEM_PACKAGES)


def provide_for_tests(environment: Mapping[str, str]) -> None:
    """On CI (CI=true) as root: installs Chromium and libusb (for RealSense's software device).
    Elsewhere the tests that need them are skipped."""
    if environment.get("CI") != "true" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    missing = [] if any(map(shutil.which, BROWSERS)) else [BROWSERS[0]]
    missing += [] if _loads(USB) else ["libusb-1.0-0"]
    if missing:
        _install(*missing)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _install(*packages: str) -> None:
    print(f"setup: installing {' '.join(packages)}", flush=True)
    install = ["install", "-y", "--no-install-recommends", *packages]
    if _apt_get(*install) != 0:
        _apt_get("update")
        _apt_get(*install)


def _apt_get(*arguments: str) -> int:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", *arguments]
    return subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode


def _candidates(other: str) -> list[str]:
    """This Python and `other`; for a virtual environment the Python that it was made from."""
    found = [sys.executable, shutil.which(other)]
    outside = "import sys; print(getattr(sys, '_base_executable', sys.executable))"
    return list(dict.fromkeys(_output(python, outside) or python for python in found if python))


def _output(python: str, code: str, environment: Mapping[str, str] | None = None) -> str:
    """Standard output of `code`; empty if it fails."""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment)
    return done.stdout.strip() if done.returncode == 0 else ""


def _is_of(venv: Path, base: Base) -> bool:
    version = "import sys; print(sys.version_info[:2])"
    config = (venv / "pyvenv.cfg").read_text().replace(" ", "")
    sourced = "include-system-site-packages=true" in config
    python = str(venv / "bin/python")
    return sourced == base.sourced and _output(python, version) == _output(base.python, version)


def _numpy_of(base: Base) -> list[str]:
    """Messages of a sourced ROS 2 that were compiled for numpy 1 do not work with numpy 2."""
    if not base.sourced:
        return []
    found = _output(base.python, "import numpy; print(numpy.__version__)")
    return ["numpy<2"] if found.startswith("1.") else []


def _pip(venv: Path, requirements: Sequence[str]) -> None:
    log, began = venv / "setup.log", time.monotonic()
    print(f"setup: pip install {' '.join(requirements)} (minutes; log in {log})", flush=True)
    command = [str(venv / "bin/python"), "-m", "pip", "install", "--progress-bar", "off"]
    with log.open("w") as file:
        pip = subprocess.Popen([*command, *requirements], stdout=file, stderr=subprocess.STDOUT)
        while pip.poll() is None:
            _wait(pip, 15)
            print(f"setup: {time.monotonic() - began:.0f} s, {_newest(log)}", flush=True)
    if pip.returncode:
        raise SetupError(f"pip failed:\n{''.join(log.read_text().splitlines(True)[-12:])}")


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _newest(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").split("\n")]
    shown = [line for line in lines if line and not line.startswith("WARNING")]
    return shown[-1][:70] if shown else "started"


def _check(venv: Path, *options: str) -> int:
    command = [str(venv / "bin/python"), str(ROOT / "tools/check_env.py"), *options]
    return subprocess.run(command, cwd=ROOT).returncode


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(target)


if __name__ == "__main__":
    sys.exit(main())
