"""Each concept of the field is found under its usual name: a class or function of the package."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "nac_ros"
CONCEPTS = {  # concept -> folder and name of the definition
    "action chunk": ("core", "ActionChunk"),
    "observation buffer": ("robot", "ObservationBuffer"),
    "action normalizer": ("core", "ActionNormalizer"),
    "trajectory generator": ("control", "TrajectoryGenerator"),
    "chunk interpolator": ("control", "ChunkInterpolator"),
    "jerk limiter": ("control", "JerkLimiter"),
    "stop profile": ("control", "StopProfile"),
    "watchdog": ("control", "Watchdog"),
    "command source": ("control", "CommandSource"),
    "rollout": ("evaluation", "Rollout"),
    "success detector": ("simulation", "SuccessDetector"),
    "domain randomization": ("simulation", "DomainRandomization"),
    "dagger": ("demonstrations", "dagger_attempt"),
    "teleoperator": ("teleop", "Teleoperator"),
    "episode recorder": ("datasets", "EpisodeRecorder"),
    "recording resampler": ("datasets", "RecordingResampler"),
    "residual vector quantizer": ("codec", "ResidualVectorQuantizer"),
    "beam search": ("codec", "_beam_search"),
    "token sampling": ("policies", "sample_tokens"),
    "chunk transition": ("inference", "ChunkTransition"),
}


def definitions(folder):
    """Names of all classes, functions and methods below a folder of the package."""
    return {
        node.name
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_concept_is_found_under_its_name(concept):
    folder, name = CONCEPTS[concept]
    assert name in definitions(folder)
    letters = name.lower().replace("_", "")
    assert all(word[:5] in letters for word in concept.split()), "the name does not say it"
