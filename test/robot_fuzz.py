"""Runs the guard on damaged robot files, in a process with limits; see test_robot_fuzz.

`python robot_fuzz.py FOLDER SEED CASES` prints the counts as JSON and ends with 1 at a failure.
"""

import copy
import json
import random
import resource
import signal
import sys
from pathlib import Path

import numpy as np
import yaml

from nac_ros.control.guard import Guard
from nac_ros.core.config import config_dir
from nac_ros.core.errors import NacError
from nac_ros.core.types import ActionChunk
from nac_ros.robot.spec import load_robot

CASE_S, MEMORY = 10, 1 << 30
NUMBERS = (
    0,
    -1,
    1,
    2,
    0.5,
    -0.0,
    1e-300,
    1e300,
    -1e300,
    1e9,
    1e-9,
    float("nan"),
    float("inf"),
    10**400,
    -(10**400),
    0.1,
    20.0,
    100.0,
    1000.0,
    3,
    64,
)
TEXTS = (
    "",
    "a",
    "waist",
    "base",
    "a b//c",
    "../x",
    "/abs",
    "x\n[FATAL] y",
    "\x00",
    "\u202e",
    "x" * 300,
    "a" * 100_000,
    "rad",
    "1e5",
    "é",
    "jtc",
)
OTHERS = (None, True, [], {}, [[]], [1, 2, 3], {"a": 1}, [0.0, 0.0, 0.0])
SNIPPETS = (
    b"!!python/object/apply:os.system ['touch executed']",
    b"&a ",
    b"*a ",
    b"<<: *a\n",
    b"{",
    b"[",
    b"}",
    b"]",
    b"- ",
    b": ",
    b"\n",
    b"\t",
    b"\x00",
    b"\xff",
    b"#",
    b"'",
    b'"',
    b"---\n",
    b"%TAG ! x\n",
    b"&b [*b]",
    b"1e999",
    b".nan",
    b"-.inf",
    b"0400",
    b"1:30",
    b"2001-99-99",
    b"!!int x",
    b"!!float y",
    b"!!timestamp z",
    b"!!binary ?",
    b"9" * 5000,
    b"[" * 300,
    b"? ",
    b"| ",
    b"> ",
    b"!!set {a}",
)


def paths(value, path=()):
    """The paths of all fields."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, item in items:
        yield from paths(item, (*path, key))


def change_field(rng, content):
    """Replaces, scales or removes one field, or duplicates a list element."""
    path = rng.choice([path for path in paths(content) if path])
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    key, way = path[-1], rng.random()
    number = isinstance(owner[key], (int, float)) and not isinstance(owner[key], bool)
    if way < 0.4 and number:
        owner[key] *= rng.choice([0.1, 0.5, 0.9, 1.1, 2, 10, -1, 1e6, rng.uniform(0, 3)])
    elif way < 0.75:
        pools = (NUMBERS, TEXTS, OTHERS)
        owner[key] = rng.choice(NUMBERS if number else rng.choice(pools))
    elif way < 0.85:
        del owner[key]
    elif isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), copy.deepcopy(rng.choice(owner)))
        rng.random() < 0.5 and rng.shuffle(owner)
    else:
        owner[rng.choice(TEXTS)] = owner[key]


def change_bytes(rng, text):
    """Flips, removes, repeats or inserts bytes."""
    at, length = rng.randrange(len(text)), rng.choice([1, 1, 2, 8, 64, 400])
    way = rng.random()
    if way < 0.3:
        return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]
    if way < 0.5:
        return text[:at] + text[at + length :]
    if way < 0.65:
        return text[:at] + text[at : at + length] * rng.choice([2, 3, 1000]) + text[at + length :]
    return text[:at] + rng.choice(SNIPPETS) + text[at:]


def damaged(rng, text):
    """One to three changes."""
    if rng.random() < 0.6:
        content = yaml.safe_load(text)
        for _ in range(rng.choice([1, 1, 2, 3])):
            change_field(rng, content)
        return yaml.safe_dump(content).encode()
    for _ in range(rng.choice([1, 1, 2, 3])):
        text = change_bytes(rng, text)
    return text


def drive(spec):
    """Runs a policy that moves every joint a little for 1 s; asserts finite set-points."""
    guard, now, home = Guard(spec), 100.0, spec.home
    guard.update_joint_state(now, home)
    guard.tick(now)
    guard.set_mode("policy")
    steps = 0.2 * spec.velocity_limit / spec.action_rate_hz
    way = np.where(home < (spec.position_low + spec.position_high) / 2, steps, -steps)
    actions = (home + way * np.arange(1, 33)[:, None]).astype(np.float32)
    names = spec.joint_names
    guard.accept(ActionChunk(now, spec.action_rate_hz, names, actions, np.empty(0, np.int64)), now)
    for _ in range(round(min(spec.guard_rate_hz, 200))):
        now += guard.period
        guard.update_joint_state(now, guard.setpoint)
        for tick in guard.tick(now):
            assert np.isfinite(tick.positions).all() and np.isfinite(tick.velocities).all(), tick
    assert spec.home.dtype == np.float64 and np.isfinite(guard.setpoint).all()


def main(folder, seed, cases):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    texts = [path.read_bytes() for path in sorted((config_dir() / "robots").glob("*.yaml"))]
    rng, counts = random.Random(seed), {"accepted": 0, "rejected": 0}
    for case in range(cases):
        path = folder / "robot.yaml"
        path.write_bytes(damaged(rng, rng.choice(texts)))
        signal.alarm(CASE_S)  # ends the process
        try:
            spec = load_robot(path)
        except NacError as error:
            message = str(error)
            assert message.isprintable() and len(message) < 1500, (case, message[:2000])
            counts["rejected"] += 1
        else:
            drive(spec)
            counts["accepted"] += 1
        signal.alarm(0)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
