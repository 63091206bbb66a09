"""The plan: which sample stands in which slot of which global batch, as a pure function.

It reads the shards' sizes, the seed, the epoch, the global batch, lanes and window, and nothing else: not ranks,
workers or restarts. Any number of replicas therefore trains on the same batches, and a run resumes at any step
without decoding or skipping over what came before.

The shards are permuted and laid end to end; slot s of the global batch owns an equal piece of that line; the slots
are grouped into lanes, and windows are shuffled within a lane. A replica that reads a few slots so reads a few
lanes, and touches only its share of the shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from alexnet_dist import rng

Ids = npt.NDArray[np.int64]
Span = tuple[int, int]

# Part of a run's position: a change of any order below needs a new number, or old runs resume into another order.
PLAN_VERSION = 1


@dataclass(frozen=True)
class EpochPlan:
    """The order of one epoch.

    counts: samples of each shard; a sample's id is its position in the shards laid end to end.
    global_batch: samples a step, over all replicas.
    lanes: runs of neighbouring slots that share a piece of the line; at most global_batch of them are used.
    window: samples that are shuffled together within a lane.

    In an epoch, (samples mod global_batch) consecutive ids rest; the next epoch the next ones do, so no sample
    rests twice running, and in the long run all rest equally often. Everything else appears exactly once.
    Raises ValueError where the global batch is larger than the set, or a number is below 1.
    """

    counts: tuple[int, ...]
    seed: int
    epoch: int
    global_batch: int
    lanes: int
    window: int
    _places: Ids = field(init=False, repr=False, compare=False)
    _first_ids: Ids = field(init=False, repr=False, compare=False)
    _windows: dict[int, Ids] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Lay out the epoch: O(shards), 2 ms for ImageNet.

        Windows are shuffled as they are reached: all at once would stop the training for 0.05 s at an epoch's border.
        """
        for name in ("global_batch", "lanes", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name}: {getattr(self, name)}; expected at least 1")
        if self.global_batch > self.samples:
            raise ValueError(
                f"data.global_batch: {self.global_batch} is more than the {self.samples} samples of the set;"
                f" expected at most {self.samples}: lower it, or pack more images"
            )
        places, first_ids = _pieces(self.counts, self.seed, self.epoch, self.global_batch)
        object.__setattr__(self, "_places", places)
        object.__setattr__(self, "_first_ids", first_ids)
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
        """Return [first, end) of a lane's slots: those with slot * used_lanes // global_batch == lane."""
        return -(-lane * self.global_batch // self.used_lanes), -(-(lane + 1) * self.global_batch // self.used_lanes)

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
        lane = slots * self.used_lanes // self.global_batch
        first = -(-lane * self.global_batch // self.used_lanes)
        width = -(-(lane + 1) * self.global_batch // self.used_lanes) - first
        lane_start, lane_end = first * self.batches, (first + width) * self.batches
        places = lane_start + batch * width + slots - first
        starts = places - (places - lane_start) % self.window
        ends = np.minimum(starts + self.window, lane_end)
        ids = np.empty(len(slots), dtype=np.int64)
        for start, end in set(zip(starts.tolist(), ends.tolist(), strict=True)):
            here = starts == start
            ids[here] = self._window(start, end)[places[here] - start]
        return ids

    def _window(self, start: int, end: int) -> Ids:
        """Return the ids that stand at the places [start, end) of the line, which are shuffled together."""
        if start not in self._windows:
            places = np.arange(start, end, dtype=np.int64)
            piece = np.searchsorted(self._places, places, side="right") - 1
            ids = self._first_ids[piece] + places - self._places[piece]
            self._windows[start] = ids[rng.permutation(len(ids), self.seed, self.epoch, "window", start)]
        return self._windows[start]


def _pieces(counts: tuple[int, ...], seed: int, epoch: int, global_batch: int) -> tuple[Ids, Ids]:
    """Return the line of the ids that do not rest, shard after shard in the epoch's order of shards.

    It is given as runs of ids one after the other: the place on the line where each run begins, and its first id.
    """
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    samples = ends[-1]
    resting = samples % global_batch
    # The set as a circle: the resting ids move on by their own number each epoch, from a seeded start.
    first = (rng.seed64(seed, "rest") + epoch * resting) % samples
    gaps = ((0, first + resting - samples), (first, min(first + resting, samples)))
    places, first_ids, place = [], [], 0
    for shard in rng.permutation(len(counts), seed, epoch, "shards").tolist():
        for begin, end in _without(ends[shard] - counts[shard], ends[shard], gaps):
            places.append(place)
            first_ids.append(begin)
            place += end - begin
    return np.array(places, dtype=np.int64), np.array(first_ids, dtype=np.int64)


def _without(first: int, end: int, gaps: tuple[Span, ...]) -> Iterator[Span]:
    """Yield what is left of [first, end) without the gaps, which are in order; a gap that ends early is none."""
    for gap_first, gap_end in gaps:
        if gap_first < min(end, gap_end) and gap_end > first:
            if gap_first > first:
                yield first, gap_first
            first = gap_end
    if first < end:
        yield first, end


def replica_slots(replica: int, replicas: int, global_batch: int) -> Span:
    """Return [first, end) of the global batch's slots that a replica trains on; replicas need not divide it."""
    return replica * global_batch // replicas, (replica + 1) * global_batch // replicas


def lanes_of(first: int, end: int, global_batch: int, lanes: int) -> int:
    """Return how many lanes the slots [first, end) of the global batch are in."""
    used = min(lanes, global_batch)
    return (end - 1) * used // global_batch - first * used // global_batch + 1 if first < end else 0


def tower_half(tower: int, first: int, end: int) -> Span:
    """Return the part of slots [first, end) that a tower decodes; tower 0 has the smaller half of an odd number."""
    slots = end - first
    return first + tower * slots // 2, first + (tower + 1) * slots // 2


def micro_batch(index: int, count: int, first: int, end: int) -> Span:
    """Return micro-batch `index` of the `count` that a replica's slots [first, end) are accumulated in."""
    slots = end - first
    return first + index * slots // count, first + (index + 1) * slots // count


def validation_steps(images: int, replicas: int, rows: int) -> int:
    """Return the validation steps, the same for every rank, with `rows` rows a replica and step."""
    spans = [_validation_span(replica, replicas, images) for replica in range(replicas)]
    return -(-max(end - first for first, end in spans) // rows)


def validation_ids(step: int, replica: int, replicas: int, images: int, rows: int) -> Ids:
    """Return the int64 (rows,) ids that a replica validates in a step; -1 is an empty row, to be left out.

    Over all steps and replicas each image stands exactly once.
    """
    first, end = _validation_span(replica, replicas, images)
    ids = np.arange(first + step * rows, first + (step + 1) * rows, dtype=np.int64)
    return np.where(ids < end, ids, -1)


def _validation_span(replica: int, replicas: int, images: int) -> Span:
    return replica * images // replicas, (replica + 1) * images // replicas
