"""A run plan that several tests use."""

from __future__ import annotations

from alexnet_dist.training.run_plan import RunPlan

PLAIN = RunPlan(
    counts=(7, 1, 12),
    seed=3,
    global_batch=6,
    lanes=2,
    window=4,
    accumulate=2,
    steps=8,
    validation_images=7,
    validation_rows=2,
    evaluate_every=1,
)
