"""A dataset's episode as a rerun recording, with the entities of the live view."""

from pathlib import Path

from nac_ros.data.datasets import AnyDataset
from nac_ros.errors import UnknownName
from nac_ros.nodes.rerun_log import LiveLog
from nac_ros.robot import RobotSpec, list_robots, load_robot

ALL_HZ = 1000.0  # every image


def robot_of_dataset(dataset: AnyDataset) -> RobotSpec:
    """The robot of its name, if its joints are the dataset's; raises UnknownName."""
    if dataset.robot_type in list_robots():
        spec = load_robot(dataset.robot_type)
        if spec.joint_names == tuple(dataset.names):
            return spec
    raise UnknownName(
        f"{dataset.root} is of robot '{dataset.robot_type}', which config/robots does not know"
    )


def write_rerun(path: Path, dataset: AnyDataset, index: int) -> Path:
    """Writes a new .rrd file; raises UnknownName for a robot that nobody described."""
    spec, episode = robot_of_dataset(dataset), dataset.episode(index)
    log = LiveLog(spec, ALL_HZ)
    log.save(path)
    for k in range(len(episode)):
        stamp = k / dataset.fps
        if episode.stamps_ns is not None:
            stamp = 1e-9 * episode.stamps_ns[k]
        log.joints("measured", stamp, episode.proprio[k])
        log.joints("commanded", stamp + 1 / dataset.fps, episode.actions[k])
        for camera, images in episode.images.items():
            log.image(camera, stamp, images[k])
    log.close()
    return path
