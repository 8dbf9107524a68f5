"""VGG-16 fine-tuned from ImageNet weights, all layers: the paper's "FT" victims, one after another.

*Source*: VGG-16's convolutions, global average pooling, a softmax head with the penalty 0.01 * sum(W^2) on its kernel; Adam at
1e-4 (Keras: epsilon 1e-7), batches of 32, 12 epochs. Faces (UTKFace): pixels / 255, no augmentation. CIFAR-10: pixels / 255 -
.5, random shifts of up to 12.5 % of a side and random mirroring.
*Deviations*: shifts are by whole pixels, which repeat the border (Keras interpolates between pixels). On a GPU layers run in
bfloat16 with float32 weights. A row's place in the order and its shift depend on the seed, the epoch and the row alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.features.networks import NETWORKS
from subpop.types import BadInput, FleetJob, Model
from subpop.victims.batched_jobs import Recipe, present_jobs, stacked
from subpop.victims.pictures import check_picture_jobs
from subpop.victims.torch_model import TorchModel

if TYPE_CHECKING:  # torch takes seconds to import, and only training needs it
    from torch import nn

    from subpop.victims.torch_network import ConvClassifier

PENALTY = 0.01
SHIFT = 0.125
FACES: dict[str, Any] = {"offset": 0.0, "augment": False}
CIFAR: dict[str, Any] = {"offset": 0.5, "augment": True}
"""Preprocessing for the two data sets of the paper: `FineTuned(**CIFAR)`."""


class FineTuned:
    """A network of `subpop.features.networks.imagenet`, or an untrained one from words (`pretrained=False`), with a new head.

    offset: subtracted from pixels / 255; augment: random shifts and mirroring. In addition to the models, a batch needs memory
    for one network and the training pictures; each VGG-16 model takes 59 MB.
    """

    exact = False
    one_by_one = True
    """Fleets save nothing."""

    def __init__(
        self,
        body: str = "vgg16",
        *,
        weights_root: Path | None = None,
        pretrained: bool = True,
        offset: float = 0.0,
        augment: bool = False,
        epochs: int = 12,
        learning_rate: float = 1e-4,
        batch_size: int = 32,
        device: str = "cpu",
    ) -> None:
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise BadInput(f"device={device!r} is unknown; use cpu or cuda")
        self.body, self.weights_root, self.pretrained, self.offset, self.augment = body, weights_root, pretrained, offset, augment
        self.epochs, self.learning_rate, self.batch_size = epochs, learning_rate, batch_size
        self.device = device
        self._body: nn.Module | None = None

    def weights_fingerprint(self) -> str:
        """Return a hash of the initial weights, '' without any; raises MissingData if they are not available."""
        if not self.pretrained:
            return ""
        from subpop.features.networks.weights import weights_fingerprint, weights_path

        return weights_fingerprint(weights_path(self.body, self.weights_root))

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one `TorchModel` per job; seeds determine head, batch order and augmentation, not the pretrained weights. Sample
        weights must be 0 or 1."""
        jobs = present_jobs(jobs, seeds)
        check_picture_jobs(jobs)
        if not jobs:
            return []
        from subpop.victims.torch_training import train_on

        self._check_size(jobs[0])
        recipe = Recipe(self.epochs, self.learning_rate, self.batch_size, SHIFT if self.augment else 0.0, self.augment)
        x, places = stacked(jobs)
        models: list[Model] = []
        for job, rows, seed in zip(jobs, places, seeds, strict=True):
            network = self.untrained(job.pool.x.shape[1], job.pool.n_classes, seed)
            trained = train_on(network, x, job.y, rows, recipe=recipe, seed=seed, device=self.device, keys=job.rows)
            models.append(TorchModel(trained, self.device))
        return models

    def untrained(self, channels: int, n_classes: int, seed: int) -> ConvClassifier:
        """The network before its first step: a Glorot uniform head from `seed`, as Keras draws it, on the body."""
        import torch
        from torch import nn

        from subpop.victims.torch_network import ConvClassifier

        body = self._fresh_body(channels, seed)
        width = next(weight for weight in reversed(list(body.parameters())) if weight.ndim == 4).shape[0]
        with torch.device("meta"):
            head = nn.Linear(width, n_classes)
        head.to_empty(device="cpu")
        bound = np.sqrt(6 / (width + n_classes))
        drawn = np.random.default_rng([seed, 0]).uniform(-bound, bound, (n_classes, width))
        with torch.no_grad():
            head.weight.copy_(torch.from_numpy(drawn))
            head.bias.zero_()
        return ConvClassifier(self.body, body, head, self.offset, PENALTY)

    def _fresh_body(self, channels: int, seed: int) -> nn.Module:
        """A copy of the pretrained body, read once; a random one from each seed otherwise."""
        from subpop.victims.torch_network import body_named

        if not self.pretrained:
            return body_named(self.body, channels, seed)
        if self._body is None:
            from subpop.features.networks.imagenet import imagenet_body

            self._body = imagenet_body(self.body, self.weights_root)
        return copy.deepcopy(self._body)

    def _check_size(self, job: FleetJob) -> None:
        shape = job.pool.x.shape[1:]
        smallest = NETWORKS[self.body].smallest if self.body in NETWORKS else 1
        if self.body in NETWORKS and (shape[0] != 3 or min(shape[1:]) < smallest):
            raise BadInput(f"pictures of shape {shape}; {self.body} takes 3 channels and sides of at least {smallest} pixels")
