"""Renders docs/images/tasks: for each task, a start and a success of the scripted expert."""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from nac_ros.robot.spec import load_robot
from nac_ros.simulation.expert import expert_setpoints, step_to_setpoint
from nac_ros.simulation.seeds import scene_seed
from nac_ros.simulation.tasks import list_tasks
from nac_ros.simulation.twin import Twin

SIZE, GAP = 300, 6  # pixels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", nargs="+", default=list_tasks())
    parser.add_argument("--out", type=Path, default=Path("docs/images/tasks"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for task in arguments.task:
        path = arguments.out / f"{task}.png"
        image = cv2.cvtColor(draw(task), cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(path), image, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")
    return 0


def draw(task: str) -> np.ndarray:
    """Images of start and success from the scene camera, joined: uint8 `[H, W, 3]`."""
    twin = Twin(load_robot("vx300s"), task, render=False)
    seed = scene_seed(task, 0, 0)
    twin.reset(seed)
    views = [twin.render("scene", SIZE, SIZE)]
    for setpoint in expert_setpoints(twin, np.random.default_rng(seed)):
        step_to_setpoint(twin, setpoint)
    if twin.outcome().state != "success":
        sys.exit(f"{task}: {twin.outcome().reason or 'the expert did not finish'}")
    views.append(twin.render("scene", SIZE, SIZE))
    twin.close()
    return np.hstack([views[0], np.full((SIZE, GAP, 3), 255, np.uint8), views[1]])


if __name__ == "__main__":
    sys.exit(main())
