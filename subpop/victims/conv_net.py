"""A small convolutional network for small pictures, trained in batches of networks.

*Source*: our own, after the paper's picture victims: pixels / 255 - .5, 3x3 convolutions of stride 2 with ReLU, global average
pooling and a softmax head with the penalty 0.01 * sum(W^2) on its kernel; Adam, batches of 32, 12 epochs, no early stopping.
Pictures of 8 pixels per side have 2 convolutions, of 16 three, of 32 and more four; outputs are `width` * (1, 2, 4, 4).
*Deviations*: the paper's small CIFAR-10 network has more convolutions, without stride, and would cost many times as much. The
learning rate is 3e-3 (there 1e-3), which in 12 epochs from random weights gives better clean accuracy; chosen by that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from subpop.runtime.threads import on_cores
from subpop.types import Array, BadInput, FleetJob, Floats, Ints, Model
from subpop.types.roles import Trainable
from subpop.victims.batched_jobs import Batches, Recipe, present_jobs, stacked
from subpop.victims.pictures import check_picture_jobs
from subpop.victims.torch_model import TorchModel

if TYPE_CHECKING:  # torch takes seconds to import, and only training needs it
    from torch import Tensor

    from subpop.victims.conv_fleet import Shape, Task

BATCH_SIZE, EPOCHS = 32, 12
LEARNING_RATE, PENALTY, OFFSET = 3e-3, 0.01, 0.5
FACTORS = (1, 2, 4, 4)
SMALLEST = 8
BUDGETS = {"cpu": 4 << 20, "cuda": 4 << 30}
"""Memory of the networks that are trained together; on a CPU about one core's share of the cache. Constant, because it
determines the chunks of a fleet."""


class ConvNet:
    """A victim with `width` outputs of the first convolution; device: "cpu", or "cuda" (also "cuda:1")."""

    exact = False
    offset, penalty = OFFSET, PENALTY

    def __init__(self, width: int = 16, epochs: int = EPOCHS, device: str = "cpu") -> None:
        for name, value in (("width", width), ("epochs", epochs)):
            if value < 1:
                raise BadInput(f"{name}={value}; it must be at least 1")
        if device.split(":")[0] not in BUDGETS:
            raise BadInput(f"device={device!r} is unknown; use cpu or cuda")
        self.width, self.epochs, self.device = width, epochs, device

    def fit_many(self, jobs: Sequence[FleetJob], seeds: Sequence[int]) -> list[Model]:
        """Train one `TorchModel` per job. Weights must be 0 or 1; raises BadInput for others, for several pools and for inputs
        that are not uint8 pictures."""
        jobs = present_jobs(jobs, seeds)
        check_picture_jobs(jobs)
        if not jobs:
            return []
        from subpop.victims.conv_fleet import AdamStep, train

        shape, recipe = self._shape(jobs[0]), AdamStep(LEARNING_RATE, PENALTY, low_precision=self.device != "cpu")
        x, rows = stacked(jobs)
        pictures = _on_device(x, self.device)

        def fleet(chunk: slice) -> list[Model]:
            tasks = [self._task(*each, shape) for each in zip(jobs[chunk], rows[chunk], seeds[chunk], strict=True)]
            return [self.model_of(weights, shape) for weights in train(pictures, tasks, shape, recipe)]

        chunks = list(self._chunks(jobs, shape))
        with on_cores(len(chunks), self.device == "cpu") as mapped:
            return [model for models in mapped(fleet, chunks) for model in models]

    def _shape(self, job: FleetJob) -> Shape:
        return self.shape_of(job.pool.x.shape[1:], job.pool.n_classes)

    def trainable(self, seed: int) -> Trainable:
        """The recipe of the victim of a trial, for defenses that train it themselves."""
        from subpop.victims.stepwise import ConvSteps

        return ConvSteps(Recipe(self.epochs, LEARNING_RATE, BATCH_SIZE), seed, self)

    def shape_of(self, picture: tuple[int, ...], n_classes: int) -> Shape:
        """The network for pictures of a shape, (channels, height, width)."""
        from subpop.victims.conv_fleet import Shape

        channels, height, width = picture
        side = min(height, width)
        if side < SMALLEST:
            raise BadInput(f"pictures of {height}x{width} pixels are too small; give at least {SMALLEST}x{SMALLEST}")
        depth = min(len(FACTORS), side.bit_length() - 2)
        return Shape((height, width, channels), tuple(self.width * factor for factor in FACTORS[:depth]), n_classes)

    def _chunks(self, jobs: Sequence[FleetJob], shape: Shape) -> Iterator[slice]:
        """Split the jobs, in order, so that each chunk fits into the budget."""
        tables = 8 * self.epochs * (max(len(job) for job in jobs) + BATCH_SIZE)
        each = shape.bytes(BATCH_SIZE) + (tables if self.device != "cpu" else 0)
        size = max(1, BUDGETS[self.device.split(":")[0]] // each)
        for start in range(0, len(jobs), size):
            yield slice(start, min(start + size, len(jobs)))

    def _task(self, job: FleetJob, rows: Ints, seed: int, shape: Shape) -> Task:
        from subpop.victims.conv_fleet import Task

        return Task(Batches.of(job.rows, rows, job.y, seed, self.epochs, BATCH_SIZE), initial(seed, shape))

    def start(self, seed: int, shape: Shape) -> Floats:
        """(P,) parameters before training."""
        return initial(seed, shape)

    def model_of(self, weights: Floats, shape: Shape) -> TorchModel:
        """The model with (P,) parameters; raises BadInput if they are not finite."""
        from subpop.victims.torch_network import of_state

        if not np.isfinite(weights).all():
            raise BadInput("training a convolutional network diverged; check the pictures for a constant value")
        return TorchModel(of_state(network_state(weights, shape)), self.device)


def _on_device(x: Array, device: str) -> Tensor:
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"device={device!r}, but torch sees no GPU here; give device='cpu'")
    return torch.from_numpy(np.array(x.transpose(0, 2, 3, 1), order="C")).to(device)


def initial(seed: int, shape: Shape) -> Floats:
    """(P,) parameters drawn from `seed` alone: He uniform kernels, a Glorot uniform head, biases 0."""
    rng, parts = np.random.default_rng([seed, 0]), []
    for place, (inputs, outputs) in enumerate(shape.parts):
        fans = inputs + outputs if place == len(shape.widths) else inputs
        bound = np.sqrt(6 / fans)
        parts += [rng.uniform(-bound, bound, inputs * outputs), np.zeros(outputs)]
    return np.concatenate(parts).astype(np.float32)


def network_state(weights: Floats, shape: Shape) -> dict[str, Array]:
    """Return the batch's (P,) parameters as the state of a `ConvClassifier`."""
    state: dict[str, Array] = {
        "body": np.array(" ".join(f"{width}/2" for width in shape.widths)),
        "numbers": np.array([OFFSET, PENALTY]),
        "network.keep": np.ones(shape.widths[-1], np.float32),
    }
    at = 0
    for place, (inputs, outputs) in enumerate(shape.parts):
        kernel: Array = weights[at : at + inputs * outputs].reshape(inputs, outputs)
        at += inputs * outputs + outputs
        if place < len(shape.widths):
            name, own = f"body.layers.{2 * place}", kernel.reshape(3, 3, inputs // 9, outputs).transpose(3, 2, 0, 1)
        else:
            name, own = "head", kernel.T
        state |= {f"network.{name}.weight": own, f"network.{name}.bias": weights[at - outputs : at]}
    return state
