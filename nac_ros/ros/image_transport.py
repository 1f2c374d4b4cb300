"""How images travel between processes: raw through large shared memory, or as JPEG."""

import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from nac_ros.core.config import config_dir
from nac_ros.robot.spec import CameraSpec

SHM = Path("/dev/shm")
SEGMENT = 32 << 20  # bytes of shared memory of each process, as in config/dds/large_images.xml
N_PROCESSES = 6  # cameras, policy, recorder, view
SMALL_IMAGE = 100_000  # [bytes] several fit into the 512 KiB that Fast DDS has by default
IMAGES = "NAC_ROS_IMAGES"  # variable; `jpeg` on a machine without room for large raw images
# Fast DDS 3 reads the first variable; 2.x, in distributions before Kilted, only the second.
PROFILES = "FASTDDS_DEFAULT_PROFILES_FILE"
OLD_PROFILES, OLD_DISTROS = "FASTRTPS_DEFAULT_PROFILES_FILE", ("humble", "iron", "jazzy")


class ImageTopic(NamedTuple):
    """Message type and topic of a camera's images; `messages.read_image` reads both types."""

    message_type: Any
    topic: str


def environment(folder: Path = SHM) -> dict[str, str]:
    """Variables for a process that sends or receives images: the Fast DDS profile if `folder` has
    enough free space, JPEG otherwise. Empty if the user has set one of them."""
    if _is_configured():
        return {}
    if not folder.is_dir() or shutil.disk_usage(folder).free < N_PROCESSES * SEGMENT:
        return {IMAGES: "jpeg"}
    name = OLD_PROFILES if os.environ.get("ROS_DISTRO") in OLD_DISTROS else PROFILES
    return {name: str(config_dir() / "dds" / "large_images.xml")}


def _is_configured() -> bool:
    return any(os.environ.get(name) for name in (PROFILES, OLD_PROFILES, IMAGES))


def is_large(camera: CameraSpec) -> bool:
    """Whether the camera's raw images are lost without the Fast DDS profile."""
    return 3 * camera.width * camera.height > SMALL_IMAGE


def must_use_jpeg(camera: CameraSpec) -> bool:
    """Whether the camera's images are large and this process was set to use JPEG for those."""
    return os.environ.get(IMAGES) == "jpeg" and is_large(camera)


def image_topic(camera: CameraSpec) -> ImageTopic:
    """The topic to subscribe to for a camera's images."""
    from sensor_msgs.msg import CompressedImage, Image

    if camera.transport == "jpeg" or must_use_jpeg(camera):
        return ImageTopic(CompressedImage, camera.compressed_topic)
    return ImageTopic(Image, camera.topic)


def jpeg_notice(camera: CameraSpec) -> str:
    """Log line if JPEG is used because of this machine, not because of the robot's YAML, or ''."""
    if camera.transport == "jpeg" or not must_use_jpeg(camera):
        return ""
    needed_mb = N_PROCESSES * SEGMENT >> 20
    return (
        f"camera {camera.name}: JPEG is used, from {camera.compressed_topic}, because {SHM} has "
        f"less than {needed_mb} MB free (docker: --shm-size)"
    )


def shared_memory_advice(camera: CameraSpec) -> str:
    """Log line if raw images are large and no variable is set for them, or ''."""
    if _is_configured() or not is_large(camera):
        return ""
    return (
        f"camera {camera.name}: many raw {camera.width}x{camera.height} images are lost in "
        f"transport; set {PROFILES} to config/dds/large_images.xml for this node and its "
        "subscribers, or use JPEG (`transport: jpeg` in the robot's YAML)"
    )
