"""The public name of the net: `alexnet_dist.model.AlexNet()` is the paper's net on one device, defined in nn.model."""

import sys

from alexnet_dist.errors import refuse_to_run
from alexnet_dist.nn.model import AlexNet as AlexNet

if __name__ == "__main__":
    sys.exit(refuse_to_run("alexnet_dist.model", "python -m alexnet_dist.train, or another of python -m alexnet_dist"))
