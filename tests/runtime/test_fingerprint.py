"""Hashes move when what they stand for moves, and only then."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from subpop.runtime import fingerprint
from subpop.runtime.fingerprint import data_hash, key_of, plugin_hash, source_hash, texts_hash, versions
from subpop.types import BadInput, Cell

FILES = {
    "__init__.py": '"""A package."""\n',
    "top.py": '"""Top."""\nfrom pack import middle\nfrom pack.part.one import f\n\n\ndef g():\n    return f() + middle.h()\n',
    "middle.py": "def h():\n    from .lazy import late\n    return late\n",
    "lazy.py": "late = 3\n",
    "part/__init__.py": 'PARTS = {"two": "pack.part.two:Two"}\n',
    "part/one.py": "from ..below import constant\n\n\ndef f():\n    return constant\n",
    "part/two.py": "class Two:\n    size = 2\n",
    "below.py": "constant = 1\n",
    "alone.py": "import pack.below as b\nfrom .part import PARTS\n",
    "unrelated.py": "x = 0\n",
    "loop_a.py": "from pack import loop_b\n",
    "loop_b.py": "from pack import loop_a\nvalue = 1\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "pack"


def changed_by_editing(package: Path, root: str) -> set[str]:
    """The files whose edit changes the hash of `root`."""
    before = source_hash([root], package)
    moved = set()
    for name, text in FILES.items():
        (package / name).write_text(text + "\nedited = 1\n")
        if source_hash([root], package) != before:
            moved.add(name)
        (package / name).write_text(text)
    assert source_hash([root], package) == before
    return moved


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        ("pack.top", {"__init__.py", "top.py", "middle.py", "lazy.py", "part/one.py", "below.py"}),
        ("pack.middle", {"middle.py", "lazy.py"}),
        ("pack.part.one", {"part/one.py", "below.py"}),
        ("pack.alone", {"alone.py", "below.py", "part/__init__.py", "part/two.py"}),
        ("pack.part", {"part/__init__.py", "part/two.py"}),
        ("pack.loop_a", {"__init__.py", "loop_a.py", "loop_b.py"}),
        ("pack.unrelated", {"unrelated.py"}),
    ],
)
def test_a_hash_covers_exactly_what_is_imported(package: Path, root: str, expected: set[str]) -> None:
    assert changed_by_editing(package, root) == expected


def test_layout_comments_and_docstrings_do_not_count(package: Path) -> None:
    path = package / "part/two.py"
    before = source_hash(["pack.part.two"], package)
    path.write_bytes(
        b'"""New."""\r\n# why\r\nclass Two:\r\n    """Doc."""\r\n\r\n    size = (2)  # two\r\n    """Attribute."""\r\n'
    )
    assert source_hash(["pack.part.two"], package) == before
    path.write_text("class Two:\n    size = 2.0\n")
    assert source_hash(["pack.part.two"], package) != before


def test_a_docstring_that_names_a_module_is_no_import(package: Path) -> None:
    (package / "unrelated.py").write_text('"""pack.below"""\nx = 0\n')
    assert changed_by_editing(package, "pack.unrelated") == {"unrelated.py"}


def test_the_order_of_roots_does_not_count_and_every_root_does(package: Path) -> None:
    both = source_hash(["pack.lazy", "pack.below"], package)
    assert both == source_hash(["pack.below", "pack.lazy", "pack.below"], package)
    assert both != source_hash(["pack.lazy"], package)


def test_a_moved_module_changes_the_hash(package: Path) -> None:
    before = source_hash(["pack.unrelated"], package)
    (package / "unrelated.py").rename(package / "renamed.py")
    assert source_hash(["pack.renamed"], package) != before


def test_an_unknown_module_and_broken_source_are_refused(package: Path) -> None:
    with pytest.raises(BadInput, match=r"no module 'pack\.absent'"):
        source_hash(["pack.absent"], package)
    (package / "unrelated.py").write_text("x = (")
    with pytest.raises(BadInput, match=r"unrelated\.py is not valid Python"):
        source_hash(["pack.unrelated"], package)


def printed(code: str) -> list[str]:
    """The words that a fresh interpreter prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    return run.stdout.split()


def test_the_real_package_is_hashed_without_being_imported() -> None:
    hashed = "source_hash(['subpop.runtime.store']), 'subpop.runtime.store' in sys.modules"
    assert printed(f"import sys; from subpop.runtime.fingerprint import source_hash; print({hashed})") == [
        source_hash(["subpop.runtime.store"]),
        "False",
    ]


