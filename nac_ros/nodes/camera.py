"""Node `camera`: one camera's pictures, as they come, with the time they were taken at.

Active it reads in a thread of its own; a device that is lost is opened again, and diagnostics say
how it is. JPEG is made once a picture, and only when somebody takes it.
"""

from dataclasses import asdict, dataclass
from typing import Literal

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from nac_ros.cameras.camera import Frame
from nac_ros.cameras.capture import Capture, CaptureConfig, CaptureState
from nac_ros.cameras.factory import CameraConfig, make_camera
from nac_ros.core import image_codec
from nac_ros.core.config import number_field
from nac_ros.core.errors import NacError
from nac_ros.robot.spec import load_robot
from nac_ros.ros import image_transport, messages, parameters, qos
from nac_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics, Status
from nac_ros.ros.node_clock import STEADY
from nac_ros.ros.node_log import NodeLog
from nac_ros.ros.node_main import exit_process, run

LOOK_S = 0.2  # how soon a change is reported
LEVELS: dict[CaptureState, bytes] = {
    "off": OK, "opening": OK, "running": OK, "slow": WARN, "frozen": WARN, "silent": ERROR,
    "lost": ERROR, "ended": WARN,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CameraParameters(CameraConfig, CaptureConfig):
    """Which camera of which robot.

    robot: name of a robot in config/robots, or the path of its YAML file
    camera: its name in the robot's YAML
    compressed: asked, or always: whether JPEG is made without anybody who takes it
    jpeg_quality: 1 to 100
    """

    robot: str = "vx300s"
    camera: str = ""
    compressed: Literal["on_demand", "always"] = "on_demand"
    jpeg_quality: int = number_field(image_codec.JPEG_QUALITY, 1, 100)

    def __post_init__(self) -> None:
        CameraConfig.__post_init__(self)
        CaptureConfig.__post_init__(self)


class CameraNode(LifecycleNode):
    """Pictures in, messages out."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._log = NodeLog(self)
        parameters.declare(self, CameraParameters)
        self._capture: Capture | None = None
        self._reason, self._seen = "not configured", ("off", "")
        self._diagnostics = Diagnostics(self, self._status)
        self._looks = self.create_timer(LOOK_S, self._look, clock=STEADY)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            self._prepare(parameters.read(self, CameraParameters))
        except NacError as error:
            self._log.error(str(error))
            self._set_reason(str(error))
            return TransitionCallbackReturn.FAILURE
        self._offer()
        self._set_reason("inactive")
        return TransitionCallbackReturn.SUCCESS

    def _prepare(self, settings: CameraParameters) -> None:
        camera = load_robot(settings.robot).camera(settings.camera)
        self._source = make_camera(settings, camera, self._now)
        self._settings, self._camera = settings, camera
        self._capture = Capture(self._source, self._deliver, self._now, settings, settings.depth)
        if advice := image_transport.jpeg_notice(camera) or image_transport.shared_memory_advice(camera):
            self._log.warning(advice)

    def _offer(self) -> None:
        camera = self._camera
        self._raw = self.create_publisher(Image, camera.topic, qos.SENSOR_PUBLISHER)
        self._jpeg = self.create_publisher(
            CompressedImage, camera.compressed_topic, qos.SENSOR_PUBLISHER
        )
        info = camera.sibling_topic("camera_info")
        self._info = self.create_publisher(CameraInfo, info, qos.SENSOR_PUBLISHER)
        self._offered = [self._raw, self._jpeg, self._info]
        if self._settings.depth:
            topic = camera.sibling_topic("depth/image_raw")
            self._depth = self.create_publisher(Image, topic, qos.SENSOR_PUBLISHER)
            self._offered.append(self._depth)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._capture is not None
        self._set_reason("")
        self._capture.start()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        self._set_reason("inactive")
        return TransitionCallbackReturn.SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for publisher in self._offered:
            self.destroy_publisher(publisher)
        self._capture = None
        self._set_reason("not configured")
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Ends the thread that reads."""
        if self._capture is not None and not self._capture.close():
            self._log.error(f"{self._source.name} does not return; end this process")

    def _now(self) -> float:
        return messages.to_seconds(self.get_clock().now().to_msg())

    def _deliver(self, frame: Frame) -> None:
        """In the thread that reads."""
        stamp, name = frame.stamp, self._camera.name
        if self._raw.get_subscription_count():
            self._raw.publish(messages.to_image(stamp, name, frame.image))
        if self._settings.compressed == "always" or self._jpeg.get_subscription_count():
            data = image_codec.encode_jpeg(frame.image, self._settings.jpeg_quality)
            self._jpeg.publish(messages.to_compressed(stamp, name, data))
        intrinsics = self._camera.intrinsics or self._source.intrinsics
        self._info.publish(messages.to_camera_info(stamp, self._camera, intrinsics))
        if frame.depth_mm is not None and self._depth.get_subscription_count():
            self._depth.publish(messages.to_depth(stamp, name, frame.depth_mm))

    def _look(self) -> None:
        """Reports a change at once, and says it in the log."""
        if self._capture is None or self._reason:
            return
        status = self._capture.status()
        before, self._seen = self._seen, (status.state, status.text)
        same_loss = status.state != "lost" or status.text == before[1]
        if status.state == before[0] and same_loss:
            return
        self._diagnostics.publish()
        said = status.text or f"{self._source.name}: {status.state}"
        if LEVELS[status.state] == OK:
            self._log.info(said)
        else:
            self._log.warning(said)

    def _set_reason(self, reason: str) -> None:
        self._reason, self._seen = reason, ("off", "")
        self._diagnostics.publish()

    def _status(self) -> Status:
        if self._capture is None or self._reason:
            quiet = self._reason in ("not configured", "inactive")
            return Status(OK if quiet else ERROR, self._reason, {})
        values = asdict(self._capture.status())
        text = values.pop("text") or values["state"]
        return Status(LEVELS[values["state"]], text, values)


def main() -> None:
    """Entry point of the executable `camera`."""
    exit_process(run(CameraNode))


if __name__ == "__main__":
    main()
