"""Taking the queen with the rook on a board on which other men must stay upright."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, HoldTimer
from nac_ros.simulation.expert_grasping import ROUND, Grasper, GraspSpec, retreat, while_true
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPlace, Task
from nac_ros.simulation.tasks.chess_pieces import (
    EBONY,
    HALF_BOARD,
    IVORY,
    SQUARE,
    THICK,
    WAISTS,
    add_board,
    add_man,
    add_shapes,
)

BOARD = StartPlace("board", 0.31, -0.01, 0.01, yaw_spread=np.deg2rad(4))
# name: kind, colour, rank from the arm, file from its right
MEN = {
    "rook": ("rook", IVORY, 1, 3),
    "queen": ("queen", EBONY, 5, 3),
    "white_king": ("king", IVORY, 0, 6),
    "white_pawn_a": ("pawn", IVORY, 1, 0),
    "white_pawn_b": ("pawn", IVORY, 1, 6),
    "black_king": ("king", EBONY, 7, 1),
    "black_pawn_a": ("pawn", EBONY, 6, 0),
    "black_pawn_b": ("pawn", EBONY, 6, 6),
}
JITTER = 0.003  # how far a man stands beside the middle of its square [m]
KNOCKED = np.deg2rad(40)  # beyond this tilt a man has fallen
UPRIGHT = np.deg2rad(10)
STABLE_S = 0.5
ASIDE = np.array([0.3, 0.195])  # where the expert puts the taken queen [m]
AWAY = np.array([0.2, 0.05, 0.24])  # where the arm goes when all is done [m]
CLEAR = 0.14  # tool height at which a carried man passes over the others [m]


def _grip(kind: str, height: float) -> GraspSpec:
    width = 2 * WAISTS[kind] / 1000
    return GraspSpec(
        height=height, closed=width - 0.007, measured=(width - 0.005, width + 0.008),
        symmetry=ROUND, wide=(0.034, 0.042), reach=0.012,
    )  # fmt: skip


def square(rank: int, file: int) -> np.ndarray:
    """Middle of a square in the board's frame [m], `[2]`."""
    return SQUARE * (np.array([rank, file]) - 3.5)


@TASKS.register("chess")
class Chess(Task):
    """Success when the rook stands where the queen stood, the queen is off the board, and every
    man but the queen is upright, released and at rest (SPEC 5)."""

    id = "chess"
    prompt = "Take the queen with the rook."
    recoverable_steps = 80
    starts = (
        BOARD,
        *(
            StartPlace(name, *(square(rank, file) + (BOARD.x, BOARD.y)).tolist(), JITTER)
            for name, (_, _, rank, file) in MEN.items()
        ),
    )

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        add_board(scene, BOARD.name, BOARD.x, BOARD.y)
        add_shapes(scene)
        for name, (kind, colour, _, _) in MEN.items():
            add_man(scene, name, kind, colour)

    def bind(self, model: "mujoco.MjModel", arm: SimulatedArm) -> None:
        self._arm, self._board = arm, model.body(BOARD.name).id
        self._mocap = model.body_mocapid[self._board]
        self._men = {name: FreeBody(model, name) for name in MEN}
        self._rook, self._queen = self._men["rook"], self._men["queen"]
        self._geoms = np.concatenate([man.geoms for man in self._men.values()])
        self._rook_hand = Grasper(arm, _grip("rook", 0.021), CLEAR)
        self._queen_hand = Grasper(arm, _grip("queen", 0.026), CLEAR)
        self._stable = HoldTimer(STABLE_S)

    def place(self, data: "mujoco.MjData", rng: np.random.Generator, share: float = 1.0) -> None:
        place, yaw = BOARD.draw(rng, share)
        data.mocap_pos[self._mocap] = (*place, 0)
        data.mocap_quat[self._mocap] = (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2))
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        for start, man in zip(self.starts[1:], self._men.values()):
            at = start.draw(rng, share)[0] - (BOARD.x, BOARD.y)
            man.place(data, np.append(place + turn @ at, THICK), yaw)
        self._stable.reset()

    def update(self, data: "mujoco.MjData") -> None:
        """Men have no behaviour of their own."""

    def judge(self, data: "mujoco.MjData") -> Outcome:
        others = [man for name, man in self._men.items() if name != "queen"]
        for man in others:
            if man.tilt(data) > KNOCKED or man.position(data)[2] < -0.02:
                name = man.name.rpartition("_")[0] if "pawn" in man.name else man.name
                return Outcome("failure", f"the {name.replace('_', ' ')} was knocked over")
        done = (
            self.rook_home(data)
            and self.queen_off(data)
            and all(man.tilt(data) < UPRIGHT for man in others)
            and all(man.still(data) for man in (*others, self._queen))
            and not self._arm.touches(data, self._geoms)
        )
        if not self._stable.holds(done, data.time):
            return RUNNING
        return Outcome("success", "the rook has taken the queen")

    def at_horizon(self, data: "mujoco.MjData") -> str:
        if not self.queen_off(data):
            return "the queen is not off the board at the end"
        if not self.rook_home(data):
            return "the rook is not on the queen's square at the end"
        return "the men are not released, upright and at rest at the end"

    def queen_off(self, data: "mujoco.MjData") -> bool:
        """Whether the middle of the queen's base is beside the board."""
        return bool(np.abs(self._on_board(data, self._queen)[:2]).max() > HALF_BOARD)

    def rook_home(self, data: "mujoco.MjData") -> bool:
        """Whether the rook stands on the square that the queen stood on."""
        x, y, z = self._on_board(data, self._rook)
        beside = np.abs(np.array([x, y]) - square(*MEN["queen"][2:]))
        return bool(beside.max() < SQUARE / 2 and abs(z - THICK) < 0.004)

    def expert(self, data: "mujoco.MjData", mover: ExpertMotion) -> Iterator[np.ndarray]:
        rng = mover.style.rng
        aside = np.append(ASIDE + rng.uniform(-0.01, 0.01, 2), 0.001)
        while not self.queen_off(data):
            if self._queen.tilt(data) > KNOCKED:
                return  # these fingers take men that stand
            yield from self._move(data, mover, self._queen_hand, self._queen, aside)
        while not self.rook_home(data):
            home = square(*MEN["queen"][2:]) + rng.uniform(-0.003, 0.003, 2)
            place = data.xpos[self._board] + self._axes(data) @ np.append(home, THICK + 0.001)
            yield from self._move(data, mover, self._rook_hand, self._rook, place)
        if self._rook_hand.holds(data, self._rook):
            yield from self._rook_hand.let_go(mover)
        yield from retreat(mover, AWAY)

    def _move(
        self,
        data: "mujoco.MjData",
        mover: ExpertMotion,
        hand: Grasper,
        man: FreeBody,
        place: np.ndarray,
    ) -> Iterator[np.ndarray]:
        if not hand.holds(data, man):
            yield from hand.take(data, mover, man)
        if not hand.holds(data, man):
            return
        yaw = hand.yaw(place, man.yaw(data))
        moves = hand.set_down(data, mover, man, place, yaw)
        yield from while_true(lambda: hand.holds(data, man), moves)
        if hand.holds(data, man):
            yield from hand.let_go(mover)

    def _axes(self, data: "mujoco.MjData") -> np.ndarray:
        return data.xmat[self._board].reshape(3, 3)

    def _on_board(self, data: "mujoco.MjData", man: FreeBody) -> np.ndarray:
        """Where a man's base is in the board's frame [m], `[3]`."""
        return self._axes(data).T @ (man.position(data) - data.xpos[self._board])
