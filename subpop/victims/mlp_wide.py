"""A fleet of MLP victims as one wide network, for GPUs: all networks take each step together.

Start, batch orders and stopping rule are those of the CPU kernel; sums run in another order, so weights agree to rounding at
first and in distribution later. The device is waited for once in a block of epochs, where networks that are done leave the fleet.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import joblib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from subpop.types import BadInput, Floats
from subpop.victims import mlp_recipe as recipe
from subpop.victims.mlp_recipe import Parameters, Task, Trained

_BUDGET = 2 << 30
"""Bytes that the networks trained together may take. Fixed: a limit that followed free memory would change results' bits."""
_BLOCK = 8
"""Epochs whose batch orders are made at a time, while the device is busy with the block before."""


def train(x: Floats, tasks: Sequence[Task], max_epochs: int, device: str) -> list[Trained]:
    """Train every task on rows of x (N, d), as many at a time as the memory budget allows."""
    if device != "cpu" and not torch.cuda.is_available():
        raise BadInput(f"device={device!r}, but torch sees no GPU here; give device='cpu'")
    rows = torch.tensor(x, device=device)
    size = max(1, _BUDGET // max(_bytes(task) for task in tasks))
    chunks = [tasks[start : start + size] for start in range(0, len(tasks), size)]
    return [trained for chunk in chunks for trained in _train_chunk(rows, chunk, max_epochs)]


def _bytes(task: Task) -> int:
    inputs, hidden = task.start.w1.shape
    k = len(task.start.b2)
    batch = recipe.BATCH_SIZE * (2 * inputs + 5 * hidden + 5 * k)
    return int(4 * (batch + 6 * (inputs + k + 1) * (hidden + 1) + len(task) * (8 + 2 * _BLOCK)))


def _train_chunk(x: Tensor, tasks: Sequence[Task], max_epochs: int) -> list[Trained]:
    fleet, results = Fleet(x, tasks), dict[int, Trained]()
    with ThreadPoolExecutor(joblib.cpu_count()) as pool:

        def prepare(first: int) -> dict[int, Future[NDArray[np.int32]]]:
            count = min(_BLOCK, max_epochs - first)
            return {i: pool.submit(tasks[i].order.epochs, first, count) for i in fleet.members} if count > 0 else {}

        ahead = prepare(0)
        for first in range(0, max_epochs, _BLOCK):
            here, ahead = ahead, prepare(first + _BLOCK)
            fleet.train_block([here[i].result() for i in fleet.members])
            running = fleet.running.flatten().tolist()
            if not any(running):
                break
            if 2 * sum(running) <= len(running):
                results |= fleet.drop_finished()
    return [trained for _, trained in sorted((results | fleet.results()).items())]


class Fleet:
    """Networks stacked along the first axis of every tensor; `members` are their places among the tasks.

    weights: (M, P), each [w1 (d, hidden) | w2 (k, hidden) | b1 | b2]; rows, labels: (M, n) padded; per-network numbers: (M, 1).
    """

    def __init__(self, x: Tensor, tasks: Sequence[Task]) -> None:
        self.x, self.members = x, list(range(len(tasks)))
        (self.inputs, self.hidden), self.k = tasks[0].start.w1.shape, len(tasks[0].start.b2)
        self.penalised = (self.inputs + self.k) * self.hidden
        self.weights = self._tensor(np.stack([_flat(task.start) for task in tasks]))
        self.mean, self.square = torch.zeros_like(self.weights), torch.zeros_like(self.weights)
        self.sizes = self._tensor(np.array([[len(task)] for task in tasks]))
        self.rows = self._tensor(_padded([task.rows for task in tasks]))
        self.labels = self._tensor(_padded([task.labels.astype(np.int64) for task in tasks]))
        nothing = torch.zeros(len(tasks), 1, dtype=torch.float64, device=x.device)
        self.steps, self.epochs, self.stale, self.loss = (nothing.clone() for _ in range(4))
        self.best, self.running = nothing + float("inf"), nothing == 0

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.x.device)

    def train_block(self, orders: Sequence[NDArray[np.int32]]) -> None:
        """Train through the epochs of `orders`, a (epochs, n) array for each network."""
        stacked = self._tensor(np.stack([_padded(list(epoch)) for epoch in zip(*orders, strict=True)]))
        for order in stacked:
            chosen = order.long()
            rows, labels = self.rows.gather(1, chosen), self.labels.gather(1, chosen)
            loss = torch.zeros_like(self.loss)
            for start in range(0, rows.shape[1], recipe.BATCH_SIZE):
                batch = slice(start, start + recipe.BATCH_SIZE)
                loss += self._step(rows[:, batch], labels[:, batch], (self.sizes - start).clamp(0, recipe.BATCH_SIZE))
            self.note_epoch(loss / self.sizes)

    def _step(self, rows: Tensor, labels: Tensor, count: Tensor) -> Tensor:
        """One step of every network that runs and has rows left: count (M, 1) of rows (M, B); (M, 1) summed losses."""
        x = self.x[rows]
        w1, w2, b1, b2 = self._parameters()
        units = torch.baddbmm(b1[:, None], x, w1)
        active = units.relu()
        present = torch.arange(rows.shape[1], device=rows.device) < count
        errors, loss = _errors(torch.baddbmm(b2[:, None], active, w2.mT), labels, present)
        loss += (0.5 * recipe.PENALTY) * self.weights[:, : self.penalised].square().sum(1, keepdim=True) * (count > 0)
        back = torch.bmm(errors, w2) * (units > 0)
        parts = [torch.bmm(x.mT, back).flatten(1), torch.bmm(errors.mT, active).flatten(1), back.sum(1), errors.sum(1)]
        self._adam(torch.cat(parts, 1), count)
        return loss

    def _adam(self, gradient: Tensor, count: Tensor) -> None:
        live = (self.running & (count > 0)).double()
        gradient[:, : self.penalised] += recipe.PENALTY * self.weights[:, : self.penalised]
        gradient /= count.clamp(min=1)
        self.steps += live
        self.mean.lerp_(gradient, ((1 - recipe.BETA_1) * live).float())
        self.square.lerp_(gradient.square(), ((1 - recipe.BETA_2) * live).float())
        done = self.steps.clamp(min=1)
        rate = recipe.LEARNING_RATE * live * (1 - recipe.BETA_2**done).sqrt() / (1 - recipe.BETA_1**done)
        self.weights -= rate.float() * self.mean / (self.square.sqrt() + recipe.EPSILON)

    def note_epoch(self, loss: Tensor) -> None:
        """Record (M, 1) epoch losses; networks that should stop no longer run."""
        self.stale = torch.where(loss > self.best - recipe.TOLERANCE, self.stale + 1, 0)
        self.best = torch.minimum(self.best, loss)
        self.loss = torch.where(self.running, loss, self.loss)
        self.epochs += self.running
        self.running = self.running & (self.stale <= recipe.PATIENCE) & loss.isfinite()

    def drop_finished(self) -> dict[int, Trained]:
        """Leave only networks that run in the fleet; the others' results by member."""
        running = self.running.flatten()
        results, runs = self.results(), running.tolist()
        gone = {member: results[member] for member, go_on in zip(self.members, runs, strict=True) if not go_on}
        self.members = [member for member in self.members if member not in gone]
        for name, stacked in list(vars(self).items()):
            if isinstance(stacked, Tensor) and name != "x":
                setattr(self, name, stacked[running])
        return gone

    def results(self) -> dict[int, Trained]:
        """Every member's network as it is now, by member."""
        w1, w2, b1, b2 = (part.cpu().numpy().copy() for part in self._parameters())
        networks = [Parameters(*arrays) for arrays in zip(w1, b1, w2.transpose(0, 2, 1), b2, strict=True)]
        numbers = zip(self.epochs.flatten().tolist(), self.loss.flatten().tolist(), strict=True)
        trained = [Trained(network, int(epochs), loss) for network, (epochs, loss) in zip(networks, numbers, strict=True)]
        return dict(zip(self.members, trained, strict=True))

    def _parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Views w1 (M, d, hidden), w2 (M, k, hidden), b1 (M, hidden), b2 (M, k)."""
        sizes = [self.inputs * self.hidden, self.k * self.hidden, self.hidden, self.k]
        w1, w2, b1, b2 = torch.split(self.weights, sizes, dim=1)
        return w1.view(-1, self.inputs, self.hidden), w2.view(-1, self.k, self.hidden), b1, b2


def _errors(outputs: Tensor, labels: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities less labels (M, B, k), zero where not present (M, B), and (M, 1) summed log losses."""
    if outputs.shape[2] == 1:
        p = outputs.sigmoid()
        own = torch.where(labels[:, :, None] == 1, p, 1 - p)
        errors = p - labels[:, :, None]
    else:
        p = outputs.softmax(2)
        own = p.gather(2, labels[:, :, None])
        errors = p - (labels[:, :, None] == torch.arange(outputs.shape[2], device=labels.device)).float()
    losses = own[:, :, 0].clamp(recipe.MARGIN, 1 - recipe.MARGIN).log() * present
    return errors * present[:, :, None], -losses.double().sum(1, keepdim=True)


def _flat(start: Parameters) -> Floats:
    return np.concatenate([start.w1.ravel(), start.w2.T.ravel(), start.b1, start.b2])


def _padded(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
    """Arrays of several lengths as rows of one, zeros behind."""
    out = np.zeros((len(arrays), max(len(array) for array in arrays)), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out
