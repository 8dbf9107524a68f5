"""`subpop new-defense NAME`: a small working defense, and its test, to start from."""

from __future__ import annotations

import keyword
from importlib.util import find_spec
from pathlib import Path

from subpop.defenses import is_built_in
from subpop.runtime.writing import write_atomically
from subpop.types import BadInput

DEFENSE = '''\
"""NAME: say in a sentence what it does. Source: say where it comes from."""

import numpy as np

from subpop import Defended


def NAME(train, fit, know, *, seed):
    """Remove the n_poison rows whose labels the victim finds least likely, and train on the others."""
    likely = fit(train).predict_proba(train.x)[np.arange(len(train)), train.y]
    keep = likely >= np.sort(likely)[know.n_poison]
    return Defended(fit(train[keep]), keep)


NAME.needs = {"n_poison"}  # what the defense must be told; leave it out if it needs nothing
'''
TEST = '''\
"""NAME keeps the contract of a defense, and removes poison where the answer is known."""

from NAME import NAME

from subpop import Knowledge
from subpop.testing import check_defense, gaussian


def test_contract():
    assert [str(result) for result in check_defense(NAME) if not result.passed] == []


def test_most_of_the_poison_is_removed_where_the_classes_are_far_apart():
    toy = gaussian(240, 2, n_poison=24)
    defended = NAME(toy.train(), toy.fit, Knowledge(n_poison=24), seed=0)
    assert (~defended.keep)[toy.poison].mean() > 0.7
'''
NEXT = """\
{files}

Its own tests:                    python -m pytest {test}
The contract of a defense:        subpop check {own}
Its row, and that of no defense:  subpop run --only-mine -k scoreboard --defense {own}
The report is runs/report/README.md, and as a page runs/report/index.html."""


def new_defense(name: str, folder: Path) -> str:
    """Write `NAME.py` and `test_NAME.py` into a folder.

    Parameters
    ----------
    name
        Name of the function and of its file.
    folder
        Where the files go.

    Returns
    -------
    str
        The files and the commands that come next.

    Raises
    ------
    BadInput
        If the name is no Python name, is taken by a built-in defense or another module, or if a file exists.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise BadInput(f"{name!r} is not a name of a Python function; use letters, digits and underscores, such as my_filter")
    if is_built_in(name):
        raise BadInput(f"{name} is the name of a built-in defense; choose another name")
    files = {folder / f"{name}.py": DEFENSE, folder / f"test_{name}.py": TEST}
    for path in files:
        if path.exists():
            raise BadInput(f"{path} exists and is not overwritten; choose another name, or remove the file")
    if find_spec(name) is not None:
        raise BadInput(f"there is a module {name} already, which the test would import instead; choose another name")
    for path, text in files.items():
        write_atomically(path, text.replace("NAME", name))
    own, test = f"{name}.py:{name}", f"test_{name}.py"
    return NEXT.format(files="\n".join(f"written: {path}" for path in files), own=own, test=test)
