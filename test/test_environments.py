"""The contract of simulated worlds, over all installed suites, and Gymnasium both ways."""

import warnings

import numpy as np
import pytest

from nac_ros.core.errors import BadActions, ConfigError, SimulationError, UnknownName
from nac_ros.environments import (
    SUITES,
    environment_spec,
    list_environments,
    make_environment,
)
from nac_ros.environments.base import ActionSpace, Environment, EnvironmentSpec, Step
from nac_ros.environments.base import WorldObservation as Observation

EXAMPLES = {"twin": "twin/weighing", "metaworld": "metaworld/drawer-close"}


@pytest.fixture(params=sorted(EXAMPLES))
def environment(request):
    if not SUITES.get(request.param)().is_installed():
        pytest.skip(f"{request.param} is not installed")
    with make_environment(EXAMPLES[request.param]) as made:
        yield made


def actions(environment: Environment, n: int, seed: int = 0) -> np.ndarray:
    space = environment.spec.actions
    return np.random.default_rng(seed).uniform(space.low, space.high, (n, space.dim))


def state_of(observation: Observation) -> np.ndarray:
    """The environment state, or without one the robot's own state."""
    state = observation.environment_state
    return observation.proprio if state is None else state


def test_every_suite_has_an_example():
    assert set(EXAMPLES) == set(SUITES.names())


def test_every_environment_has_a_spec_without_being_started():
    names = list_environments()
    assert len(set(names)) == len(names) and "twin/marker" in names
    for name in names:
        spec = environment_spec(name)
        assert spec.name == name and spec.prompt and spec.actions.rate_hz > 0


def test_the_same_scene_and_actions_give_the_same_trial(environment):
    trials = []
    for scene in (3, 3, 4):
        observations = [environment.reset(scene)]
        observations += [environment.step(a).observation for a in actions(environment, 5)]
        trials.append([state_of(o) for o in observations])
    np.testing.assert_array_equal(trials[0], trials[1])
    assert not np.array_equal(trials[0], trials[2])


