"""A rectangular cloth: a MuJoCo flex on a grid of vertices, stiff along its edges.

Edges that cannot stretch are constraints; elastic ones (elastic2d) were unstable at 2 ms as soon
as one vertex was lifted. 9 x 5 vertices run 8 times faster than real time.
"""

import numpy as np

from nac_ros.simulation.arm import SimulatedArm
from nac_ros.simulation.rendering import mujoco
from nac_ros.simulation.scene import TOOL_OFFSET
from nac_ros.simulation.tasks.base import StartPlace

THICKNESS = 0.003  # radius of the vertices, half of what is seen [m]
MASS = 0.05  # [kg], terry of 24 x 12 cm at 1.7 kg/m^2
BED = 4  # contact bit of the cloth and of the plane below it, which nothing else has
FIELD, STRIPE = (46, 110, 178), (240, 240, 236)  # RGB
DRAG = 0.002  # of the air on a vertex [N s/m]
CELL, _DENSE = 0.004, 10  # grid on which shadows are compared [m], samples per edge of the net


def add_cloth(
    scene: "mujoco.MjSpec", start: StartPlace, shape: tuple[int, int], spacing: float, holder: str
) -> None:
    """Adds the cloth, flat on its start place, and for each vertex a connection to the tool.

    shape: vertices along and across; holder: body that the tool is on
    """
    scene.worldbody.add_geom(
        name=f"{start.name}_bed", type=mujoco.mjtGeom.mjGEOM_PLANE, size=(0.5, 0.5, 0.1),
        contype=BED, conaffinity=BED, rgba=(0, 0, 0, 0), group=3,
    )  # fmt: skip
    cloth = mujoco.MjSpec.from_string(_flexcomp(start, shape, spacing))
    terry = cloth.texture("terry")
    terry.builtin, terry.data = mujoco.mjtBuiltin.mjBUILTIN_NONE, _stripes().tobytes()
    scene.attach(cloth, frame=scene.worldbody.add_frame(), prefix="")
    for vertex in range(shape[0] * shape[1]):
        joined = scene.add_equality(
            name=f"{start.name}_{vertex}", type=mujoco.mjtEq.mjEQ_CONNECT, active=False,
            objtype=mujoco.mjtObj.mjOBJ_BODY, name1=f"{start.name}_{vertex}", name2=holder,
        )  # fmt: skip
        joined.solref = (0.03, 1)


def _flexcomp(start: StartPlace, shape: tuple[int, int], spacing: float) -> str:
    """MJCF, because a flex on a grid can be described in no other way."""
    along, across = shape
    return f"""<mujoco><compiler angle="radian"/>
    <asset><texture name="terry" type="2d" builtin="flat" width="256" height="64"/>
      <material name="terry" texture="terry" specular="0.1" shininess="0.1"/></asset>
    <worldbody>
      <body name="{start.name}" pos="{start.x} {start.y} {1.2 * THICKNESS}"
        euler="0 0 {start.yaw}">
        <flexcomp name="{start.name}" type="grid" dim="2" count="{along} {across} 1"
          spacing="{spacing} {spacing} {spacing}" mass="{MASS}" radius="{THICKNESS}"
          material="terry">
          <edge equality="true" solref="0.01 1"/>
          <elasticity young="3e4" poisson="0.2" thickness="3e-3" damping="0.01" elastic2d="bend"/>
          <contact selfcollide="none" contype="{BED}" conaffinity="{BED}" condim="3"
            friction="1 0.01 0.001" solref="0.01 1"/>
        </flexcomp></body></worldbody></mujoco>"""


def _stripes() -> np.ndarray:
    """Three stripes at both ends, uint8 `[64, 256, 3]`, so that both halves look the same."""
    cloth = np.full((64, 256, 3), FIELD, np.uint8)
    for begin, width in ((16, 6), (28, 14), (48, 6)):
        cloth[:, begin : begin + width] = cloth[:, 256 - begin - width : 256 - begin] = STRIPE
    return cloth


