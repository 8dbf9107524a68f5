"""What cells share, each built once: data as a victim sees it, partitions, victims, clean and attacker's models."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from subpop.attacks import ATTACKS
from subpop.attacks.attacker import Attacker
from subpop.attacks.drawing import box, label_rule
from subpop.datasets import load_dataset, source_of
from subpop.datasets.partitions import arrays_of, attacked_of, cluster_space, clusters_partition, confidence_order, partition_of
from subpop.datasets.stage import SplitData, Stage, build_stage, split_data
from subpop.experiments.attack_sets import AttackSets, Recorded, choice_name, clusters_name, content_of, file_name
from subpop.experiments.texts import HIDDEN_STATES, Reading, read, reading_of, state_components
from subpop.experiments.trial import right_of
from subpop.experiments.undecided import Undecided
from subpop.features.encoders import encoder_fingerprint
from subpop.features.networks.frozen import REPRESENTATIONS, is_frozen
from subpop.features.representations import frozen_features
from subpop.harness.plugins import AttackSpec
from subpop.results.metrics import MIN_TEST_ROWS
from subpop.runtime.cell_code import entry_text, modules_behind
from subpop.runtime.fingerprint import data_hash, key_of, versions
from subpop.runtime.memo import KeepsArrays, Memo
from subpop.runtime.progress import Progress
from subpop.runtime.seeds import derived_seed, training_seed
from subpop.types import Array, BadInput, Bools, Cell, Dataset, FleetJob, Model, Partition, StoredModel, Unsolved, Victim
from subpop.types.base import nearest
from subpop.types.specifications import Learner
from subpop.victims import MODELS, VICTIMS, blind, make_victim
from subpop.victims.user_objects import code_behind

REMEMBERED_BYTES = 1 << 28
"""A fleet that takes more memory is not remembered."""
Code = frozenset[str]
"""Modules that a result depends on, see `subpop.runtime.cell_code`."""
SCORES: Mapping[str, Code] = {"right": frozenset(["subpop.experiments.trial"])}
"""The modules that score a model, by its role."""


@dataclass
class Context:
    """Builds what the specifications of cells name; everything is made once and shared by all cells that name the same.

    Raises
    ------
    BadInput
        From every method, if a cell names what does not exist or cannot be combined.
    """

    store: KeepsArrays
    root: Path | None = None
    """Folder of downloaded data sets."""
    device: str = "cpu"
    fresh: bool = False
    """Whether results of earlier sessions are ignored."""
    progress: Progress = field(default_factory=Progress)
    cache: Path | None = None
    """Folder of frozen features; None to compute them in each session."""
    weights_root: Path | None = None
    """Folder of network weights; None for `root / "weights"`."""
    partitions: Path | None = None
    """Folder of the recorded attack sets that stored references belong to; None to cut all of them anew."""
    attacks: Mapping[str, AttackSpec] = field(default_factory=dict)
    """User-supplied attacks, by the name in cells."""
    memo: Memo = field(init=False, repr=False)
    _supplied: set[str | Learner] = field(init=False, repr=False, default_factory=set)
    """Names of data sets, and victims, that were supplied."""

    def __post_init__(self) -> None:
        self.memo = Memo(self.store, fresh=self.fresh, device=self.device)

    # --- data ---------------------------------------------------------------------------------------------------------

    def loaded(self, name: str) -> Dataset:
        """A data set as its file has it."""
        return self.memo.once(("dataset", name), lambda: load_dataset(name, self.root))

    def supply(self, cell: Cell, dataset: Dataset) -> None:
        """Use this data under the name that the cell has for its own, which need not be registered. Keys hash its content."""
        self._supplied.add(cell.dataset)
        self.memo.supply(("dataset", cell.dataset), dataset)

    def is_found_by_name(self, cell: Cell) -> bool:
        """Whether another process finds the cell's data, victim and attack by their names: none of them was supplied here."""
        return cell.attack not in self.attacks and self._supplied.isdisjoint((cell.dataset, cell.learner))

    def rows(self, cell: Cell) -> Reading | str | None:
        """How the cell's victim sees rows: through an encoder, through the frozen network of that name, or as they are."""
        return self.memo.once(("rows", cell.dataset, cell.learner), lambda: self._rows(cell))

    def _rows(self, cell: Cell) -> Reading | str | None:
        if cell.victim and self.loaded(cell.dataset).holds_texts:
            return reading_of(cell, self.victim(cell))
        return is_frozen(cell.victim)

    def dataset(self, cell: Cell) -> Dataset:
        """The cell's data as its victim sees it: where the victim trains a head on a frozen network, that network's features."""
        loaded, rows = self.loaded(cell.dataset), self.rows(cell)
        if rows is None:
            return loaded
        if isinstance(rows, Reading):
            return self.memo.once(("inputs", cell.dataset, rows), lambda: read(loaded, rows, *self._place))
        return self.memo.once(("inputs", cell.dataset, rows), lambda: replace(loaded, x=self.features(cell, rows)))

    def features(self, cell: Cell, network: str) -> Array:
        """(n, d) float32 features of every row of the cell's data set, from a frozen network."""
        make = lambda: frozen_features(  # noqa: E731
            network,
            self.loaded(cell.dataset),
            data_root=self.root,
            weights_root=self.weights_root,
            cache=self.cache,
            device=self.device,
        )
        return self.memo.once(("features", cell.dataset, network), make)

    def data(self, cell: Cell) -> SplitData:
        """The cell's data, split: shared by all victims that see the same rows."""

        def shared() -> SplitData:
            return self.memo.once(("data", cell.data, self.rows(cell)), lambda: split_data(cell, self.dataset(cell)))

        return self.memo.once(("data of", cell.data, cell.learner), shared)

    def stage(self, cell: Cell) -> Stage:
        """The cell's data, split and partitioned: shared by all victims that see the same rows and the same attacked rows."""

        def shared() -> Stage:
            chooser = None if cell.subpopulations.n_attacked is None else cell.learner
            key = ("stage", cell.data, self.rows(cell), cell.subpopulations, chooser)
            return self.memo.once(key, lambda: self._stage(cell))

        return self.memo.once(("stage of", cell.data, cell.learner, cell.subpopulations), shared)

    def _stage(self, cell: Cell) -> Stage:
        """Clusters are cut, and subpopulations chosen, once and stored: either may take a network to be trained.

        What is recorded beside the baselines comes first, the store next; what is cut without a record is noted for one.
        """
        if self.has_fixed_partition(cell):
            return self._partitioned(cell)
        arrays, _ = self.memo.arrays(self.partition_key(cell), lambda: arrays_of(self._partitioned(cell).partition))
        stage = Stage(self.data(cell), partition_of(arrays))
        self.attack_sets.note(self.recorded(cell), stage.partition)
        return stage

    def has_fixed_partition(self, cell: Cell) -> bool:
        """Whether neither clusters nor a model's confidences, which differ by rounding, decide what a cell attacks."""
        is_computed = cell.partition == "cluster_match" or cell.subpopulations.n_attacked is not None
        return not is_computed or self.recorded(cell).complete

    def partition_key(self, cell: Cell) -> str:
        """Hash of all that a cell's subpopulations depend on: where they are recorded, of the record."""
        named, data, recorded, rows = cell.subpopulations.clusters_on, self.data(cell), self.recorded(cell), self.rows(cell)
        attackers = [Learner(named)] if named in VICTIMS and recorded.clusters is None else []
        attackers += [cell.learner] if cell.subpopulations.n_attacked is not None and recorded.choice is None else []
        cut_on_features = named in REPRESENTATIONS and recorded.clusters is None
        reads = rows if isinstance(rows, Reading) and named == HIDDEN_STATES else None
        return self.memo.key(
            self.partition_code(cell),
            partition=cell.subpopulations,
            recorded=recorded.digests,
            rows=rows,
            attackers=[self.model_key(replace(cell, learner=each), "attacker", 0) for each in attackers],
            features=data_hash(self.features(cell, named)) if cut_on_features else "",
            encoder=encoder_fingerprint(reads.encoder, self.weights_folder) if reads else "",
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
        if cell.subpopulations.n_attacked is None:
            return stage
        if recorded.choice is None:
            return replace(stage, partition=self._by_confidence(cell, stage))
        return replace(stage, partition=replace(stage.partition, attacked=recorded.attacked))

    @property
    def attack_sets(self) -> AttackSets:
        """The records of the folder `partitions`, and what this run cut that has none."""
        return self.memo.once(("attack sets",), lambda: AttackSets(self.partitions))

    def recorded(self, cell: Cell) -> Recorded:
        """What is recorded beside the baselines of a cell's subpopulations."""
        if self.partitions is None:
            return Recorded()
        names = clusters_name(cell, self.rows), choice_name(cell, self.rows)
        if not any(names):
            return Recorded()
        return self.memo.once(("recorded", *map(file_name, names)), lambda: self.attack_sets.find(*names, self._content(cell)))

    def _content(self, cell: Cell) -> str:
        return self.memo.once(("content", cell.data), lambda: content_of(self.loaded(cell.dataset), self.data(cell).splits))

    def cluster_features(self, cell: Cell) -> Array | None:
        """(n, d) what ClusterMatch clusters; None: the victim's own inputs."""
        named = cell.subpopulations.clusters_on
        if named == "inputs":
            return None
        if named == HIDDEN_STATES:
            return self.memo.once(("state components", cell.data, self.rows(cell)), lambda: self._state_components(cell))
        if named in REPRESENTATIONS:
            return self.features(cell, named)
        if named in VICTIMS:
            own = replace(cell, learner=Learner(named))
            return self.attacker(own).features(self.dataset(own).x)
        known = ["inputs", HIDDEN_STATES, *REPRESENTATIONS, *VICTIMS]
        raise BadInput(f"clusters_on={named} is unknown; {nearest(named, known, ' (a victim is trained on D_aux)')}")

    def _state_components(self, cell: Cell) -> Array:
        reading = self.rows(cell)
        if not isinstance(reading, Reading):
            raise BadInput(f"clusters_on={HIDDEN_STATES} of {cell.id} clusters texts; {cell.dataset} has none to read")
        return state_components(self.dataset(cell), self.data(cell).splits.aux, reading, *self._place)

    def cluster_space(self, cell: Cell) -> Array:
        """(|D_aux|, d) the rows of D_aux where the cell's clusters were cut."""
        seed, data = cell.subpopulations.partition_seed, self.data(cell)
        make = lambda: cluster_space(data.dataset, data.splits, seed, self.cluster_features(cell))[1]  # noqa: E731
        return self.memo.once(("space", cell.data, self.rows(cell), cell.subpopulations), make)

    def _by_confidence(self, cell: Cell, stage: Stage) -> Partition:
        """Attack `n_attacked` subpopulations only, chosen by how sure the attacker's model is of their D_aux rows.

        Of those with enough test rows to enter worst-k; no test label has a say.
        """
        count = cell.subpopulations.n_attacked or 0
        aux = stage.pool.x[stage.pool.n_train :]
        proba = self.attacker(cell).predict_proba(aux)
        order = confidence_order(stage.partition, proba, stage.pool.y[stage.pool.n_train :])
        large = [i for i in order if (stage.partition.test == i).sum() >= MIN_TEST_ROWS]
        if not 0 < count <= len(large):
            raise BadInput(
                f"n_attacked={count} of {cell.id}: only {len(large)} subpopulations have {MIN_TEST_ROWS} test rows or more; "
                "attack fewer, or use another partition or data set"
            )
        return replace(stage.partition, attacked=attacked_of(large, count, cell.subpopulations.attacked_by))

    # --- victims and their models -------------------------------------------------------------------------------------

    def victim(self, cell: Cell) -> Victim:
        """The cell's victim."""
        own = cell.learner
        name = own.name if is_frozen(own.name) is None else "last_layer"
        make = lambda: make_victim(  # noqa: E731
            name, self.device, self.weights_folder, self.cache, encoder=own.encoder, max_length=own.max_length
        )
        return self.memo.once(("victim", own), make)

    def supply_victim(self, cell: Cell, victim: Victim, identity: str | None = None) -> None:
        """Train this victim under the name that the cell has for its own, which must not be a registered one.

        identity: identifies it in keys of the store, such as the hash of a file and the parameters of an estimator; None if
        nothing does: then nothing that it trained is reused in another session.

        Raises
        ------
        BadInput
            If the cell's victim has the name of a registered one.
        """
        own = cell.learner
        if own.name in VICTIMS or is_frozen(own.name) is not None:
            raise BadInput(f"a victim of your own is called {own.name!r}, as a registered one; give it another name")
        known_as = f"of one session: {os.urandom(16).hex()}" if identity is None else identity
        self._supplied.add(own)
        self.memo.supply(("victim", own), victim)
        self.memo.supply(("victim identity", own), (own, known_as, self.device.split(":")[0], tuple(sorted(versions().items()))))

    def victim_identity(self, cell: Cell) -> tuple[object, ...]:
        """All that tells the cell's victim from another: every key of a model, in memory and in the store, is made of this.

        Its name, its encoder and number of tokens as it was made, the network or file of weights that it begins with, the
        device, the versions of the libraries that train it, and the code of a victim from outside the package.
        """
        return self.memo.once(("victim identity", cell.learner), lambda: self._identity_of(cell))

    def _identity_of(self, cell: Cell) -> tuple[object, ...]:
        victim = self.victim(cell)
        fingerprint = getattr(victim, "weights_fingerprint", None)
        reads = (getattr(victim, "encoder", ""), getattr(victim, "max_length", None))
        weights = "" if fingerprint is None else str(fingerprint())
        named = "last_layer" if is_frozen(cell.victim) else cell.victim
        made = entry_text(VICTIMS[named]) if named in VICTIMS else code_behind(cell.victim) if ":" in cell.victim else ""
        return (cell.victim, *reads, weights, made, self.device.split(":")[0], tuple(sorted(versions().items())))

    @property
    def weights_folder(self) -> Path | None:
        """Where network weights lie: --weights-root, else below the data root."""
        return self.weights_root or (self.root / "weights" if self.root is not None else None)

    @property
    def _place(self) -> tuple[Path | None, Path | None, str]:
        """What reading texts takes: the folders of weights and of cached features, and the device."""
        return self.weights_folder, self.cache, self.device

    def clean_model(self, cell: Cell, seed: int) -> Model:
        """The victim trained on D alone: trained once per (data set, split, victim, seed), shared by all suites."""
        key = self.model_key(cell, "clean", seed)
        return self.memo.once(key, lambda: self._stored_model(cell, key, self.data(cell).pool.clean_job().canonical(), seed))

    def clean_right(self, cell: Cell, seed: int) -> Bools:
        """(n_test,) bool: which test rows the clean undefended victim gets right; from the store where it is there."""
        return self._clean(cell, seed)["right"]

    def clean_undecided(self, cell: Cell, seed: int) -> float:
        """How many predictions of the clean undefended victim are undecided; NaN if its error is not known."""
        return float(self._clean(cell, seed)["undecided"])

    def _clean(self, cell: Cell, seed: int) -> Mapping[str, Array]:
        key = self.model_key(cell, "right", seed)
        return self.memo.once(key, lambda: self.memo.arrays(key, lambda: self._scored(cell, seed))[0])

    def _scored(self, cell: Cell, seed: int) -> Mapping[str, Array]:
        data, model = self.data(cell), self.clean_model(cell, seed)
        right = right_of(model, data.test_x, data.test_y)
        return {"right": right, "undecided": np.array(Undecided(data).of_clean(model))}

    def attacker(self, cell: Cell) -> Model:
        """The cell's victim as the attacker trains it: on D_aux."""
        key = self.model_key(cell, "attacker", 0)
        return self.memo.once(key, lambda: self._stored_model(cell, key, self.data(cell).aux_job(), None))

    def label_attacker(self, cell: Cell) -> Model | None:
        """The attacker's model where the attack asks it, or the label rule asks it for the least likely label."""
        asks = cell.poisoning.asks_model or label_rule(cell, self.data(cell).dataset.n_classes) == "common"
        return self.attacker(cell) if asks else None

    def optimiser(self, cell: Cell) -> Attacker | None:
        """The attacker that moves poison rows; shared by all cells that differ in rate, partition or defense."""
        if not cell.poisoning.moves_rows:
            return None
        pool = self.data(cell).pool
        make = lambda: Attacker(self.attacker(cell), self.victim(cell), pool, box(cell, pool))  # noqa: E731
        return self.memo.once(("optimiser", self.model_key(cell, "attacker", 0), cell.epsilon), make)

    def model_key(self, cell: Cell, role: str, seed: int) -> str:
        """Hash of all that a model of the cell's victim depends on, trained on clean D (`clean`) or on D_aux (`attacker`)."""
        own = 0 if self.victim(cell).exact else seed
        make = lambda: self.memo.key(  # noqa: E731
            self.data_code(cell) | self.victim_code(cell) | {"subpop.runtime.seeds"} | SCORES.get(role, frozenset()),
            role=role,
            data=(cell.data, self.data(cell).fingerprint),
            victim=self.victim_identity(cell),
            seed=own,
        )
        return self.memo.once(("model key", cell.data, cell.learner, role, own), make)

    def fit(self, cell: Cell, jobs: Sequence[FleetJob], seeds: Sequence[int], *, blindly: bool = False) -> list[Model]:
        """One model a job, each distinct training set trained once; the clean set's model is the stored clean model.

        blindly: for defenses that nobody vouches for: clean D is trained like any other set (see `victims.blind`).
        """
        victim, data = self.victim(cell), self.data(cell)
        exact = victim.exact
        keys = [(_job_key(job), 0 if exact else seed) for job, seed in zip(jobs, seeds, strict=True)]
        clean = None if blindly else _job_key(data.pool.clean_job())
        known = {key: self.clean_model(cell, key[1]) for key in set(keys) if key[0] == clean}
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        fresh = sorted(i for key, i in first.items() if key not in known)
        if fresh:
            # The key names the whole fleet, since its members affect the bits of a victim; defenses of one attack begin alike.
            fleet = [jobs[i] for i in fresh], [training_seed(cell, seeds[i]) for i in fresh]
            made_of = {"victim": self.victim_identity(cell), "data": data.fingerprint, "blindly": blindly}
            key = key_of({**made_of, "jobs": [keys[i] for i in fresh], "seeds": fleet[1]})
            trainer = blind(victim) if blindly else victim
            try:
                trained = self.memo.recent(
                    key, lambda: list(trainer.fit_many(*fleet)), lambda made: not exact and _is_small(made)
                )
            except Unsolved as error:
                raise Unsolved(tuple(fresh[j] for j in error.jobs), error.reason) from error
            known |= {keys[i]: model for i, model in zip(fresh, trained, strict=True)}
        return [known[key] for key in keys]

    def _stored_model(self, cell: Cell, key: str, job: FleetJob, seed: int | None) -> Model:
        """A model from the store, where its victim's models can be kept as arrays; seed: None for the attacker's."""
        own_seed = derived_seed("attacker", cell.dataset) if seed is None else training_seed(cell, seed)
        kind = MODELS.get("last_layer" if is_frozen(cell.victim) else cell.victim)
        if kind is None:
            return self.victim(cell).fit_many([job], [own_seed])[0]
        trained: list[Model] = []

        def train() -> Mapping[str, Array]:
            trained.append(self.victim(cell).fit_many([job], [own_seed])[0])
            assert isinstance(trained[0], StoredModel)
            return trained[0].state()

        state, _ = self.memo.arrays(key, train)
        return trained[0] if trained else kind.from_state(state)

    # --- code ---------------------------------------------------------------------------------------------------------

    def data_code(self, cell: Cell) -> Code:
        """The modules that make the cell's data as its victim sees it."""
        rows = self.rows(cell)
        loader = () if cell.dataset in self._supplied else modules_behind(source_of(cell.dataset).load)
        reader = (
            []
            if rows is None
            else ["subpop.experiments.texts" if isinstance(rows, Reading) else "subpop.features.representations"]
        )
        return frozenset([*loader, *reader])

    def victim_code(self, cell: Cell) -> Code:
        """The modules of the cell's victim; for one that was supplied, those of the package: its identity tells the others."""
        module = type(self.victim(cell)).__module__
        is_supplied = cell.learner in self._supplied and module.partition(".")[0] != "subpop"
        finder = ["subpop.victims.user_objects"] if ":" in cell.victim else []
        return frozenset([] if is_supplied else [module, *finder])

    def partition_code(self, cell: Cell) -> Code:
        """The modules that divide the cell's data into subpopulations."""
        named, own = cell.subpopulations.clusters_on, ["subpop.datasets.partitions", "subpop.experiments.attack_sets"]
        own += (
            ["subpop.features.representations"]
            if named in REPRESENTATIONS
            else ["subpop.experiments.texts"]
            if named == HIDDEN_STATES
            else []
        )
        cut_by = self.victim_code(replace(cell, learner=Learner(named))) if named in VICTIMS else frozenset()
        chosen_by = self.victim_code(cell) if cell.subpopulations.n_attacked is not None else frozenset()
        return frozenset(own) | cut_by | chosen_by | self.data_code(cell)

    def attack_code(self, cell: Cell) -> Code:
        """The modules of the cell's attack."""
        if cell.attack in self.attacks:
            return frozenset(["subpop.attacks.user_attacks"])
        if cell.attack not in ATTACKS:
            raise BadInput(
                f"unknown attack {cell.attack!r}; {nearest(cell.attack, ATTACKS, ', or your own with --attack file.py:function')}"
            )
        return frozenset(modules_behind(ATTACKS[cell.attack]))


def _is_small(models: Sequence[Model]) -> bool:
    first = models[0]
    return isinstance(first, StoredModel) and sum(a.nbytes for a in first.state().values()) * len(models) <= REMEMBERED_BYTES


def _job_key(job: FleetJob) -> str:
    return data_hash(*(part for part in (job.rows, job.y, job.weights, job.extra_x) if part is not None))
