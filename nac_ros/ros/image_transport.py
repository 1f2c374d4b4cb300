"""How pictures travel between processes: raw through large shared memory, or as JPEG."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nac_ros.core.config import config_dir
from nac_ros.core.message_decoding import from_image
from nac_ros.robot.spec import CameraSpec

SHM = Path("/dev/shm")
SEGMENT = 32 << 20  # [bytes] of each process, as config/dds/large_images.xml says
N_PROCESSES = 6  # cameras, policy, recorder, view
SMALL = 100_000  # [bytes] a few of them fit into the 512 KiB that Fast DDS has by default
IMAGES = "NAC_ROS_IMAGES"  # `jpeg` where there is no room for large ones
# Fast DDS 3 knows the first name; the 2.x of distributions before Kilted only the other
PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILES, OLD_DISTROS = "FASTRTPS_DEFAULT_PROFILES_FILE", ("humble", "iron", "jazzy")


class ImageTopic(NamedTuple):
    """How a camera's images are received; `decode(message)` returns RGB uint8 `[H, W, 3]`."""

    message_type: Any
    topic: str
    decode: Callable[[Any], np.ndarray]


def environment(folder: Path = SHM) -> dict[str, str]:
    """Variables for a process that sends or takes pictures, by the room in shared memory now.

    What the user has set stays.
    """
    if any(os.environ.get(name) for name in (PROFILES, OLD_PROFILES, IMAGES)):
        return {}
    if not folder.is_dir() or shutil.disk_usage(folder).free < N_PROCESSES * SEGMENT:
        return {IMAGES: "jpeg"}
    name = OLD_PROFILES if os.environ.get("ROS_DISTRO") in OLD_DISTROS else PROFILES
    return {name: str(config_dir() / "dds" / "large_images.xml")}


def is_large(camera: CameraSpec) -> bool:
    """Whether its raw pictures are lost without a profile."""
    return 3 * camera.width * camera.height > SMALL


def must_use_jpeg(camera: CameraSpec) -> bool:
    """Whether this process was told that large pictures come as JPEG, and these are large."""
    return os.environ.get(IMAGES) == "jpeg" and is_large(camera)


def image_topic(camera: CameraSpec) -> ImageTopic:
    """How to listen to a camera."""
    from sensor_msgs.msg import CompressedImage, Image

    if camera.transport == "jpeg" or must_use_jpeg(camera):
        return ImageTopic(CompressedImage, camera.compressed_topic, _from_compressed)
    return ImageTopic(Image, camera.topic, from_image)


def jpeg_notice(camera: CameraSpec) -> str:
    """For the log, where not the robot's YAML but this machine decides; '' otherwise."""
    if camera.transport == "jpeg" or not must_use_jpeg(camera):
        return ""
    need = N_PROCESSES * SEGMENT >> 20
    return (
        f"camera {camera.name}: JPEG is used, from {camera.compressed_topic}, because {SHM} has "
        f"less than {need} MB free (docker: --shm-size)"
    )


def shared_memory_advice(camera: CameraSpec) -> str:
    """For the log, where raw pictures are large and nothing was set for them; '' otherwise."""
    told = any(os.environ.get(name) for name in (PROFILES, OLD_PROFILES, IMAGES))
    if told or not is_large(camera):
        return ""
    return (
        f"camera {camera.name}: of raw {camera.width}x{camera.height} pictures many are lost on "
        f"their way; set {PROFILES} to config/dds/large_images.xml here and where they are taken, "
        "or take JPEG (`transport: jpeg` in the robot's YAML)"
    )


def _from_compressed(message: Any) -> np.ndarray:
    from nac_ros.core import image_codec  # and OpenCV, which the guard does without

    return image_codec.from_compressed(message)
