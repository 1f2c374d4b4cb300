"""Garbage collection of a periodic process: full collections only in `collect_if_due`."""

import json
import subprocess
import sys

CODE = """
import gc, json
from nac_ros.core import garbage_collection

class Loop:
    n_deleted = 0
    def __init__(self):
        self.me = self
    def __del__(self):
        Loop.n_deleted += 1

kept = [[k] for k in range(300_000)]  # objects of a process after set-up
collector = garbage_collection.GarbageCollection()
collector.freeze()
frozen, oldest = gc.get_freeze_count(), []
gc.callbacks.append(lambda phase, info: oldest.append(info["generation"]))
for _ in range(100_000):
    held = [[] for _ in range(20)]
motion = 2 in oldest
loops = [Loop() for _ in range(10)]
gc.collect(1)  # moves them to the oldest generation
loops.clear()
collector.collect_if_due()
early = Loop.n_deleted
garbage_collection.EVERY_S = 0.0
collector.collect_if_due()
print(json.dumps([frozen, motion, early, Loop.n_deleted, collector.longest_s]))
"""


def test_old_objects_are_frozen_and_full_collections_run_only_at_rest():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frozen, in_motion, early, late, longest_s = json.loads(done.stdout)
    assert frozen > 300_000
    assert not in_motion, "a full collection ran automatically"
    assert (early, late) == (0, 10)
    assert longest_s > 0
