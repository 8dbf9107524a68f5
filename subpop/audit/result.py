"""What an audit found, as a frame with a row for each group, in words, and as files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from subpop.audit.attacked import ALPHAS, M50, NEEDED, Attacks, GroupDamage, Target, is_beyond_uncertainty
from subpop.audit.folds import OutOfFold
from subpop.audit.protection import Certified, Deleted
from subpop.audit.suspicion import GroupFinding
from subpop.results.fairness import demographic_parity_difference, equalised_odds_difference
from subpop.runtime.estimate import readable_seconds
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput, Bools, Ints

SCHEMA = 1
SUSPECT, HARD = "differs from the rest", "hard"
LEAST_SURE = 20
"""Rows that are named if rows are asked for."""
COLUMNS: Mapping[str, str] = {
    "group": "name of the group",
    "grouping": "columns by which it is made",
    "rows": "number of its rows",
    "test_rows": "number of its rows in D_test, on which damage is measured",
    "accuracy": "share of its rows that the estimator predicts right, out of fold",
    "accuracy_low": "lower end of the 95 % interval of the accuracy",
    "accuracy_high": "upper end of the 95 % interval of the accuracy",
    "errors": "number of wrong rows, out of fold",
    "expected_errors": "number that the calibrated estimator expects",
    "p": "p of the excess of errors, corrected for all groups",
    "verdict": "verdict on its errors: differs from the rest, hard, or ordinary",
    "not_attacked": "what it lacks to be attacked; empty if it has enough rows on each side of the split",
    "clean_accuracy": "accuracy on its test rows without poison, from which damage and m50 start",
    **{f"damage_{alpha:g}": f"accuracy lost at alpha {alpha:g}" for alpha in ALPHAS},
    **{f"half_width_{alpha:g}": f"half of the 95 % interval of the damage at alpha {alpha:g}" for alpha in ALPHAS},
    **{f"poison_rows_{alpha:g}": f"mislabelled rows at alpha {alpha:g}" for alpha in ALPHAS},
    "m50": "mislabelled rows that bring its error to one half; a lower bound where m50_is_more is 1; 0: it is wrong anyway",
    "m50_is_more": "1 if all its rows in D_aux were too few for that",
    "ensemble_accuracy": "accuracy of the ensemble whose insertions are certified",
    "certified_insertions": "inserted rows with which that ensemble's error provably stays below one half",
    "insertions_bound_1": "largest error of that ensemble after as many insertions as at alpha 1",
    "ridge_accuracy": "accuracy of the ridge regression whose label flips are certified",
    "certified_flips": "changed labels with which that regression's error provably stays below one half",
    "seconds_left": "time that its attacks would take beyond the budget; 0 if all was measured",
}
"""The columns of `Audit.groups`, in order; columns `deleted_NAME` follow, the share of its rows in D that a filter deletes."""
CARE = (
    "Read with care: the test labels are your own and may be poisoned. Damage is measured for the attack listed (label flips of "
    "rows of the group) and is therefore a lower bound on what an attacker can do; only a certificate is an upper bound. The "
    "absence of an alarm does not prove that the data is clean."
)
HELP = (
    "Defenses are not run against these attacks here: `subpop run -k scoreboard --dataset FILE.py:FUNCTION` does so, where the "
    "function returns the rows, their labels and groups."
)


@dataclass(frozen=True)
class Facts:
    """What was audited, and how."""

    data: str
    classes: tuple[str, ...]
    estimator: str
    notes: tuple[str, ...]
    n_rows: int
    n_train: int
    seconds: float
    start_seconds: float
    """Of these, until the first measurement."""
    budget: float | None
    lacking: tuple[str, ...] = ()
    """Sentences on values of named columns that make no groups."""


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Examples
    --------
    >>> import pandas as pd
    >>> from subpop.audit.result import Audit
    >>> Audit(pd.DataFrame({"group": ["sex=0"]}), "Nothing.").groups["group"].tolist()
    ['sex=0']
    """

    groups: pd.DataFrame
    """One row for each group, with the columns of `subpop.audit.result.COLUMNS`; NaN where something was not measured."""
    words: str
    """The summary, in paragraphs with a blank line between them: how bad it is, what helps, the groups, and what to beware of."""
    filters: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row for each filter: share deleted, the group that loses the largest share, and the one that loses most accuracy."""
    fairness: pd.DataFrame = field(default_factory=pd.DataFrame)
    """One row for each column: demographic parity and equalised odds differences of the estimator, out of fold."""
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    """The rows whose labels the estimator believes least, out of fold, by position from 0; in no file unless asked for."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Data, estimator, numbers of rows, seconds and notes."""

    def to_json(self, *, with_rows: bool = False) -> str:
        """Write everything as JSON.

        Parameters
        ----------
        with_rows
            Whether `rows` is included.

        Returns
        -------
        str
            An object with the keys schema, facts, words, columns, groups, filters, fairness, and rows if asked for. Missing
            numbers are null.
        """
        made = {
            "schema": SCHEMA,
            "facts": dict(self.facts),
            "words": self.words,
            "columns": dict(COLUMNS),
            "groups": _records(self.groups),
            "filters": _records(self.filters),
            "fairness": _records(self.fairness),
            **({"rows": _records(self.rows)} if with_rows else {}),
        }
        return json.dumps(made, indent=1, allow_nan=False, ensure_ascii=True)

    def to_markdown(self, *, with_rows: bool = False) -> str:
        """Write the report: the summary and the groups on one screen, then everything.

        Parameters
        ----------
        with_rows
            Whether `rows` is included.

        Returns
        -------
        str
            GitHub flavoured markdown.
        """
        from subpop.audit.pages import markdown_page

        return markdown_page(self, with_rows=with_rows)

    def save(self, folder: str | PathLike[str], *, with_rows: bool = False) -> None:
        """Write README.md, index.html and audit.json.

        Parameters
        ----------
        folder
            Where to; it is created.
        with_rows
            Whether `rows` is included.

        Raises
        ------
        BadInput
            If the folder cannot be created.
        """
        from subpop.audit.pages import html_page

        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"the folder {place} cannot be created ({error}); name another one") from error
        write_atomically(place / "README.md", self.to_markdown(with_rows=with_rows))
        write_atomically(place / "audit.json", self.to_json(with_rows=with_rows))
        write_atomically(place / "index.html", html_page(self, COLUMNS))


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15)) if len(frame) else []
    return found


