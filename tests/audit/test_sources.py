"""`subpop audit` as it is typed, on each kind of data and of estimator that it takes: small ones, with a budget."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_wine

from subpop.session.cli import main

PIPELINE = """
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder


def make_model():
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = make_column_transformer((codes, make_column_selector(dtype_exclude="number")), remainder="passthrough")
    return make_pipeline(columns, HistGradientBoostingClassifier(max_iter=5))
"""
NETWORK = """
import torch


class Net(torch.nn.Module):
    def __init__(self, epochs=5):
        super().__init__()
        self.epochs = epochs

    def forward(self, x):
        return self.layers(x)

    def fit(self, x, y):
        self.layers = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 8), torch.nn.ReLU(), torch.nn.Linear(8, int(y.max()) + 1))
        optimiser = torch.optim.Adam(self.parameters(), 0.05)
        for _ in range(self.epochs):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(self(torch.from_numpy(x)), torch.from_numpy(y)).backward()
            optimiser.step()
        return self

    def predict_proba(self, x):
        with torch.no_grad():
            return self(torch.from_numpy(x)).softmax(1).numpy()
"""


def rows(n=240):
    """The label follows the age; the town says nothing."""
    generator = np.random.default_rng(0)
    age = generator.normal(size=n)
    paid = np.where(age + 0.3 * generator.normal(size=n) > 0, "yes", "no")
    return pd.DataFrame({"town": np.resize(["north", "south"], n), "age": age, "pay": generator.normal(size=n), "paid": paid})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows().to_csv("rows.csv", index=False)
    rows().to_parquet("rows.parquet")
    load_wine(as_frame=True).frame.to_csv("wine.csv", index=False)
    (tmp_path / "my.py").write_text(PIPELINE)
    (tmp_path / "net.py").write_text(NETWORK)
    generator = np.random.default_rng(0)
    for i in range(120):
        pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        pixels[:, :, 2 * (i % 2)] //= 4
        place = tmp_path / "pictures" / ("blue", "red")[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path


def audited(*arguments):
    assert main(["audit", *arguments, "--out", "out", "--store", ":memory:"]) == 0
    with open("out/audit.json") as file:
        return json.load(file)


@pytest.mark.parametrize(
    ("package", "spec"),
    [
        ("sklearn", "my.py:make_model"),
        ("xgboost", "xgboost:XGBClassifier(n_estimators=5)"),
        ("lightgbm", "lightgbm:LGBMClassifier(n_estimators=5, verbose=-1)"),
        ("torch", "net.py:Net(epochs=10)"),
    ],
    ids=["pipeline", "xgboost", "lightgbm", "torch"],
)
def test_estimators(package, spec, folder):
    pytest.importorskip(package, reason=f"{package} is not installed: python -m pip install {package}")
    found = audited("rows.csv", "--label", "paid", "--groups", "town", "--estimator", spec)
    groups = found["groups"]
    assert [row["group"] for row in groups] == ["town=north", "town=south"]
    assert all(row["accuracy"] > 0.75 for row in groups)
    assert all(row["damage_2"] > 0.1 for row in groups)  # twice as many wrong labels as right ones
    assert all(np.isfinite(row["half_width_1"]) for row in groups)


@pytest.mark.parametrize("arguments", [("rows.parquet", "--label", "paid"), ("wine.csv", "--label", "target"), ("pictures",)])
def test_sources(arguments, folder):
    found = audited(*arguments)
    assert all(row["accuracy"] > 0.75 for row in found["groups"])
    assert max(row["damage_2"] or 0.0 for row in found["groups"]) > 0.1
    if arguments == ("pictures",):
        (said,) = (note for note in found["facts"]["notes"] if "principal components" in note)
        assert "see 100 principal components of the 12,288 pixel values of each picture, fitted once on 120 pictures" in said


def test_an_estimator_of_ones_own_sees_all_pixels(folder):
    found = audited("pictures", "--estimator", "sklearn.naive_bayes:GaussianNB")
    assert all(row["accuracy"] > 0.9 for row in found["groups"])
