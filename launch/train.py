"""Train AlexNet, or resume a run: `torchrun --nproc-per-node=2 launch/train.py --config configs/paper.yaml ...`.

The same as `torchrun --nproc-per-node=2 -m alexnet_dist.train`, for a checkout.
"""

from __future__ import annotations

from alexnet_dist.train import run

if __name__ == "__main__":
    run()