# --- putting together -------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Measured:
    """What attacks, filters and certificates gave, as far as there was time."""

    own: Attacks
    """Those of the user's estimator."""
    default: Attacks
    """Those of the default victim, on whose rows of D filters run."""
    damages: dict[str, GroupDamage] = field(default_factory=dict)
    """By group, as are `m50` and `left`."""
    m50: dict[str, M50] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    """Seconds of what the budget left, also by certificate and filter."""
    insertions: Certified | None = None
    flips: Certified | None = None
    filters: list[Deleted] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Why something cannot be measured on this data."""


def summarised(
    facts: Facts, targets: Sequence[Target], findings: Sequence[GroupFinding], measured: Measured, folds: OutOfFold, y: Ints
) -> Audit:
    """The result of an audit. y: (n,) labels of all rows."""
    filters, left = measured.filters, measured.left
    rows = [_row(target, found, measured) for target, found in zip(targets, findings, strict=True)]
    groups = pd.DataFrame(rows, columns=[*COLUMNS, *(f"deleted_{each.name}" for each in filters)])
    of_filters = pd.DataFrame([_filter_row(each, targets, measured.default) for each in filters])
    fairness = pd.DataFrame(_fairness(targets, folds, y, len(facts.classes)))
    facts_shown = {
        "data": facts.data,
        "estimator": facts.estimator,
        "rows": facts.n_rows,
        "training_rows": facts.n_train,
        "classes": list(facts.classes),
        "seconds": round(facts.seconds, 1),
        "budget_seconds": facts.budget,
        "left": {name: round(seconds, 1) for name, seconds in left.items() if name not in set(groups["group"])},
        "notes": list(facts.notes),
    }
    words = words_of(facts, groups, measured.insertions, measured.flips, folds.predicted == y, np.bincount(y).max() / len(y))
    return Audit(groups, words, of_filters, fairness, _least_sure(folds, y, facts.classes), facts_shown)


def _row(target: Target, found: GroupFinding, measured: Measured) -> dict[str, Any]:
    own, insertions, flips = measured.own, measured.insertions, measured.flips
    damage, m50 = measured.damages.get(found.name), measured.m50.get(found.name)
    row: dict[str, Any] = {
        "group": found.name,
        "grouping": target.group.grouping,
        "rows": found.n,
        "test_rows": target.n_test,
        "accuracy": found.accuracy,
        "accuracy_low": found.low,
        "accuracy_high": found.high,
        "errors": found.errors,
        "expected_errors": found.expected_errors,
        "p": found.p,
        "verdict": found.verdict,
        "not_attacked": target.obstacle,
        "seconds_left": measured.left.get(found.name, 0.0),
    }
    if damage is not None:
        row |= {f"damage_{alpha:g}": value for alpha, value in damage.damage.items()}
        row |= {f"half_width_{alpha:g}": value for alpha, value in damage.half_width.items()}
        row |= {f"poison_rows_{alpha:g}": count for alpha, count in damage.n_poison.items()}
    if m50 is not None:
        row["m50"], row["m50_is_more"] = m50.median, float(m50.censored)
    if target.n_test and target.n_train:
        stage = own.stage(target.cell)
        members, in_d = stage.test_members(target.name), stage.train_members(target.name)
        if damage is not None:
            row["clean_accuracy"] = float(own.clean_right[:, members].mean())
        at_1 = math.floor(target.n_aux * stage.pool.n_train / stage.n_aux)
        if insertions is not None:
            row["ensemble_accuracy"] = float(insertions.right[members].mean())
            row["certified_insertions"] = _number(insertions.survives(members))
            row["insertions_bound_1"] = 1 - insertions.accuracy(members, at_1)
        if flips is not None:
            row["ridge_accuracy"] = float(flips.right[members].mean())
            row["certified_flips"] = _number(flips.survives(members))
        row |= {f"deleted_{each.name}": float(each.gone[in_d].mean()) for each in measured.filters}
    return row


def _number(value: int | None) -> float:
    return math.nan if value is None else float(value)


def _filter_row(own: Deleted, targets: Sequence[Target], attacks: Attacks) -> dict[str, Any]:
    clean = attacks.clean_right[0]
    shares, costs = {}, {}
    for target in targets:
        if not target.obstacle:
            stage = attacks.stage(target.cell)
            members = stage.test_members(target.name)
            shares[target.group.name] = float(own.gone[stage.train_members(target.name)].mean())
            costs[target.group.name] = float(clean[members].mean() - own.right[members].mean())
    most, payer = (max(each, key=lambda name: each[name], default="") for each in (shares, costs))
    return {
        "filter": own.name,
        "told": "nothing" if own.n_poison is None else f"{own.n_poison} poison rows (assumed)",
        "deleted": float(own.gone.mean()),
        "accuracy_lost": float(clean.mean() - own.right.mean()),
        "most_deleted": most,
        "most_deleted_share": shares.get(most, math.nan),
        "payer": payer,
        "payer_accuracy_lost": costs.get(payer, math.nan),
    }


def _fairness(targets: Sequence[Target], folds: OutOfFold, y: Ints, n_classes: int) -> list[dict[str, Any]]:
    """Both differences for each grouping by one column; none with three or more classes, of which none is the positive one."""
    if n_classes != 2:
        return []
    by_grouping: dict[str, list[Target]] = {}
    for each in targets:
        by_grouping.setdefault(each.group.grouping, []).append(each)
    made = []
    for name, members in by_grouping.items():
        if len(members) < 2 or " x " in name or name == "cluster":
            continue
        group = np.full(len(y), -1)
        for i, each in enumerate(members):
            group[each.group.rows] = i
        there = group >= 0
        given = y[there], folds.predicted[there], group[there]
        differences = demographic_parity_difference(*given, positive=1), equalised_odds_difference(*given, positive=1)
        made.append(
            {"column": name, "demographic_parity_difference": differences[0], "equalised_odds_difference": differences[1]}
        )
    return made


def _least_sure(folds: OutOfFold, y: Ints, classes: Sequence[str]) -> pd.DataFrame:
    own = folds.proba[np.arange(len(y)), y]
    chosen = np.argsort(own, kind="stable")[:LEAST_SURE]
    return pd.DataFrame(
        {
            "position": chosen,
            "label": [classes[i] for i in y[chosen]],
            "predicted": [classes[i] for i in folds.predicted[chosen]],
            "probability_of_label": own[chosen],
        }
    )


# --- in words ---------------------------------------------------------------------------------------------------------


def words_of(
    facts: Facts, groups: pd.DataFrame, insertions: Certified | None, flips: Certified | None, right: Bools, most_frequent: float
) -> str:
    """The summary in plain sentences. right: (n,) of each row, out of fold; most_frequent: share of a label."""
    n_left, n_small = int((groups["seconds_left"] > 0).sum()), int((groups["not_attacked"] != "").sum())
    about_groups = [_suspicion(groups), *facts.lacking]
    if n_small:
        are = "is" if n_small == 1 else "are"
        about_groups.append(f"{n_small} of {len(groups)} groups {are} too small to be attacked: a group needs {NEEDED}.")
    if n_left:
        more = readable_seconds(float(groups["seconds_left"].sum()))
        about_groups.append(
            f"{n_left} groups were not, or not fully, attacked for lack of time; this would take about {more} more."
        )
    paragraphs = (
        ("How bad is it?", *_damage(facts, groups), _accuracy(facts, right, most_frequent)),
        ("What helps?", *_bounds(facts, groups, insertions, flips), HELP),
        about_groups,
        (
            CARE,
            f"Attacked models are trained on {facts.n_train:,} of the rows; intervals are over draws of the poison, training and "
            "the group's test rows, on this split.",
        ),
    )
    return "\n\n".join(map(" ".join, paragraphs))


def _accuracy(facts: Facts, right: Bools, most_frequent: float) -> str:
    """How often the estimator is right, and whether that is not clearly more than without any features."""
    from scipy.stats import binom

    accuracy = (
        f"{facts.estimator} is right about {100 * right.mean():.1f} % of the {facts.n_rows:,} rows of {facts.data}, out of fold."
    )
    if right.sum() > binom.ppf(0.975, len(right), most_frequent):
        return accuracy
    return (
        f"{accuracy} That is not clearly more than always predicting the most frequent label would give "
        f"({100 * most_frequent:.1f} %): it has learned next to nothing, and what it loses says little."
    )


def _suspicion(groups: pd.DataFrame) -> str:
    differ, hard = (groups[groups["verdict"] == each] for each in (SUSPECT, HARD))
    named = ", ".join(differ.sort_values("p")["group"].head(3))
    if len(differ):
        found = (
            f"{len(differ)} of {len(groups)} groups differ from the rest ({named}{', ...' if len(differ) > 3 else ''}): they "
            "have more errors than the other rows predict. Changed labels would explain that, and so would a group that is "
            "harder than its features indicate."
        )
    else:
        found = f"None of {len(groups)} groups has more errors than the other rows predict."
    one = len(hard) == 1
    return found + (f" {len(hard)} {'is' if one else 'are'} hard, but no harder than expected." if len(hard) else "")


def _damage(facts: Facts, groups: pd.DataFrame) -> list[str]:
    measured = groups[groups["damage_1"].notna()].sort_values("damage_1", ascending=False)
    if not len(measured) and (groups["seconds_left"] > 0).any():
        started = readable_seconds(facts.start_seconds)
        return [f"The budget was too small to attack a group; reading the data and starting the estimator took {started}."]
    if not len(measured):
        return [f"No group was attacked: none has enough of its rows on each side of the split of {facts.n_rows:,} rows."]
    worst = _worst(measured)
    said = [f"With a mislabelled row for each row of the group in a training set (alpha 1), {worst}."]
    easy = measured[(measured["m50"] > 0) & (measured["m50_is_more"] == 0)].sort_values("m50")
    searched = measured[measured["m50"] > 0]
    if len(easy):
        first = easy.iloc[0]
        said.append(
            f"The fewest rows that bring a group to 50 % error are {first['m50']:,.0f}, for {first['group']}, of whose "
            f"{first['test_rows']:,} test rows {100 * first['clean_accuracy']:.0f} % are right without poison."
        )
    elif len(searched):
        them = "the group that was" if len(searched) == 1 else f"any of the {len(searched)} groups that were"
        said.append(f"All rows that the attacker has of a group, mislabelled, do not bring {them} searched to 50 % error.")
    return said


def _worst(measured: pd.DataFrame) -> str:
    """The group that loses most, of those whose damage is not within its uncertainty. measured: sorted by damage."""
    certain, n = measured[is_beyond_uncertainty(measured)], len(measured)
    worst = (certain if len(certain) else measured).iloc[0]
    lost = f"{100 * worst['damage_1']:.0f} points of accuracy{_interval(worst['half_width_1'])}"
    if not len(certain):
        what = "the damage of the one group" if n == 1 else f"the damage of none of {n} groups"
        end = "cannot be told apart from none" if n == 1 else "can be told apart from none"
        return f"{what} {end}; the largest is {lost}, of {worst['group']} with {worst['test_rows']:,} test rows"
    from_rows = f"{lost} from {worst['poison_rows_1']:,.0f} rows"
    if len(certain) == 1 < n:
        return f"{worst['group']} is the only one of {n} groups whose damage exceeds its uncertainty: it loses {from_rows}"
    of = f"of {n} groups" if len(certain) == n else f"of the {len(certain)} of {n} groups whose damage exceeds its uncertainty"
    most = "loses" if n == 1 else f"loses most {of}:"
    return f"{worst['group']} {most} {from_rows}"


def _interval(half_width: float) -> str:
    return "" if not math.isfinite(half_width) else f" (± {100 * half_width:.0f})"


def _bounds(facts: Facts, groups: pd.DataFrame, insertions: Certified | None, flips: Certified | None) -> list[str]:
    said = ["Your single model has no bound."]
    if insertions is not None:
        said.append(
            f"An ensemble of {insertions.model}, each fitted on its own part, has an overall accuracy of "
            f"{100 * insertions.right.mean():.1f} % and "
            f"{_kept(groups, 'certified_insertions', 'ensemble_accuracy', 'inserted row')}."
        )
    if flips is not None:
        said.append(
            f"{flips.model[0].upper()}{flips.model[1:]} on vectorised columns has an accuracy of "
            f"{100 * flips.right.mean():.1f} % and "
            f"{_kept(groups, 'certified_flips', 'ridge_accuracy', 'changed label')}."
        )
    for certified, what in ((insertions, "insertions"), (flips, "label flips")):
        if certified is None:
            late = f"there was no time for a bound on {what} for other models"
            why = next((note for note in facts.notes if note.startswith(f"there is no bound on {what}")), late)
            said.append(f"{why[0].upper()}{why[1:]}.")
    return said


def _kept(groups: pd.DataFrame, column: str, accuracy: str, what: str) -> str:
    """What a certificate promises of all groups."""
    there = groups[groups[accuracy].notna()]
    n_wrong = int(there[column].isna().sum())
    if n_wrong == len(there):
        return "is wrong about half of every group anyway"
    least = int(there[column].min())
    where = f"{len(there) - n_wrong} of {len(there)} groups"
    if not least:
        return f"guarantees nothing for some groups, in which one {what} might be enough"
    most = f"one {what}" if least == 1 else f"{least} {what}s or fewer"
    return f"provably keeps its error below 50 % with {most} in {where}"