class Cloth:
    """The cloth in one compiled model: where its vertices are, and which one is held."""

    def __init__(
        self, model: "mujoco.MjModel", name: str, shape: tuple[int, int], arm: SimulatedArm
    ) -> None:
        self._shape, self._arm, n = shape, arm, shape[0] * shape[1]
        bodies = [model.body(f"{name}_{vertex}") for vertex in range(n)]
        joints = np.array([body.jntadr[0] for body in bodies])[:, None] + np.arange(3)
        self._pose, self._speed = model.jnt_qposadr[joints], model.jnt_dofadr[joints]  # [n, 3]
        model.dof_damping[self._speed] = DRAG
        self._joined = np.array([model.equality(f"{name}_{vertex}").id for vertex in range(n)])
        model.eq_data[self._joined, :6] = (0, 0, 0, *TOOL_OFFSET)  # vertex and tool
        flex = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name)
        self._first = model.flex_vertadr[flex]
        self._origin, axes = model.body(name).pos.copy(), np.zeros(9)
        mujoco.mju_quat2Mat(axes, model.body(name).quat)
        self._axes = axes.reshape(3, 3)
        self._flat = np.array([body.pos for body in bodies])  # in the cloth's frame [n, 3]

    def points(self, data: "mujoco.MjData") -> np.ndarray:
        """The vertices in the world [m], `[along, across, 3]`."""
        vertices = data.flexvert_xpos[self._first : self._first + len(self._joined)]
        return vertices.reshape(*self._shape, 3).copy()

    def place(self, data: "mujoco.MjData", points: np.ndarray) -> None:
        """Puts the vertices at `points` `[along, across, 3]` [m], at rest and in no hand."""
        local = (points.reshape(-1, 3) - self._origin) @ self._axes
        data.qpos[self._pose] = local - self._flat
        data.qvel[self._speed] = 0
        self.let_go(data)

    def lay(self, data: "mujoco.MjData", shift: np.ndarray, turn: float) -> None:
        """Lays it flat, `shift` `[2]` [m] beside its mark and turned from it by `turn` [rad]."""
        cos, sin = np.cos(turn), np.sin(turn)
        turned = self._flat @ (self._axes @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).T
        self.place(data, self._origin + np.append(shift, 0) + turned)

    def held(self, data: "mujoco.MjData") -> int | None:
        """The vertex that the fingers hold."""
        held = np.flatnonzero(data.eq_active[self._joined])
        return int(held[0]) if len(held) else None

    def hold(self, data: "mujoco.MjData", reach: float) -> None:
        """Takes hold of the vertex nearest to the tool, if one is within `reach` [m]."""
        apart = np.linalg.norm(self.points(data).reshape(-1, 3) - self._arm.tool(data), axis=1)
        if apart.min() < reach:
            data.eq_active[self._joined[apart.argmin()]] = True

    def let_go(self, data: "mujoco.MjData") -> None:
        """Holds no vertex any more."""
        data.eq_active[self._joined] = False

    def speed(self, data: "mujoco.MjData") -> float:
        """Of the fastest vertex along any axis [m/s]."""
        return float(np.abs(data.qvel[self._speed]).max())

    def overlap(self, data: "mujoco.MjData") -> float:
        """Shadow that both halves share, as a part of half of the cloth when it lies flat."""
        points, middle = self.points(data)[..., :2], self._shape[0] // 2
        shared = np.intersect1d(_shadow(points[: middle + 1]), _shadow(points[middle:]))
        half = np.ptp(self._flat[:, 0]) * np.ptp(self._flat[:, 1]) / 2
        return float(len(shared) * CELL**2 / half)


def _shadow(points: np.ndarray) -> np.ndarray:
    """Cells of the table below a net of points `[rows, columns, 2]`, as sorted numbers."""
    u, v = np.meshgrid(*2 * [(np.arange(_DENSE) + 0.5) / _DENSE])
    weights = np.stack([(1 - u) * (1 - v), (1 - u) * v, u * (1 - v), u * v])
    corners = np.stack([points[:-1, :-1], points[:-1, 1:], points[1:, :-1], points[1:, 1:]])
    inside = np.einsum("krcd,kuv->rcuvd", corners, weights)
    x, y = np.moveaxis(np.floor(inside / CELL).astype(np.int64), -1, 0)
    return np.unique(x * 100_003 + y)
