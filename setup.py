"""Metadata and build of nac_ros, for pip and for colcon (ament_python)."""

import sys
from pathlib import Path

from setuptools import find_packages, setup

from distutils.command.install_data import install_data  # isort: skip # setuptools provides it

NAME = "nac_ros"
SHARE = Path("share") / NAME

EXTRAS = {
    # ONNX Runtime comes as two wheels that write the same folder: choose one, never both.
    "cpu": ["onnxruntime>=1.20"],
    "gpu": ["onnxruntime-gpu>=1.20"],
    # the twin with its scripted experts, reports and videos; mujoco 4 needs mink 1.3
    "sim": ["mujoco>=3.3,<3.9", "mink>=1.0", "daqp", "gym-aloha", "ruckig", "av", "matplotlib"],
    # export of bundles; LeRobot videos, robomimic HDF5, BridgeData TFRecord; Hugging Face Hub
    "train": [
        "onnx",
        "onnxscript",
        "av",
        "h5py",
        "google-crc32c",
        "huggingface_hub>=1.0",
    ],
    # local pretrained models of the transformers library: image and text encoders of a policy
    "pretrained": ["transformers>=5.24,<6", "huggingface_hub>=1.0"],
    # policy vlm: vision-language models with LoRA adapters; pillow prepares their images
    "vlm": ["transformers>=5.24,<6", "huggingface_hub>=1.0", "peft>=0.18", "pillow"],
    # recorded episodes (rosbag2 with MCAP)
    "record": ["mcap>=1.2,<2", "rosbags>=0.10", "lz4", "zstandard"],
    "realsense": ["pyrealsense2"],
    # the live view; rerun 0.26 is the last with a wheel under 100 MB
    "view": ["rerun-sdk>=0.26,<0.27"],
    # the operator console of trials on a real arm
    "console": ["nicegui>=3.0,<4", "fastapi", "uvicorn"],
    # trials on a Ray cluster
    "cluster": ["ray>=2.9"],
    # tools/metaworld_study.py; metaworld itself pins mujoco 3.3.0 and is installed without its
    # dependencies: pip install --no-deps metaworld==3.1.1
    "metaworld": ["gymnasium>=1.1", "imageio"],
    # ROS 2 as wheels, where none is sourced; for Python 3.11 only
    "ros": [
        'ros-kilted-rclpy; python_version == "3.11"',
        'ros-kilted-rmw-fastrtps-cpp; python_version == "3.11"',
        'ros-kilted-common-interfaces; python_version == "3.11"',
    ],
    "dev": [
        "pytest>=8.2",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "colcon-ros",
        "ruff",
        "mypy",
        "types-PyYAML",
        "playwright",
        "statsmodels",
        "diffusers>=0.30",  # reference of the diffusion schedule
        'pyrealsense2; platform_machine == "x86_64" and sys_platform == "linux"',
    ],
}


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """data_files entries that install each file of `folder` under share/nac_ros."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".pyc")
    return [(str(SHARE / path.parent), [str(path)]) for path in files]


class InstallData(install_data):
    """Lets the executables of a colcon workspace run with the Python that built it, as its console
    scripts do. A wheel may be installed for any Python, so there `env` chooses it."""

    def run(self) -> None:
        super().run()
        if "bdist_wheel" in self.distribution.command_obj:
            return
        for path in map(Path, self.get_outputs()):
            if path.is_file() and path.parent.parts[-2:] == ("lib", NAME):
                _, _, code = path.read_text().partition("\n")
                path.write_text(f"#!{sys.executable}\n{code}")


setup(
    name=NAME,
    version="0.1.0",
    description="Learned manipulation policies on ROS 2, with the neural action codec NAC",
    maintainer="nac_ros maintainers",
    maintainer_email="maintainers@nac-ros.invalid",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (str(SHARE), ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("models"),
        # where `ros2 run` looks for executables; not on the PATH of a pip environment
        (str(Path("lib") / NAME), sorted(str(path) for path in Path("scripts").iterdir())),
    ],
    install_requires=[
        "numpy>=1.26",
        "pyyaml",
        "torch>=2.5",
        "safetensors",
        "opencv-python",
        "scipy>=1.11",
        "pyarrow>=14",
        "tokenizers>=0.20",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["nac = nac_ros.cli.main:main"]},
    cmdclass={"install_data": InstallData},
    zip_safe=False,
)
