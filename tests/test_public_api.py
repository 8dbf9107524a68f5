"""The public names, their documentation, and the pages that show them."""

import importlib
import re
from pathlib import Path

import pytest

import subpop
from subpop import contracts

ROOT = Path(__file__).parents[1]
CERTIFICATES = """
chernoff_log_bound exact_radius kl_radius neyman_pearson_radius pairwise_exact_radius pairwise_log_bounds
""".split()  # noqa: SIM905
FILTERS = """
controls.none controls.perfect_filter controls.random_filter controls.drop_duplicates controls.matched_random_filter
trim.trim sever.sever sever.sever_per_label sever.sever_as_released activation_clustering.activation_clustering
activation_clustering.activation_clustering_as_released spectral_signatures.spectral_signatures
spectral_signatures.spectral_signatures_as_released fine_pruning.fine_pruning fine_pruning.fine_pruning_as_released
label_flip_smoothing.label_flip_smoothing
""".split()  # noqa: SIM905
PUBLIC = (
    *(f"subpop.{name}" for name in subpop.__all__),
    *(f"subpop.contracts.{name}" for name in contracts.__all__),
    *(f"subpop.certificates.{name}" for name in CERTIFICATES),
    *(f"subpop.defenses.{name}" for name in FILTERS),
    "subpop.split.split",
)


def found(path):
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_there_are_at_most_eighty_public_names():
    assert len(set(PUBLIC)) == len(PUBLIC) <= 80


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_name_is_there(path):
    assert found(path) is not None


def test_every_registered_defense_is_public():
    from subpop.defenses import DEFENSES

    public = {found(f"subpop.defenses.{name}") for name in FILTERS}
    assert set(DEFENSES.values()) <= public


def test_the_reference_shows_exactly_the_public_names():
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(PUBLIC)