EDITED_MEANWHILE = """
from pathlib import Path
from subpop.runtime.fingerprint import PACKAGE, source_hash

before = source_hash(["subpop.types"])  # of other modules, such as those of a run's trials
path = PACKAGE / "results" / "metrics.py"
path.write_text(path.read_text() + "edited = 1")
print(PACKAGE.parent, source_hash(["subpop.results.metrics"]))
"""


def test_an_edit_during_a_run_is_not_taken_for_the_code_that_runs(tmp_path: Path) -> None:
    """What the old code computed was stored under the hash of the new one, and shown by all later runs."""
    shutil.copytree(fingerprint.PACKAGE, tmp_path / "subpop", ignore=shutil.ignore_patterns("__pycache__", "data"))
    found = subprocess.run([sys.executable, "-c", EDITED_MEANWHILE], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.split() == [str(tmp_path), source_hash(["subpop.results.metrics"])]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which the parsed code of modules is kept; nothing is remembered from before."""
    monkeypatch.setattr(fingerprint, "_FOLDERS", [])
    fingerprint._code_of.cache_clear()
    fingerprint.keep_code_in(tmp_path / "code")
    yield tmp_path / "code"
    fingerprint._code_of.cache_clear()


def test_a_second_process_parses_no_module_of_the_package(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprint._FOLDERS.clear()
    plain = source_hash(["subpop.runtime.seeds"])
    fingerprint._code_of.cache_clear()
    fingerprint.keep_code_in(kept)
    assert source_hash(["subpop.runtime.seeds"]) == plain
    assert (kept / "subpop.runtime.seeds.json").is_file()
    fingerprint._code_of.cache_clear()
    monkeypatch.setattr(fingerprint, "_parse", lambda path, source: pytest.fail(f"{path} is parsed again"))
    assert source_hash(["subpop.runtime.seeds"]) == plain


def test_code_that_is_kept_is_parsed_again_after_an_edit_or_damage(kept: Path) -> None:
    path, file = fingerprint.PACKAGE / "runtime" / "seeds.py", kept / "subpop.runtime.seeds.json"
    source = path.read_bytes()
    code = fingerprint._code_of(path, source, "subpop.runtime")
    edited = fingerprint._code_of(path, source + b"\nADDED = 1\n", "subpop.runtime")
    assert edited != code
    content = file.read_bytes()
    for damaged in (content.replace(b"ADDED", b"MOVED"), content[:-5], b"", b"\xff" + content[1:], content.partition(b"\n")[2]):
        assert damaged != content
        file.write_bytes(damaged)
        fingerprint._code_of.cache_clear()
        assert fingerprint._code_of(path, source + b"\nADDED = 1\n", "subpop.runtime") == edited
    fingerprint._code_of.cache_clear()
    assert fingerprint._code_of(path, source, "subpop.runtime") == code


def test_code_is_parsed_where_nothing_can_be_kept(kept: Path) -> None:
    kept.write_bytes(b"a file, and no folder")
    assert source_hash(["subpop.runtime.seeds"])


def test_versions_without_importing_torch() -> None:
    code = "import sys; from subpop.runtime.fingerprint import versions; print(versions()['numpy'], 'torch' in sys.modules)"
    assert printed(code) == [np.__version__, "False"]
    assert set(versions()) == {"torch", "numpy", "scipy", "scikit-learn", "numba", "transformers", "python"}


def test_a_missing_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "LIBRARIES", ("numpy", "a-library-that-nobody-wrote"))
    with pytest.raises(BadInput, match="a-library-that-nobody-wrote is not installed"):
        versions()


def test_a_plugin_counts_its_local_modules_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "my-defense.py").write_text("import helper\nfrom subpop import Defended\n")
    (tmp_path / "helper.py").write_text("import numpy\nk = 1\n")
    (tmp_path / "other.py").write_text("k = 1\n")
    before = plugin_hash(tmp_path / "my-defense.py")
    (tmp_path / "other.py").write_text("k = 2\n")
    assert plugin_hash(tmp_path / "my-defense.py") == before
    (tmp_path / "helper.py").write_text("import numpy\nk = 2\n")
    assert plugin_hash(tmp_path / "my-defense.py") != before


def test_a_plugin_inside_a_package_counts_that_package_only(package: Path) -> None:
    (package.parent / "outside.py").write_text("k = 1\n")
    (package / "alone.py").write_text("import outside\nfrom . import below\n")
    before = plugin_hash(package / "alone.py")
    (package.parent / "outside.py").write_text("k = 2\n")
    assert plugin_hash(package / "alone.py") == before
    for name in ("below.py", "__init__.py"):
        (package / name).write_text("constant = 5\n")
        after = plugin_hash(package / "alone.py")
        assert after != before
        before = after


def test_a_missing_plugin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a file"):
        plugin_hash(tmp_path / "absent.py")


# --- data and values --------------------------------------------------------------------------------------------------


def test_data_hash_tells_dtype_shape_order_and_content_apart() -> None:
    base = np.arange(6, dtype=np.int64)
    different = [
        data_hash(base),
        data_hash(base.astype(np.int32)),
        data_hash(base.astype(np.float64)),
        data_hash(base.astype(">i8")),
        data_hash(base.reshape(2, 3)),
        data_hash(base[::-1]),
        data_hash(base[:3], base[3:]),
        data_hash(base[:2], base[2:]),
        data_hash(base, np.zeros(0)),
        data_hash(),
        data_hash(np.int64(0)),
        data_hash(np.zeros(1, np.int64)),
    ]
    assert len(set(different)) == len(different)


def test_data_hash_ignores_memory_layout() -> None:
    x = np.random.default_rng(0).normal(size=(5, 4))
    assert data_hash(x) == data_hash(np.asfortranarray(x)) == data_hash(np.repeat(x, 2, axis=0)[::2])
    assert data_hash(np.array(["a", "bc"])) != data_hash(np.array(["a", "bd"]))


def test_data_hash_refuses_objects() -> None:
    with pytest.raises(BadInput, match="object"):
        data_hash(np.array([{}, 1], dtype=object))


@dataclass(frozen=True)
class Point:
    x: int
    y: tuple[str, ...]


def test_key_of_tells_values_apart_and_ignores_the_order_of_names() -> None:
    values = [1, 1.0, True, "1", None, [1], {"a": 1}, "", 0, False, float("nan"), float("inf"), [], {}, [[1], 2], [1, [2]]]
    assert len({key_of({"v": value}) for value in values}) == len(values)
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert key_of({"v": (1, "a")}) == key_of({"v": [1, "a"]})
    assert key_of({"v": np.int64(3), "w": np.float64(0.5), "b": np.bool_(True)}) == key_of({"v": 3, "w": 0.5, "b": True})
    assert key_of({"v": Point(1, ("a",))}) == key_of({"v": {"x": 1, "y": ["a"]}})


def test_key_of_a_cell_moves_with_every_field() -> None:
    cell = Cell.of("s", "t", "d", "v", "p", "a", 0.5)
    changes = [
        cell.with_(rate=0.6),
        cell.with_(defense="trim"),
        cell.with_(split="2"),
        cell.with_(n_seeds=4),
        cell.with_(dataset="e"),
    ]
    assert len({key_of({"cell": c}) for c in [cell, *changes]}) == 1 + len(changes)


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), {1: 2}, np.zeros(2), Path("a")])
def test_key_of_refuses_what_has_no_stable_hash(value: object) -> None:
    with pytest.raises(BadInput, match=r"key\.v\[0\]"):
        key_of({"v": [value]})


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(plain, plain)
def test_equal_keys_mean_equal_values(left: object, right: object) -> None:
    if key_of({"v": left}) == key_of({"v": right}):
        assert left == right
    assert key_of({"v": left}) == key_of({"v": left})


def test_every_library_that_computes_numbers_is_in_the_keys() -> None:
    """A stored number must not outlive the library that computed it. What the others read enters keys by its content."""
    others = {
        "cloudpickle",
        "greenlet",
        "itables",
        "joblib",
        "matplotlib",
        "pandas",
        "pytest",
        "pytest-benchmark",
        "rich",
        "tabulate",
        "threadpoolctl",
    }
    readers = {"pillow", "pooch", "safetensors", "skrub", "tokenizers", "torchvision"}
    declared = tomllib.loads((fingerprint.PACKAGE.parent / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {text.partition(">=")[0] for text in declared}
    assert names - others - readers == set(fingerprint.LIBRARIES)


def test_texts_that_are_cut_elsewhere_have_another_hash() -> None:
    found = {texts_hash(texts) for texts in (["a", "b"], ["a\0b"], ["ab", ""], ["", "ab"], ["b", "a"], [])}
    assert len(found) == 6
    assert texts_hash(["a", "\ud800"]) != texts_hash(["a", "\ud801"])
