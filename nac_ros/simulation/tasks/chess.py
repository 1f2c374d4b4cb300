"""Taking the queen with the rook on a board on which the other pieces must stay upright."""

from collections.abc import Iterator

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.bodies import FreeBody, MocapBody
from nac_ros.simulation.expert_grasping import Grasper, GraspSpec, retreat
from nac_ros.simulation.expert_motion import ExpertMotion
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.tasks import TASKS
from nac_ros.simulation.tasks.base import RUNNING, Outcome, StartPose, Task
from nac_ros.simulation.tasks.chess_pieces import (
    EBONY,
    HALF_BOARD,
    IVORY,
    SHAFT_RADIUS,
    SQUARE,
    THICK,
    add_board,
    add_meshes,
    add_piece,
)

BOARD = StartPose("board", 0.31, -0.01, 0.01, yaw_spread=np.deg2rad(4))
# name: kind, colour, rank from the arm, file from its right
PIECES = {
    "rook": ("rook", IVORY, 1, 3),
    "queen": ("queen", EBONY, 5, 3),
    "white_king": ("king", IVORY, 0, 6),
    "white_pawn_a": ("pawn", IVORY, 1, 0),
    "white_pawn_b": ("pawn", IVORY, 1, 6),
    "black_king": ("king", EBONY, 7, 1),
    "black_pawn_a": ("pawn", EBONY, 6, 0),
    "black_pawn_b": ("pawn", EBONY, 6, 6),
}
JITTER = 0.003  # largest distance of a piece from the middle of its square [m]
KNOCKED = np.deg2rad(40)  # a piece that tilts by more has fallen
UPRIGHT = np.deg2rad(10)
ASIDE = np.array([0.3, 0.195])  # where the expert puts the taken queen [m]
AWAY = np.array([0.2, 0.05, 0.24])  # tool position at the end [m]
SAFE_HEIGHT = 0.14  # tool height at which a carried piece passes over the others [m]


def _grasp(kind: str, height: float) -> GraspSpec:
    width = 2 * SHAFT_RADIUS[kind] / 1000
    return GraspSpec(
        height=height,
        closed=width - 0.007,
        held=(width - 0.005, width + 0.008),
        wide=(0.034, 0.042),
        tolerance=0.012,
    )


def square(rank: int, file: int) -> np.ndarray:
    """Middle of a square in the board's frame [m], `[2]`."""
    return SQUARE * (np.array([rank, file]) - 3.5)


@TASKS.register("chess")
class Chess(Task):
    """Success when the rook stands where the queen stood, the queen is off the board, and every
    piece but the queen is upright, released and at rest."""

    id = "chess"
    prompt = "Take the queen with the rook."
    recoverable_steps = 80
    start_poses = (
        BOARD,
        *(
            StartPose(name, *(square(rank, file) + (BOARD.x, BOARD.y)).tolist(), JITTER)
            for name, (_, _, rank, file) in PIECES.items()
        ),
    )
    hold_s = 0.5

    def add_objects(self, scene: "mujoco.MjSpec") -> None:
        add_board(scene, BOARD.name, BOARD.x, BOARD.y)
        add_meshes(scene)
        for name, (kind, colour, _, _) in PIECES.items():
            add_piece(scene, name, kind, colour)

    def bind(self, model: "mujoco.MjModel", data: "mujoco.MjData", arm: SimulatedArm) -> None:
        super().bind(model, data, arm)
        self._board = MocapBody(model, data, BOARD.name)
        self._pieces = {name: FreeBody(model, data, name) for name in PIECES}
        self._rook, self._queen = self._pieces["rook"], self._pieces["queen"]
        self._geoms = np.concatenate([piece.geoms for piece in self._pieces.values()])
        self._rook_grasper = Grasper(arm, _grasp("rook", 0.021), SAFE_HEIGHT)
        self._queen_grasper = Grasper(arm, _grasp("queen", 0.026), SAFE_HEIGHT)

    def reset(self, rng: np.random.Generator, share: float = 1.0) -> None:
        self._hold.reset()
        position, yaw = BOARD.sample(rng, share)
        self._board.place(position, yaw)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        for start, piece in zip(self.start_poses[1:], self._pieces.values()):
            local = start.sample(rng, share)[0] - (BOARD.x, BOARD.y)
            piece.set_pose(np.append(position + turn @ local, THICK), yaw)

    def check_success(self) -> Outcome:
        others = [piece for name, piece in self._pieces.items() if name != "queen"]
        for piece in others:
            if piece.tilt() > KNOCKED or piece.position()[2] < -0.02:
                name = piece.name.rpartition("_")[0] if "pawn" in piece.name else piece.name
                return Outcome("failure", f"the {name.replace('_', ' ')} was knocked over")
        done = (
            self.is_rook_home()
            and self.is_queen_off()
            and all(piece.tilt() < UPRIGHT for piece in others)
            and all(piece.is_at_rest() for piece in (*others, self._queen))
            and not self._arm.touches(self._geoms)
        )
        if not self._hold.update(done):
            return RUNNING
        return Outcome("success", "the rook has taken the queen")

    def timeout_reason(self) -> str:
        if not self.is_queen_off():
            return "the queen is not off the board at the end"
        if not self.is_rook_home():
            return "the rook is not on the queen's square at the end"
        return "the pieces are not released, upright and at rest at the end"

    def is_queen_off(self) -> bool:
        """Whether the middle of the queen's base is outside the board."""
        return bool(np.abs(self._board.to_local(self._queen.position())[:2]).max() > HALF_BOARD)

    def is_rook_home(self) -> bool:
        """Whether the rook stands on the square that the queen stood on."""
        x, y, z = self._board.to_local(self._rook.position())
        distance = np.abs(np.array([x, y]) - square(*PIECES["queen"][2:]))
        return bool(distance.max() < SQUARE / 2 and abs(z - THICK) < 0.004)

    def expert_setpoints(self, motion: ExpertMotion) -> Iterator[np.ndarray]:
        rng = motion.style.rng
        aside = np.append(ASIDE + rng.uniform(-0.01, 0.01, 2), 0.001)
        while not self.is_queen_off():
            if self._queen.tilt() > KNOCKED:
                return  # the expert grasps only pieces that stand
            yield from self._move(motion, self._queen_grasper, self._queen, aside)
        while not self.is_rook_home():
            home = square(*PIECES["queen"][2:]) + rng.uniform(-0.003, 0.003, 2)
            target = self._board.to_world(np.append(home, THICK + 0.001))
            yield from self._move(motion, self._rook_grasper, self._rook, target)
        if self._rook_grasper.is_holding(self._rook):
            yield from self._rook_grasper.release(motion)
        yield from retreat(motion, AWAY)

    def _move(
        self, motion: ExpertMotion, grasper: Grasper, piece: FreeBody, target: np.ndarray
    ) -> Iterator[np.ndarray]:
        """Picks a piece and places it at `target` `[3]` [m]."""

        def place() -> Iterator[np.ndarray]:  # starts when the piece is held
            yaw = grasper.grasp_yaw(target, piece.yaw())
            yield from grasper.place(motion, piece, target, yaw)

        return grasper.carry(motion, piece, place())
