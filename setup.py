"""How nac_ros is built: by pip, and by colcon as an ament_python package; the only metadata."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "nac_ros"
SHARE = Path("share") / NAME

EXTRAS = {
    # ONNX Runtime comes as two wheels that write the same folder: choose one, never both.
    "cpu": ["onnxruntime>=1.20"],
    "gpu": ["onnxruntime-gpu>=1.20"],
    # the twin, its experts, and the report and video of its trials; mujoco 4 needs mink 1.3
    "sim": ["mujoco>=3.3,<3.9", "mink>=1.0", "daqp", "gym-aloha", "ruckig", "av", "matplotlib"],
    # exporting bundles, reading LeRobot's videos, robomimic's HDF5 and BridgeData's TFRecord, and
    # fetching datasets from the Hugging Face Hub
    "train": [
        "onnx",
        "onnxscript",
        "av",
        "h5py",
        "google-crc32c",
        "huggingface_hub>=1.0",
    ],
    # recording episodes, and reading them
    "record": ["mcap>=1.2,<2", "rosbags>=0.10", "lz4", "zstandard"],
    "realsense": ["pyrealsense2"],
    # the live view; 0.26 has the last wheel below 100 MB, and needs numpy 2
    "view": ["rerun-sdk>=0.26,<0.27"],
    # the operator console of trials on an arm
    "console": ["nicegui>=3.0,<4", "fastapi", "uvicorn"],
    # trials on a cluster
    "cluster": ["ray>=2.9"],
    # where no ROS 2 is sourced; these wheels exist for Python 3.11 alone
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
        'pyrealsense2; platform_machine == "x86_64" and sys_platform == "linux"',
    ],
}


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, each going to the same place below share/nac_ros."""
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".pyc")
    return [(str(SHARE / path.parent), [str(path)]) for path in files]


setup(
    name=NAME,
    version="0.1.0",
    description="Neural action codec for ROS 2: actions as tokens, from demonstrations to an arm",
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
    entry_points={
        "console_scripts": [
            "nac = nac_ros.cli.main:main",
            "policy = nac_ros.nodes.policy:main",
            "guard = nac_ros.nodes.guard:main",
            "recorder = nac_ros.nodes.recorder:main",
            "teleop = nac_ros.nodes.teleop:main",
            "twin = nac_ros.nodes.twin:main",
            "camera = nac_ros.nodes.camera:main",
            "view = nac_ros.nodes.view:main",
            "trials = nac_ros.nodes.trials:main",
        ]
    },
    zip_safe=False,
)
