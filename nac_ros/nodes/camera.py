"""Node `camera`: publishes the images of one camera with the time at which they were taken.

While active it reads the device in a thread of its own and reopens a lost one. An image is encoded
as JPEG at most once, and by default only if there is a subscription.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from nac_ros.cameras.camera import Frame
from nac_ros.cameras.capture import Capture, CaptureConfig, CaptureState
from nac_ros.cameras.factory import CameraConfig, make_camera
from nac_ros.core import image_codec
from nac_ros.core.config import number_field
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, messages, parameters, qos
from nac_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Status
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_main import ManagedNode, exit_process, run

CHECK_S = 0.2  # period at which changes of the capture's state are reported
LEVELS: dict[CaptureState, bytes] = {
    "off": OK,
    "opening": OK,
    "running": OK,
    "slow": WARN,
    "frozen": WARN,
    "silent": ERROR,
    "lost": ERROR,
    "ended": WARN,
}


@dataclass(frozen=True, kw_only=True)
class CameraParameters(CameraConfig, CaptureConfig):
    """Parameters of the node.

    robot: name of a robot in config/robots, or path of its YAML file
    camera: its name in the robot's YAML
    compressed: when JPEG is published: on_demand (if there is a subscription) or always
    jpeg_quality: 1 to 100
    """

    robot: str = "vx300s"
    camera: str = ""
    compressed: Literal["on_demand", "always"] = "on_demand"
    jpeg_quality: int = number_field(image_codec.JPEG_QUALITY, 1, 100)

    def __post_init__(self) -> None:
        CameraConfig.__post_init__(self)
        CaptureConfig.__post_init__(self)


class CameraNode(ManagedNode):
    """Publishes the frames of a Capture."""

    def __init__(self) -> None:
        super().__init__("camera")
        parameters.declare(self, CameraParameters)
        self._capture: Capture | None = None
        self._reported: tuple[CaptureState, str] = ("off", "")
        self.diagnostics = Diagnostics(self, self._status)
        self.create_timer(CHECK_S, self._report_change, clock=STEADY)

    def configure(self) -> None:
        self._config = config = parameters.read(self, CameraParameters)
        self._spec = spec = load_robot(config.robot).camera(config.camera)
        self._camera = make_camera(config, spec, self._now)
        self._capture = Capture(self._camera, self._publish, self._now, config, config.depth)
        notice = image_transport.jpeg_notice(spec) or image_transport.shared_memory_advice(spec)
        if notice:
            self.log.warning(notice)
        profile = qos.SENSOR_PUBLISHER
        self._raw = self.create_publisher(Image, spec.topic, profile)
        self._jpeg = self.create_publisher(CompressedImage, spec.compressed_topic, profile)
        self._info = self.create_publisher(CameraInfo, spec.sibling_topic("camera_info"), profile)
        if config.depth:
            topic = spec.sibling_topic("depth/image_raw")
            self._depth = self.create_publisher(Image, topic, profile)

    def activate(self) -> None:
        assert self._capture is not None
        self._reported = ("off", "")
        self._capture.start()

    def stop(self) -> None:
        if self._capture is not None and not self._capture.close():
            self.log.error(f"{self._camera.name} does not return; end this process")

    def release(self) -> None:
        self._capture = None

    def _now(self) -> float:
        return messages.to_seconds(self.get_clock().now().to_msg())

    def _publish(self, frame: Frame) -> None:
        """Publishes a frame; called in the thread of the capture."""
        stamp, name = frame.stamp, self._spec.name
        if self._raw.get_subscription_count():
            self._raw.publish(messages.to_image(stamp, name, frame.image))
        if self._config.compressed == "always" or self._jpeg.get_subscription_count():
            data = image_codec.encode_jpeg(frame.image, self._config.jpeg_quality)
            self._jpeg.publish(messages.to_compressed(stamp, name, data))
        intrinsics = self._spec.intrinsics or self._camera.intrinsics
        self._info.publish(messages.to_camera_info(stamp, self._spec, intrinsics))
        if frame.depth_mm is not None and self._depth.get_subscription_count():
            self._depth.publish(messages.to_depth(stamp, name, frame.depth_mm))

    def _report_change(self) -> None:
        """Publishes and logs a new state at once, and each new reason of a lost device."""
        if self._capture is None or self.lifecycle != "active":
            return
        status = self._capture.status()
        before, self._reported = self._reported, (status.state, status.text)
        if status.state == before[0] and (status.state != "lost" or status.text == before[1]):
            return
        self.diagnostics.publish()
        text = status.text or f"{self._camera.name}: {status.state}"
        if LEVELS[status.state] == OK:
            self.log.info(text)
        else:
            self.log.warning(text)

    def _status(self) -> Status:
        if self._capture is None or self.lifecycle != "active":
            expected = self.lifecycle in ("not configured", "inactive")
            return Status(OK if expected else ERROR, self.lifecycle, {})
        values = asdict(self._capture.status())
        text = values.pop("text") or values["state"]
        return Status(LEVELS[values["state"]], text, values)


def main() -> None:
    """Entry point of the executable `camera`."""
    exit_process(run(CameraNode))


if __name__ == "__main__":
    main()
