"""The public name of the net: `alexnet_dist.model.AlexNet()` is the paper's net on one device, defined in `nn.model`."""

from alexnet_dist.nn.model import AlexNet as AlexNet
