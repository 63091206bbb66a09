"""The hash of a checkpoint's manifest: a changed bit in it is seen, and a manifest without a hash is an earlier one."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from alexnet_dist.runs import checkpoint

STATE = {"evaluated_step": 2, "progress": {"drops": 1, "best_error": 0.1}, "time_s": 1.5}


def test_a_flipped_bit_anywhere_in_a_manifest_is_seen(tmp_path: Path) -> None:
    for tower in (0, 1):
        checkpoint.write_tower(tmp_path, 7, tower, {"weight": torch.zeros(2)})
    checkpoint.commit(tmp_path, 7, STATE)
    path = tmp_path / "step-00000007" / checkpoint.MANIFEST
    content, whole = path.read_bytes(), checkpoint.find(tmp_path)[0]
    assert whole is not None
    for at in random.Random(0).sample(range(len(content)), 300):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        found, complaints = checkpoint.find(tmp_path)
        if found is None:
            assert len(complaints) == 1
        else:  # in a blank, or in the name of the hash
            assert {key: found.state[key] for key in whole.state} == whole.state
    manifest = json.loads(content)
    del manifest[checkpoint.OWN_HASH]
    path.write_text(json.dumps(manifest))
    found, complaints = checkpoint.find(tmp_path)
    assert (found is not None, complaints) == (True, [])
    path.write_text("[" * 100_000)
    found, complaints = checkpoint.find(tmp_path)
    assert (found, len(complaints)) == (None, 1)