def test_a_scene_rests_before_its_first_observation(environment):
    """While the arm holds still, nothing moves by more than 2 mm or 2 mrad."""
    first = environment.reset(0)
    names = environment.spec.actions.names
    hold = first.proprio if environment.spec.state_names == names else np.zeros(len(names))
    for _ in range(3):
        after = environment.step(hold).observation
    same = slice(4, 18) if environment.spec.environment_state_dim else slice(0, 6)
    np.testing.assert_allclose(state_of(after)[same], state_of(first)[same], atol=2e-3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_an_action_that_is_not_finite_or_of_another_shape_is_rejected(environment, wrong):
    environment.reset(0)
    action = actions(environment, 1)[0]
    action[1] = wrong
    with pytest.raises(BadActions, match="finite"):
        environment.step(action)
    with pytest.raises(BadActions, match="shape"):
        environment.step(action[:-1])


def test_an_unknown_environment_camera_or_scene_is_named(environment):
    suite = environment.spec.name.partition("/")[0]
    with pytest.raises(UnknownName, match="unknown task 'dance'"):
        make_environment(f"{suite}/dance")
    with pytest.raises(SimulationError, match="has no camera 'ceiling'; it has: "):
        make_environment(environment.spec.name, ("ceiling",))
    with pytest.raises(SimulationError, match="scenes from 0, got -1"):
        environment.reset(-1)


def test_images_of_the_cameras_asked_for_are_observed(environment):
    camera = next(iter(environment.spec.cameras))
    with make_environment(environment.spec.name, (camera,)) as seen:
        image = seen.reset(1).images[camera]
        assert image.std() > 10  # neither black nor uniform
        assert set(seen.step(actions(seen, 1)[0]).observation.images) == {camera}


class Counter(Environment):
    """Solved when the sum of the actions reaches 3."""

    def __init__(self, **changes):
        space = ActionSpace(names=("a",), units=("",), low=(-1.0,), high=(1.0,), rate_hz=10)
        facts = {"name": "test/counter", "prompt": "count", "actions": space, "max_steps": 5}
        super().__init__(EnvironmentSpec(**facts, state_names=("sum",), **changes))
        self.closed = False

    def start(self, scene: int) -> Observation:
        self.total = np.full(1, scene, np.float32)
        return Observation(self.total.copy())

    def advance(self, action: np.ndarray) -> Step:
        self.total += action.astype(np.float32)
        return Step(Observation(self.total.copy()), bool(self.total[0] >= 3), False)

    def close(self) -> None:
        self.closed = True


def test_a_trial_ends_when_it_is_solved_or_its_time_is_over():
    world = Counter()
    with pytest.raises(SimulationError, match="call reset first"):
        world.step([0.0])
    world.reset(1)
    assert not world.step([1.0]).ended and world.step([7.0]).ended  # clipped to 1
    with pytest.raises(SimulationError, match="call reset first"):
        world.step([0.0])
    world.reset(0)
    found = [world.step([0.0]) for _ in range(5)]
    assert [step.ended for step in found] == [False] * 4 + [True] and not found[-1].solved


def test_an_observation_that_does_not_fit_the_spec_is_rejected():
    world = Counter(environment_state_dim=2)
    with pytest.raises(SimulationError, match="environment_state must be float32 of 2"):
        world.reset(0)
    world = Counter()
    world.reset(0)
    world.total = np.full(1, np.nan, np.float32)
    with pytest.raises(SimulationError, match="proprio is not finite"):
        world.step([1.0])


def test_our_environments_are_gymnasium_environments():
    pytest.importorskip("gymnasium")
    from gymnasium.utils.env_checker import check_env

    from nac_ros.environments.gymnasium_adapter import GymnasiumView

    view = GymnasiumView(Counter(n_scenes=3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of observations without limits
        check_env(view, skip_render_check=True)
    observation, facts = view.reset(seed=2)
    assert observation["proprio"] == 2 and facts["scene"] == 2
    assert view.step([1.0])[1:] == (1.0, True, False, {"is_success": True})
    view.close()


@pytest.mark.filterwarnings("ignore")
def test_a_gymnasium_environment_is_wrapped_by_its_config():
    gymnasium = pytest.importorskip("gymnasium")
    from nac_ros.environments.gymnasium_adapter import GymnasiumConfig, GymnasiumView, wrap

    gymnasium.register("Counter-v0", lambda: GymnasiumView(Counter()), disable_env_checker=True)
    config = GymnasiumConfig(id="Counter-v0", prompt="count", proprio="proprio", rate_hz=10)
    ours, wrapped = Counter(), wrap(config)
    for world in (ours, wrapped):
        world.reset(0)
    for _ in range(3):
        a, b = ours.step([0.9]), wrapped.step([0.9])
        np.testing.assert_array_equal(a.observation.proprio, b.observation.proprio)
        assert (a.solved, a.ended) == (b.solved, b.ended)
    wrapped.close()
    for wrong, words in (
        ({"id": "Nothing-v0"}, "gymnasium.make"),
        ({"environment_state": "objects"}, "no 'objects'; they have proprio"),
        ({"cameras": {"top": "proprio"}}, "wanted an image"),
    ):
        with pytest.raises(ConfigError, match=words):
            wrap(GymnasiumConfig(**{**vars(config), **wrong}))
    other = wrap(GymnasiumConfig(**{**vars(config), "success": "won"}))
    other.reset(0)
    with pytest.raises(SimulationError, match="no 'won' in info, which has: "):
        other.step([1.0])


@pytest.mark.filterwarnings("ignore")
def test_a_gymnasium_environment_of_another_project_is_wrapped():
    pytest.importorskip("metaworld")
    from nac_ros.environments.gymnasium_adapter import GymnasiumConfig, wrap

    options = {"env_name": "reach-v3", "seed": 0}
    facts = {"module": "metaworld", "success": "success", "prompt": "Reach.", "rate_hz": 80}
    with wrap(
        GymnasiumConfig(id="Meta-World/MT1", options=options, max_steps=3, **facts)
    ) as world:
        assert world.spec.actions.dim == 4 and len(world.reset(3).proprio) == 39
        ends = [world.step(action).ended for action in actions(world, 3)]
    assert ends == [False, False, True]


def test_a_module_that_is_not_installed_is_named():
    pytest.importorskip("gymnasium")
    from nac_ros.environments.gymnasium_adapter import GymnasiumConfig, wrap

    with pytest.raises(ConfigError, match="No module named 'nowhere'; install"):
        wrap(GymnasiumConfig(id="a-v0", module="nowhere", prompt="Do it."))
