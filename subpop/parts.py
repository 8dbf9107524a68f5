"""What cells share, each built once: data as a victim sees it, partitions, victims, clean and attacker's models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from subpop.attack_sets import AttackSets, Recorded, choice_name, chosen, clusters_name, content_of, file_name
from subpop.attacks import OPTIMISED
from subpop.attacks.attacker import Attacker
from subpop.datasets import load_dataset
from subpop.fingerprint import data_hash, key_of, source_hash, versions
from subpop.metrics import MIN_TEST_ROWS
from subpop.partitions import arrays_of, attacked_of, cluster_space, clusters_partition, confidence_order, partition_of
from subpop.progress import Progress
from subpop.representations import REPRESENTATIONS, frozen_features, is_frozen
from subpop.seeds import derived_seed, training_seed
from subpop.stage import SplitData, Stage, box, build_stage, label_rule, split_data, whole
from subpop.texts import HIDDEN_STATES, Reading, is_text, max_length_of, read, reading_of, state_components
from subpop.trial import right_of
from subpop.types import Array, BadInput, Bools, Cell, Dataset, FleetJob, Model, Partition, StoredModel, Unsolved, Victim
from subpop.victims import MODELS, VICTIMS, blind, make_victim

T = TypeVar("T")
REMEMBERED_FLEETS = 4
REMEMBERED_BYTES = 1 << 28


class KeepsArrays(Protocol):
    """What parts ask of a store."""

    def get_arrays(self, key: str) -> dict[str, Array] | None: ...
    def put_arrays(self, key: str, arrays: Mapping[str, Array]) -> None: ...


@dataclass
class Parts:
    """Builds what cells name. cache: folder of frozen features; weights_root: folder of network weights.

    partitions: folder of the attack sets that stored references belong to; None: all are cut anew.
    """

    store: KeepsArrays
    root: Path | None = None
    device: str = "cpu"
    fresh: bool = False
    progress: Progress = field(default_factory=Progress)
    cache: Path | None = None
    weights_root: Path | None = None
    partitions: Path | None = None
    _memory: dict[Any, Any] = field(default_factory=dict, repr=False)
    _ahead: set[str] = field(default_factory=set, repr=False)
    _arrived: dict[str, Mapping[str, Array]] = field(default_factory=dict, repr=False)
    _fleets: OrderedDict[str, list[Model]] = field(default_factory=OrderedDict, repr=False)

    # --- data ---------------------------------------------------------------------------------------------------------

    def dataset(self, cell: Cell) -> Dataset:
        """The cell's data as its victim sees it: where the victim trains a head on a frozen network, that network's features."""
        loaded = self._once(("dataset", cell.dataset), lambda: load_dataset(cell.dataset, self.root))
        if cell.victim and is_text(loaded):
            reading, place = self.reading(cell), (self._weights, self.cache, self.device)
            return self._once(("read", cell.dataset, reading), lambda: read(loaded, reading, *place))
        network = is_frozen(cell.victim)
        if network is None:
            return loaded
        return self._once(("inputs", cell.dataset, network), lambda: replace(loaded, x=self.features(cell, network)))

    def supply(self, cell: Cell, dataset: Dataset) -> None:
        """Use this data under the name that the cell has for its own."""
        self._memory["dataset", cell.dataset] = dataset

    def reading(self, cell: Cell) -> Reading:
        """How the cell's victim reads texts; BadInput where it cannot."""
        return reading_of(cell, self.victim(cell))

    def features(self, cell: Cell, network: str) -> Array:
        """(n, d) float32 features of every row of the cell's data set, from a frozen network."""
        loaded = self.dataset(cell.with_(victim=""))
        make = lambda: frozen_features(  # noqa: E731
            network, loaded, data_root=self.root, weights_root=self.weights_root, cache=self.cache, device=self.device
        )
        return self._once(("features", cell.dataset, network), make)

    def data(self, cell: Cell) -> SplitData:
        """The cell's data, split."""
        return self._once(("data", *self._data_identity(cell)), lambda: split_data(cell, self.dataset(cell)))

    def stage(self, cell: Cell) -> Stage:
        """The cell's data, split and partitioned: shared by all cells of that set-up."""
        key = (
            *self._data_identity(cell),
            cell.partition,
            cell.option("partition_seed", "0"),
            cell.option("clusters_on", "inputs"),
        )
        first = self.victim_identity(cell) if chosen(cell)[0] else ()
        return self._once(("stage", *key, *chosen(cell), first), lambda: self._stage(cell))

    def _stage(self, cell: Cell) -> Stage:
        """Clusters are cut, and subpopulations chosen, once and kept: either may take a network to be trained.

        What is recorded beside the baselines comes first, the store next; what is cut without a record is noted for one.
        """
        if cell.partition != "cluster_match" and not cell.option("n_attacked", ""):
            return self._partitioned(cell)
        if self.recorded(cell).complete:
            return self._partitioned(cell)
        key = self.partition_key(cell)
        kept = None if self.fresh else self.store.get_arrays(key)
        stage = self._partitioned(cell) if kept is None else Stage(self.data(cell), partition_of(kept))
        if kept is None:
            self.store.put_arrays(key, arrays_of(stage.partition))
        self.attack_sets.note(self.recorded(cell), stage.partition)
        return stage

    def partition_key(self, cell: Cell) -> str:
        """Hash of all that a cell's subpopulations depend on: where they are recorded, of the record."""
        named, data, recorded = cell.option("clusters_on", "inputs"), self.data(cell), self.recorded(cell)
        attackers = [named] if named in VICTIMS and recorded.clusters is None else []
        attackers += [cell.victim] if cell.option("n_attacked", "") and recorded.choice is None else []
        cut_on_features = named in REPRESENTATIONS and recorded.clusters is None
        return self._key(
            partition=(cell.partition, cell.option("partition_seed", "0"), named, *chosen(cell)),
            recorded=recorded.digests,
            reading=self._data_identity(cell),
            attackers=[self.victim_identity(cell.with_(victim=name)) for name in attackers],
            features=data_hash(self.features(cell, named)) if cut_on_features else "",
            annotations=(list(data.dataset.annotations), data_hash(*data.dataset.annotations.values())),
            bounds=(data.dataset.n_clusters, data.dataset.n_components, data.dataset.group_bounds),
            data=data.fingerprint,
        )

    def _partitioned(self, cell: Cell) -> Stage:
        recorded = self.recorded(cell)
        if recorded.clusters is None:
            stage = build_stage(cell, self.data(cell), self.cluster_features(cell))
        else:
            stage = Stage(self.data(cell), clusters_partition(self.data(cell).dataset, recorded.sides))
        if not cell.option("n_attacked", ""):
            return stage
        if recorded.choice is None:
            return replace(stage, partition=self._by_confidence(cell, stage))
        return replace(stage, partition=replace(stage.partition, attacked=recorded.attacked))

    @property
    def attack_sets(self) -> AttackSets:
        """The records of the folder `partitions`, and what this run cut that has none."""
        return self._once(("attack sets",), lambda: AttackSets(self.partitions))

    def recorded(self, cell: Cell) -> Recorded:
        """What is recorded beside the baselines of a cell's subpopulations."""
        if self.partitions is None:
            return Recorded()
        rows_of = lambda own: self._data_identity(own)[1]  # noqa: E731
        names = clusters_name(cell, rows_of), choice_name(cell, rows_of)
        if not any(names):
            return Recorded()
        return self._once(("recorded", *map(file_name, names)), lambda: self.attack_sets.find(*names, self._content(cell)))

    def _content(self, cell: Cell) -> str:
        key = ("content", cell.dataset, cell.option("split", "0"), cell.option("protocol", "default"))
        return self._once(key, lambda: content_of(self.dataset(cell.with_(victim="")), self.data(cell).splits))

    def cluster_features(self, cell: Cell) -> Array | None:
        """(n, d) what ClusterMatch clusters; None: the victim's own inputs."""
        named = cell.option("clusters_on", "inputs")
        if named == "inputs":
            return None
        if named == HIDDEN_STATES:
            place = (self._weights, self.cache, self.device)
            make = lambda: state_components(self.dataset(cell), self.data(cell).splits.aux, self.reading(cell), *place)  # noqa: E731
            return self._once(("state components", *self._data_identity(cell)), make)
        if named in REPRESENTATIONS:
            return self.features(cell, named)
        if named in VICTIMS:
            own = cell.with_(victim=named)
            return self.attacker(own).features(self.dataset(own).x)
        known = ", ".join(["inputs", HIDDEN_STATES, *REPRESENTATIONS, *VICTIMS])
        raise BadInput(f"clusters_on={named} of {cell.id} is unknown; use one of {known} (a victim is trained on D_aux)")

    def cluster_space(self, cell: Cell) -> Array:
        """(|D_aux|, d) the rows of D_aux where the cell's clusters were cut."""
        key = (*self._data_identity(cell), cell.option("partition_seed", "0"), cell.option("clusters_on", "inputs"))
        seed, features = whole(cell, "partition_seed", "0"), self.cluster_features(cell)
        data = self.data(cell)
        return self._once(("space", *key), lambda: cluster_space(data.dataset, data.splits, seed, features)[1])

    def _by_confidence(self, cell: Cell, stage: Stage) -> Partition:
        """Attack `n_attacked` subpopulations only, chosen by how sure the attacker's model is of their D_aux rows.

        Of those with enough test rows to enter worst-k; no test label has a say.
        """
        count = whole(cell, "n_attacked", "0")
        aux = stage.pool.x[stage.pool.n_train :]
        proba = self.attacker(cell).predict_proba(aux)
        order = confidence_order(stage.partition, proba, stage.pool.y[stage.pool.n_train :])
        large = [i for i in order if (stage.partition.test == i).sum() >= MIN_TEST_ROWS]
        if not 0 < count <= len(large):
            raise BadInput(f"n_attacked={count} of {cell.id}: {len(large)} subpopulations have {MIN_TEST_ROWS} test rows or more")
        return replace(stage.partition, attacked=attacked_of(large, count, cell.option("attacked_by", "least_confident")))

    def _data_identity(self, cell: Cell) -> tuple[object, ...]:
        text = cell.victim and is_text(self.dataset(cell.with_(victim="")))
        rows = self.reading(cell) if text else is_frozen(cell.victim)
        return (cell.dataset, rows, cell.option("split", "0"), cell.option("protocol", "default"))

    # --- victims and their models -------------------------------------------------------------------------------------

    def victim(self, cell: Cell) -> Victim:
        name, encoder, length, device = self._victim_named(cell)
        make = lambda: make_victim(name, device, self._weights, self.cache, encoder=encoder, max_length=length)  # noqa: E731
        return self._once(("victim", *self._victim_named(cell)), make)

    def _victim_named(self, cell: Cell) -> tuple[str, str, int | None, str]:
        """What the cell says of its victim: name, encoder, max_length; and the device."""
        name = cell.victim if is_frozen(cell.victim) is None else "last_layer"
        return name, cell.option("encoder", ""), max_length_of(cell), self.device

    def victim_identity(self, cell: Cell) -> tuple[object, ...]:
        """All that tells the cell's victim from another: every key of a model, in memory and in the store, is made of this.

        Its name, its encoder and number of tokens as it was made, the network or file of weights that it begins with, the
        device, and the versions of the libraries that train it.
        """
        return self._once(("victim identity", cell.victim, *self._victim_named(cell)), lambda: self._identity_of(cell))

    def _identity_of(self, cell: Cell) -> tuple[object, ...]:
        victim = self.victim(cell)
        told = getattr(victim, "weights_fingerprint", None)
        reads = (getattr(victim, "encoder", ""), getattr(victim, "max_length", None))
        weights = "" if told is None else str(told())
        return (cell.victim, *reads, weights, self.device.split(":")[0], tuple(sorted(versions().items())))

    @property
    def _weights(self) -> Path | None:
        """Where network weights lie: --weights-root, else below the data root."""
        return self.weights_root or (self.root / "weights" if self.root is not None else None)

    def clean_model(self, cell: Cell, seed: int) -> Model:
        """The victim trained on D alone: trained once per (data set, split, victim, seed), shared by all suites."""
        job = self.data(cell).pool.clean_job
        return self._once(
            ("clean", *self._model_identity(cell, seed)), lambda: self._kept(cell, "clean", seed, job().canonical())
        )

    def clean_right(self, cell: Cell, seed: int) -> Bools:
        """(n_test,) bool: which test rows the clean undefended victim gets right; kept, so that no network is loaded to tell."""
        return self._once(("right", *self._model_identity(cell, seed)), lambda: self._clean_right(cell, seed))

    def _clean_right(self, cell: Cell, seed: int) -> Bools:
        data = self.data(cell)
        key = self._key(right=self._model_identity(cell, seed), data=data.fingerprint)
        kept = None if self.fresh else self.store.get_arrays(key)
        if kept is not None:
            return kept["right"]
        right = right_of(self.clean_model(cell, seed), data.test_x, data.test_y)
        self.store.put_arrays(key, {"right": right})
        return right

    def attacker(self, cell: Cell) -> Model:
        """The cell's victim as the attacker trains it: on D_aux."""
        key = ("attacker", *self._model_identity(cell, 0))
        return self._once(key, lambda: self._kept(cell, "attacker", 0, self.data(cell).aux_job()))

    def label_attacker(self, cell: Cell) -> Model | None:
        """The attacker's model where the label rule asks one for the least likely label."""
        return self.attacker(cell) if label_rule(cell, self.data(cell).dataset.n_classes) == "common" else None

    def optimiser(self, cell: Cell) -> Attacker | None:
        """Whoever moves the poison of an optimised attack; shared by all cells that differ in rate, partition or defense."""
        if cell.attack not in OPTIMISED:
            return None
        pool = self.data(cell).pool
        make = lambda: Attacker(self.attacker(cell), self.victim(cell), pool, box(cell, pool))  # noqa: E731
        return self._once(("optimiser", *self._model_identity(cell, 0), cell.option("epsilon", "")), make)

    def fit(self, cell: Cell, jobs: Sequence[FleetJob], seeds: Sequence[int], *, blindly: bool = False) -> list[Model]:
        """One model a job, each distinct training set trained once; the clean set's model is the stored clean model.

        blindly: for defenses that nobody vouches for: clean D is trained like any other set (see `victims.blind`).
        """
        exact = self.victim(cell).exact
        keys = [(_job_key(job), 0 if exact else seed) for job, seed in zip(jobs, seeds, strict=True)]
        clean = None if blindly else _job_key(self.data(cell).pool.clean_job())
        known = {key: self.clean_model(cell, key[1]) for key in set(keys) if key[0] == clean}
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        fresh = sorted(i for key, i in first.items() if key not in known)
        if fresh:
            try:
                trained = self._fleet(
                    cell, [keys[i] for i in fresh], [jobs[i] for i in fresh], [seeds[i] for i in fresh], blindly
                )
            except Unsolved as error:
                raise Unsolved(tuple(fresh[j] for j in error.jobs), error.reason) from error
            known |= {keys[i]: model for i, model in zip(fresh, trained, strict=True)}
        return [known[key] for key in keys]

    def _fleet(
        self, cell: Cell, keys: Sequence[Any], jobs: Sequence[FleetJob], seeds: Sequence[int], blindly: bool
    ) -> list[Model]:
        """Train a fleet, unless the very same one was among the last few: defenses of one attack begin with the same victims.

        The whole fleet must be the same, since the bits of a victim depend on its company.
        """
        key = key_of({"victim": self.victim_identity(cell), "data": self.data(cell).fingerprint, "jobs": list(keys)})
        if key in self._fleets:
            self._fleets.move_to_end(key)
            return self._fleets[key]
        victim = blind(self.victim(cell)) if blindly else self.victim(cell)
        models = list(victim.fit_many(jobs, [training_seed(cell, seed) for seed in seeds]))
        if not self.victim(cell).exact and isinstance(models[0], StoredModel):
            size = sum(array.nbytes for array in models[0].state().values()) * len(models)
            if size <= REMEMBERED_BYTES:
                self._fleets[key] = models
        while len(self._fleets) > REMEMBERED_FLEETS:
            self._fleets.popitem(last=False)
        return models

    def _kept(self, cell: Cell, role: str, seed: int, job: FleetJob) -> Model:
        """A model that the store keeps as arrays, where its victim's models can be kept so."""
        identity = self._model_identity(cell, seed)
        key = self._key(**{role: identity}, data=self.data(cell).fingerprint)
        kind = MODELS.get("last_layer" if is_frozen(cell.victim) else cell.victim)
        state = self.store.get_arrays(key) if kind is not None and not self.fresh else None
        if kind is not None and state is not None:
            return kind.from_state(state)
        own_seed = training_seed(cell, seed) if role == "clean" else derived_seed(role, cell.dataset)
        model = self.victim(cell).fit_many([job], [own_seed])[0]
        if isinstance(model, StoredModel):
            self.store.put_arrays(key, model.state())
        return model

    def _model_identity(self, cell: Cell, seed: int) -> tuple[object, ...]:
        return (*self._data_identity(cell), *self.victim_identity(cell), 0 if self.victim(cell).exact else seed)

    def kept(self, make: Callable[[], Mapping[str, Array]], **identity: Any) -> tuple[Mapping[str, Array], bool]:
        """Arrays that the store keeps under a hash of what they depend on, made where it has none; and whether it had them."""
        key = self._key(**identity)
        stored = self._arrived.pop(key, None) if self.fresh else self.store.get_arrays(key)
        if stored is not None:
            return stored, not self._was_ahead(key)
        made = make()
        self.store.put_arrays(key, made)
        return made, False

    def receive_arrays(self, key: str, arrays: Mapping[str, Array]) -> None:
        """Keep arrays that a worker made; the first who asks for them counts as having made them."""
        self.store.put_arrays(key, arrays)
        self._ahead.add(key)
        if self.fresh:  # where the store's own are not asked
            self._arrived[key] = arrays

    def _was_ahead(self, key: str) -> bool:
        """Whether a worker made this for whoever asks first, and nobody did until now."""
        found = key in self._ahead
        self._ahead.discard(key)
        return found

    # --- keys and memory ----------------------------------------------------------------------------------------------

    def _key(self, **parts: Any) -> str:
        source = self._once(("source",), lambda: source_hash(["subpop.experiment"]))
        return key_of({**parts, "source": source, "versions": versions(), "device": self.device.split(":")[0]})

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._memory:
            self._memory[key] = make()
        made: T = self._memory[key]
        return made


def _job_key(job: FleetJob) -> str:
    return data_hash(*(part for part in (job.rows, job.y, job.weights, job.extra_x) if part is not None))
