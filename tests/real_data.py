"""Tests of real data run where its files are at hand, and say which are missing where not."""

import pytest

from subpop.datasets import data_root

UTKFACE_FEATURES = "embeddings/utkface_mobilenet_v1.npz"
IMDB_FEATURES = "embeddings/imdb_minilm_l6.npz"


def needs(*paths: str) -> pytest.MarkDecorator:
    """Skip a test where one of these files or folders below the data root (SUBPOP_DATA) is not there."""
    missing = [path for path in paths if not (data_root() / path).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not below the data root, SUBPOP_DATA: {', '.join(missing)}")
