"""The epoch plan: which sample is in which slot of which global batch, as a pure function.

A slot is a sample's position in its global batch, 0 to global_batch - 1. The plan depends on the shards' sizes, the
seed, the epoch, the global batch, lanes and window, and not on ranks, workers or restarts. Any number of replicas
therefore trains on the same batches, and a run resumes at any step without decoding or skipping earlier samples.

The shards are permuted and concatenated into one sequence, and each slot of the global batch owns an equal part of it.
A lane is a group of adjacent slots; a window is a number of consecutive samples of a lane that are shuffled together.
A replica reads a few adjacent slots, so it reads a few lanes, and only its share of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from alexnet_dist.system import rng

Ids = npt.NDArray[np.int64]
Span = tuple[int, int]  # [first, end)
Numbers = TypeVar("Numbers", int, Ids)

# Part of a run's position: raise it with any change to the order of samples, or old runs resume into another order.
PLAN_VERSION = 1


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch.

    counts: samples of each shard; a sample's id is its position in the concatenated shards.
    global_batch: samples per step, over all replicas.
    lanes: groups of adjacent slots that share a part of the sequence; at most global_batch of them are used.
    window: samples that are shuffled together within a lane.

    An epoch omits (samples mod global_batch) consecutive ids, and the next epoch omits the ids that follow. No sample
    is omitted twice in a row, and all are omitted equally often in the long run. Every other sample appears once.
    Raises ValueError if the global batch is larger than the set, or a number is below 1.
    """

    counts: tuple[int, ...]
    seed: int
    epoch: int
    global_batch: int
    lanes: int
    window: int
    _segment_positions: Ids = field(init=False, repr=False, compare=False)
    _segment_first_ids: Ids = field(init=False, repr=False, compare=False)
    _windows: dict[int, Ids] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compute the sequence of the epoch: O(shards), 2 ms for ImageNet.

        Windows are shuffled when they are first read: all at once would stop training for 0.05 s between epochs.
        """
        for name in ("global_batch", "lanes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}: {getattr(self, name)}; expected at least 1")
        if self.global_batch > self.samples:
            raise ValueError(
                f"data.global_batch: {self.global_batch} is more than the {self.samples} samples of the set;"
                f" expected at most {self.samples}: lower it, or pack more images"
            )
        positions, first_ids = _segments(self.counts, self.seed, self.epoch, self.global_batch)
        object.__setattr__(self, "_segment_positions", positions)
        object.__setattr__(self, "_segment_first_ids", first_ids)
        object.__setattr__(self, "_windows", {})

    @property
    def samples(self) -> int:
        """Samples of the set."""
        return sum(self.counts)

    @property
    def batches(self) -> int:
        """Global batches of an epoch."""
        return self.samples // self.global_batch

    @property
    def used_lanes(self) -> int:
        """Lanes that have slots."""
        return min(self.lanes, self.global_batch)

    def lane_slots(self, lane: int) -> Span:
        """Return [first, end) of a lane's slots."""
        return self._first_slot(lane), self._first_slot(lane + 1)

    def _first_slot(self, lane: Numbers) -> Numbers:
        """Return the lowest slot that _lane_of assigns to a lane."""
        return -(-lane * self.global_batch // self.used_lanes)

    def sample_ids(self, batch: int, first_slot: int, end_slot: int) -> Ids:
        """Return the int64 ids of the slots [first_slot, end_slot) of one global batch of the epoch.

        Raises IndexError for a batch or slot that the epoch does not have.
        """
        if not (0 <= batch < self.batches and 0 <= first_slot <= end_slot <= self.global_batch):
            raise IndexError(
                f"batch {batch}, slots [{first_slot}, {end_slot}): the epoch has {self.batches} batches"
                f" of {self.global_batch} slots"
            )
        slots = np.arange(first_slot, end_slot, dtype=np.int64)
        lanes = _lane_of(slots, self.global_batch, self.lanes)
        first, end = self._first_slot(lanes), self._first_slot(lanes + 1)
        lane_start, lane_end = first * self.batches, end * self.batches
        positions = lane_start + batch * (end - first) + slots - first
        starts = positions - (positions - lane_start) % self.window
        ends = np.minimum(starts + self.window, lane_end)
        ids = np.empty(len(slots), dtype=np.int64)
        for window_start, window_end in set(zip(starts.tolist(), ends.tolist(), strict=True)):
            in_window = starts == window_start
            ids[in_window] = self._window(window_start, window_end)[positions[in_window] - window_start]
        return ids

    def _window(self, start: int, end: int) -> Ids:
        """Return the shuffled ids of the window at the positions [start, end) of the sequence."""
        if start not in self._windows:
            positions = np.arange(start, end, dtype=np.int64)
            segment = np.searchsorted(self._segment_positions, positions, side="right") - 1
            ids = self._segment_first_ids[segment] + positions - self._segment_positions[segment]
            self._windows[start] = ids[rng.permutation(len(ids), self.seed, self.epoch, "window", start)]
        return self._windows[start]


def _segments(counts: tuple[int, ...], seed: int, epoch: int, global_batch: int) -> tuple[Ids, Ids]:
    """Return the epoch's sequence of ids before windows are shuffled, as segments of consecutive ids.

    The sequence has the shards in the epoch's order, without the omitted ids. Returns the position in the sequence at
    which each segment starts, and its first id.
    """
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    samples = ends[-1]
    omitted = samples % global_batch
    # The omitted ids advance by their number each epoch, from a seeded start, and wrap around at the end of the set.
    first = (rng.seed64(seed, "rest") + epoch * omitted) % samples
    gaps = ((0, first + omitted - samples), (first, min(first + omitted, samples)))
    positions, first_ids, position = [], [], 0
    for shard in rng.permutation(len(counts), seed, epoch, "shards").tolist():
        for segment_first, segment_end in _without(ends[shard] - counts[shard], ends[shard], gaps):
            positions.append(position)
            first_ids.append(segment_first)
            position += segment_end - segment_first
    return np.array(positions, dtype=np.int64), np.array(first_ids, dtype=np.int64)


def _without(first: int, end: int, gaps: tuple[Span, ...]) -> Iterator[Span]:
    """Yield the parts of [first, end) outside the gaps; gaps are in ascending order, and empty if end <= first."""
    for gap_first, gap_end in gaps:
        if gap_first < min(end, gap_end) and gap_end > first:
            if gap_first > first:
                yield first, gap_first
            first = gap_end
    if first < end:
        yield first, end


def _lane_of(slot: Numbers, global_batch: int, lanes: int) -> Numbers:
    """Return the lane of a slot, or of an array of slots; lanes: as configured, of which global_batch have slots."""
    return slot * min(lanes, global_batch) // global_batch


def lanes_of(first: int, end: int, global_batch: int, lanes: int) -> int:
    """Return the number of lanes that contain slots [first, end) of the global batch."""
    return _lane_of(end - 1, global_batch, lanes) - _lane_of(first, global_batch, lanes) + 1 if first < end else 0


def part_of(index: int, count: int, first: int, end: int) -> Span:
    """Return part `index` of [first, end) divided into `count` consecutive parts whose sizes differ by at most one."""
    size = end - first
    return first + index * size // count, first + (index + 1) * size // count


def replica_slots(replica: int, replicas: int, global_batch: int) -> Span:
    """Return [first, end) of a replica's slots; the number of replicas need not divide the global batch."""
    return part_of(replica, replicas, 0, global_batch)


def micro_batch(index: int, count: int, first: int, end: int) -> Span:
    """Return the slots of micro-batch `index` of the `count` into which a replica's slots [first, end) are divided."""
    return part_of(index, count, first, end)


def tower_half(tower: int, first: int, end: int) -> Span:
    """Return the half of slots [first, end) that a tower decodes; tower 0 has the smaller half of an odd number."""
    return part_of(tower, 2, first, end)


def validation_steps(images: int, replicas: int, rows: int) -> int:
    """Return the number of validation steps, the same for every rank, at `rows` rows per replica and step."""
    spans = [part_of(replica, replicas, 0, images) for replica in range(replicas)]
    return -(-max(end - first for first, end in spans) // rows)


def validation_ids(step: int, replica: int, replicas: int, images: int, rows: int) -> Ids:
    """Return the int64 (rows,) ids that a replica validates in a step; -1 marks an empty row, which is not scored.

    Over all steps and replicas each image appears exactly once.
    """
    first, end = part_of(replica, replicas, 0, images)
    ids = np.arange(first + step * rows, first + (step + 1) * rows, dtype=np.int64)
    return np.where(ids < end, ids, -1)
