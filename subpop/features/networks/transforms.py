"""What pixels become before a network sees them: an object of its own, because one network is used with several transforms.

The paper's VGG-16 sees faces as x / 255 and CIFAR-10 as x / 255 - .5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from subpop.types import Array

if TYPE_CHECKING:
    import torch

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class InputTransform:
    """Preprocessing of pixels: (x / 255 - mean) / deviation, per channel R, G, B.

    size: pictures of another size are first resized to size x size, bilinearly with antialiasing (non-square ones are
    stretched); None for no resizing.
    """

    mean: Triple = (0.0, 0.0, 0.0)
    deviation: Triple = (1.0, 1.0, 1.0)
    size: int | None = None

    def __call__(self, pixels: Array | torch.Tensor, device: str = "cpu") -> torch.Tensor:
        """(n, 3, h, w) pixels in 0..255, uint8 or float, to float32 of the same layout, channels last in memory."""
        import torch

        # numpy arrays are copied: torch must not receive read-only memory such as a data set's.
        given = pixels if isinstance(pixels, torch.Tensor) else torch.from_numpy(np.array(pixels))
        x = given.to(device).to(torch.float32, memory_format=torch.channels_last)
        if self.size is not None and tuple(x.shape[2:]) != (self.size, self.size):
            x = torch.nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", align_corners=False, antialias=True)
        mean, deviation = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.deviation))
        return (x / 255 - mean) / deviation


HALF: Triple = (0.5, 0.5, 0.5)
UNIT = InputTransform()
"""[0, 1]: VGG-16 on faces."""
CENTRED = InputTransform(mean=HALF)
"""[-.5, .5]: VGG-16 on CIFAR-10."""
SIGNED = InputTransform(mean=HALF, deviation=HALF, size=299)
"""[-1, 1] at 299x299: Inception-v3."""
IMAGENET = InputTransform(mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
"""ImageNet's mean and deviation, with which torchvision's ResNet-50 was trained."""
IMAGENET_32 = InputTransform(IMAGENET.mean, IMAGENET.deviation, size=32)
"""The same at 32x32, with which the CIFAR-10 networks were trained."""
