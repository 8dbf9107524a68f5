"""Write mine.npz: the breast cancer data of scikit-learn, with quarters of the mean radius as an annotation."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

data = load_breast_cancer()
quarter = np.searchsorted(np.quantile(data.data[:, 0], [0.25, 0.5, 0.75]), data.data[:, 0])
np.savez(Path(__file__).parent / "mine.npz", x=StandardScaler().fit_transform(data.data), y=data.target, radius=quarter)
