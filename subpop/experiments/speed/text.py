"""Text victims: exact fleets on pooled features against scikit-learn, and last blocks trained from states that are kept.

What a last-layer victim costs is measured on a few hundred rows, from states on disk and in two other ways: computing the frozen
blocks anew in each step, and letting transformers run the whole network, last block at all positions, as is usual. All see the
same batches and end at the same weights; computing the states, once for all victims, is timed apart. A fleet trains as many
victims as there are cores, each on one thread; transformers trains one on all threads. All seconds are per victim.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from subpop.datasets import load_dataset
from subpop.datasets.split import split
from subpop.datasets.stage import Stage
from subpop.experiments.context import Context
from subpop.experiments.speed.logistic import Workers, fleet_from_nothing, kkt_residual
from subpop.experiments.speed.roofline import counted_in_torch, of_solver, peak_of, share_of
from subpop.experiments.speed.timing import ROUNDS, attacks, ratio_of_medians, speed_ratio
from subpop.types import Array, BadInput, Cell, FleetJob, Model, Number, Pool
from subpop.victims import make_victim
from subpop.victims.bert_last_layer import BertLastLayer

if TYPE_CHECKING:
    from subpop.features.encoders import Encoder

EVERY = 10
ROWS, EPOCHS = 200, 2
KEY_BIAS = "attention.self.key.bias"
"""The one parameter without effect: transformers trains it on rounding errors."""


def text_linear(cell: Cell, stage: Stage) -> tuple[list[Number], int]:
    """All clusters at three rates as one fleet, against every tenth of them one at a time; the ratio is of seconds a victim."""
    jobs = [job for job, _ in attacks(cell, stage)]
    sample, newton = jobs[::EVERY], Workers(jobs[0].pool.x.astype(np.float64))
    newton.solve(sample[:2])  # start the workers and load their libraries
    make_victim(cell.victim).fit_many(jobs[:2], [0, 0])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        started = time.perf_counter()
        ours = fleet_from_nothing(cell, jobs)
        seconds[0].append(time.perf_counter() - started)
        started = time.perf_counter()
        theirs = newton.solve(sample)
        seconds[1].append((time.perf_counter() - started) / len(sample))
    fleet, other = (statistics.median(own) for own in seconds)
    apart = max(float(np.abs(m.coef[:, 0] - w).max() / np.abs(w).max()) for m, w in zip(ours[::EVERY], theirs, strict=True))
    return [
        speed_ratio(np.divide(seconds[0], len(jobs)), seconds[1]),
        Number("fleet_seconds", fleet),
        *of_solver(lambda: fleet_from_nothing(cell, jobs), fleet),
        Number("one_at_a_time_seconds_a_victim", other),
        Number("n_victims", float(len(jobs))),
        Number("n_one_at_a_time", float(len(sample))),
        Number("kkt_residual_max", max(model.kkt_residual for model in ours)),
        Number("one_at_a_time_kkt_residual_max", max(kkt_residual(job, w) for job, w in zip(sample, theirs, strict=True))),
        Number("coefficient_difference_max", apart),
    ], ROUNDS * (len(jobs) + len(sample))


def last_block(cell: Cell, context: Context) -> tuple[list[Number], int]:
    """A fleet from states that are kept, against the way that the cell names."""
    from subpop.features.encoders import lengths_of
    from subpop.runtime.threads import n_cores

    victim = make_victim(cell.victim, context.device, context.weights_folder)
    if not isinstance(victim, BertLastLayer):
        raise BadInput(f"{cell.id}: {cell.victim} trains no last block; name a ..._last_layer victim of a text encoder")
    job, other = _job(cell, victim, context.root), _OTHERS[cell.speed.against]
    fleet = [job] * (n_cores() if context.device == "cpu" else 1)
    others = fleet if other is _recomputing else [job]
    with tempfile.TemporaryDirectory() as folder:
        cached = _alike(victim, cache=Path(folder))
        started = time.perf_counter()
        known = cached.origin.states()
        known.find(job.pool.x)
        states_seconds = time.perf_counter() - started
        numbers, ours, theirs = ratio_of_medians(
            lambda: _first_of(cached, fleet), lambda: other(victim, others), victims=(len(fleet), len(others))
        )
        with counted_in_torch() as products:
            cached.fit_many([job], [0])
        peak = peak_of(lambda: _first_of(cached, fleet))
    renamed = {"fleet_seconds": "cached_seconds", "one_at_a_time_seconds": "uncached_seconds"}
    numbers = [replace(number, metric=renamed.get(number.metric, number.metric)) for number in numbers]
    tokens, seconds = float(EPOCHS * lengths_of(job.pool.x).sum()), {number.metric: number.value for number in numbers}
    return [
        *numbers,
        *share_of(products, seconds["cached_seconds"]),
        *peak,
        Number("states_seconds", states_seconds),
        Number("tokens", tokens),
        Number("cached_tokens_per_second", tokens / seconds["cached_seconds"]),
        Number("uncached_tokens_per_second", tokens / seconds["uncached_seconds"]),
        Number("weight_difference_max", _apart(ours, theirs)),
    ], ROUNDS * (len(fleet) + len(others))


def _job(cell: Cell, victim: BertLastLayer, root: Path | None) -> FleetJob:
    """The first rows of D, as tokens."""
    from subpop.features.encoders import tokenise

    data = load_dataset(cell.dataset, root)
    if data.texts is None:
        raise BadInput(f"{cell.id}: {cell.dataset} holds no texts; name a data set of texts")
    rows = split(data).train[:ROWS]
    tokens = tokenise(victim.origin.load(), [data.texts[i] for i in rows], victim.max_length)
    return Pool(tokens, data.y[rows], len(rows), data.n_classes).clean_job()


def _alike(victim: BertLastLayer, **options: Any) -> BertLastLayer:
    """The same victim for a few epochs."""
    recipe = {"max_length": victim.max_length, "learning_rate": victim.learning_rate, "epochs": EPOCHS}
    place = {"weights_root": victim.weights_root, "device": victim.device}
    return BertLastLayer(victim.encoder, **{**recipe, **place, **options})


def _weights(model: Model) -> dict[str, Array]:
    state: Mapping[str, Array] = model.state()  # type: ignore[attr-defined]
    return {name.removeprefix("weights."): value for name, value in state.items() if name.startswith("weights.")}


def _first_of(victim: BertLastLayer, jobs: Sequence[FleetJob]) -> dict[str, Array]:
    """Train a fleet; the weights of the first."""
    return _weights(victim.fit_many(jobs, range(len(jobs)))[0])


def _recomputing(victim: BertLastLayer, jobs: Sequence[FleetJob]) -> dict[str, Array]:
    return _first_of(_alike(victim, cached=False), jobs)


def _transformers(victim: BertLastLayer, jobs: Sequence[FleetJob]) -> dict[str, Array]:
    """The usual loop: frozen parameters ask for no gradient, and all else is left to transformers and torch."""
    import torch
    from torch.nn import functional

    from subpop.features.encoders import lengths_of
    from subpop.victims.transformer_batches import epoch_batches
    from subpop.victims.transformer_network import last_layer_parameters

    (job,) = jobs
    bert, head = _whole(victim.origin.load(), job.pool.n_classes)
    trained = last_layer_parameters(head.requires_grad_(False))
    for parameter in trained:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, victim.learning_rate, fused=True)
    steps = EPOCHS * -(-len(job) // victim.batch_size)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    for batches in epoch_batches(job.rows, lengths_of(job.x), 0, EPOCHS, victim.batch_size):
        for batch in batches:
            own = torch.from_numpy(job.x[batch])
            own = own[:, : int((own > 0).sum(1).max())]
            logits = head.classifier(bert(own, (own > 0).long()).pooler_output)
            optimizer.zero_grad()
            functional.cross_entropy(logits, torch.from_numpy(job.y[batch])).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            falling.step()
    return {name: value.detach().numpy() for name, value in head.named_parameters() if not name.startswith("pooler.")}


def _whole(encoder: Encoder, n_classes: int) -> tuple[Any, Any]:
    """A network of transformers, and the head whose last block and pooler are its own."""
    import torch
    from torch import nn

    from subpop.victims.transformer_network import new_head

    shared: Any = encoder.bert()
    head = new_head(shared, n_classes, 0)
    with torch.device("meta"):
        bert = type(shared)(shared.config)
    bert.embeddings, bert.pooler = shared.embeddings, head.pooler
    bert.encoder.layer = nn.ModuleList([*shared.encoder.layer[:-1], head.block])
    return bert.eval(), head


def _apart(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    return max(float(np.abs(value - theirs[name]).max()) for name, value in ours.items() if not name.endswith(KEY_BIAS))


_OTHERS: dict[str, Callable[[BertLastLayer, Sequence[FleetJob]], dict[str, Array]]] = {
    "frozen blocks computed in each step": _recomputing,
    "transformers": _transformers,
}
