"""Registry: a name is a file name, and getting it imports only that file."""

import subprocess
import sys

import pytest

from nac_ros.core.errors import UnknownName
from nac_ros.core.registry import Registry


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A package with the shapes `disc` and `square`, a helper and a private file."""
    package = tmp_path / "shapes_for_test"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from nac_ros.core.registry import Registry\n"
        "SHAPES = Registry('shape', 'shapes_for_test', helpers=('base',))\n"
    )
    (package / "base.py").write_text("raise ImportError('a helper is not a shape')\n")
    (package / "disc.py").write_text(
        "from shapes_for_test import SHAPES\n@SHAPES.register('disc')\nclass Disc: pass\n"
    )
    (package / "square.py").write_text("raise ImportError('square was not requested')\n")
    monkeypatch.syspath_prepend(tmp_path)
    import shapes_for_test

    yield shapes_for_test.SHAPES
    for name in [name for name in sys.modules if name.startswith("shapes_for_test")]:
        del sys.modules[name]


def test_names_are_the_files_without_the_helpers(shapes):
    assert shapes.names() == ["disc", "square"]


def test_asking_for_a_name_imports_only_its_file(shapes):
    assert shapes.get("disc").__name__ == "Disc"
    assert "shapes_for_test.square" not in sys.modules


def test_an_unknown_name_lists_the_known_ones(shapes):
    with pytest.raises(UnknownName, match="unknown shape 'cube'; known are: disc, square"):
        shapes.get("cube")


@pytest.mark.parametrize("name", ["base", "__init__", "../disc", ""])
def test_a_helper_or_a_path_is_not_a_name(shapes, name):
    with pytest.raises(UnknownName):
        shapes.get(name)


def test_a_registered_class_is_found_by_its_name_and_returned_unchanged():
    class Plain:
        pass

    registry = Registry("thing", "nac_ros.control", helpers=("checks",))
    assert registry.register("plain")(Plain) is Plain
    assert registry.get("plain") is Plain
    assert "plain" in registry.names()


@pytest.mark.parametrize(
    ("package", "registry"),
    [
        ("nac_ros.tokenizers.base", "TOKENIZERS"),
        ("nac_ros.policies.base", "POLICIES"),
        ("nac_ros.simulation.tasks", "TASKS"),
    ],
)
def test_every_name_of_the_project_is_registered_by_the_file_of_that_name(package, registry):
    code = (
        f"from {package} import {registry} as r\n"
        "assert r.names(), 'empty'\n"
        "for name in r.names():\n"
        "    cls = r.get(name)\n"
        "    assert cls.__module__.rsplit('.', 1)[1] == name, (name, cls.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
