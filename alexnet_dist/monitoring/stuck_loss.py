"""Whether a net has begun to learn: a loss that stays at ln(classes) is that of equal probabilities for all classes.

The paper's net begins there and stays for a while. Users of its Caffe versions saw 6.9 for up to 8,000 steps of 256
images, 1.6 epochs of ImageNet, before the loss fell; on small sets it falls within 2,000 steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

PATIENCE_EPOCHS, PATIENCE_STEPS = 2, 2000  # whichever is later
# The loss has moved once its mean is a fiftieth below ln(classes). Single batches differ by more, so the mean is over
# about as many of the logged ones.
MOVED, LOGGED = 0.98, 20


@dataclass(frozen=True)
class LossWatch:
    """What has been seen of a start's losses; over: whether there is nothing more to say.

    mean: exponential, of the logged losses; None before the first.
    """

    classes: int
    steps_per_epoch: int
    mean: float | None = None
    logged: int = 0
    over: bool = False

    @property
    def patience_steps(self) -> int:
        """The step up to which a loss at ln(classes) is no reason to worry."""
        return max(PATIENCE_STEPS, PATIENCE_EPOCHS * self.steps_per_epoch)


def watched(watch: LossWatch, step: int, loss: float) -> tuple[LossWatch, bool]:
    """Return the watch after the loss of a step, and whether to say now that the loss has not moved, once."""
    if watch.over:
        return watch, False
    logged = watch.logged + 1
    mean = loss if watch.mean is None else watch.mean + (loss - watch.mean) / min(logged, LOGGED)
    has_moved = logged >= LOGGED and mean < MOVED * math.log(watch.classes)
    is_near = mean <= (2 - MOVED) * math.log(watch.classes)  # a loss above that is no sign of equal probabilities
    is_stuck = logged >= LOGGED and step >= watch.patience_steps and is_near and not has_moved
    return replace(watch, mean=mean, logged=logged, over=has_moved or is_stuck), is_stuck


def stuck_sentence(classes: int, step: int, learning_rate: float) -> str:
    """Return what a loss that has not moved means, and what to look at."""
    return (
        f"the loss has not moved from ln({classes:,}) = {math.log(classes):.2f} in {step:,} steps: the net still gives"
        " all classes the same probability. Look at the labels and pictures (python -m alexnet_dist.show), at the"
        f" learning rate ({learning_rate:g}; the paper begins with 0.01 at a batch of 128), and at model.input_scale,"
        " init_std and init_bias (the paper's are for pixels of 0 to 255)"
    )
