"""Finding a plug-in defense without running it, and importing it in the end."""

import sys
import textwrap

import pytest
from small_projects import parse_defense

from subpop.harness.plugins import GRANTED, AttackSpec, DatasetSpec, DefenseSpec, load, parse_plugin
from subpop.types import BadInput

SIMPLE = """
import numpy as np
raise_if_run = 1 / 0


def drop(train, fit, know, *, seed):
    return fit(train)


def _helper(train):
    return train


def other(train, fit, know, seed=0, rounds=3): ...
"""


@pytest.fixture(autouse=True)
def _own_imports(monkeypatch):
    """Whatever a plug-in puts on sys.path or imports is gone after the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_a_file_is_read_and_not_run(tmp_path, write):
    path = write("mine/my_defense.py", SIMPLE)
    spec = parse_defense("mine/my_defense.py:drop", tmp_path)
    assert (spec.name, spec.path, spec.module, spec.function) == ("my_defense.drop", path, "", "drop")
    assert spec.folder == path.parent
    assert spec.needs == frozenset()
    assert parse_defense(f"{path}:other", tmp_path / "elsewhere").path == path


def test_a_function_named_like_its_file_needs_no_longer_name(tmp_path, write):
    write("drop.py", SIMPLE)
    assert parse_defense("drop.py:drop", tmp_path).name == "drop"
    assert parse_defense("drop.py:other", tmp_path).name == "drop.other"


def test_a_module_is_found_without_importing_its_package(tmp_path, write):
    write("pack/__init__.py", "raise RuntimeError('imported')")
    path = write("pack/sub/mod.py", SIMPLE)
    spec = parse_defense("pack.sub.mod:drop", tmp_path)
    assert (spec.name, spec.path, spec.module, spec.folder) == ("mod.drop", path, "pack.sub.mod", tmp_path)
    assert "pack" not in sys.modules


def test_a_package_itself_and_an_installed_module_can_be_named(tmp_path, write):
    path = write("pack/__init__.py", SIMPLE)
    assert parse_defense("pack:drop", tmp_path).path == path
    assert parse_defense("subpop.defenses.trim:trim", tmp_path).needs == {"n_poison"}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_defense.py", "names no function; write path.py:function"),
        ("my_defense.py:", "names no function"),
        (":drop", "names no function"),
        ("my_defense.py:not a name", "names no function"),
        ("absent.py:drop", "there is no file .*absent.py"),
        ("sub/absent.py:drop", "there is no file"),
        ("absent:drop", "there is no module 'absent'"),
        ("os.absent:drop", "there is no module 'os.absent'"),
        ("my-defense:drop", "not a module name"),
        ("my_defense.py:absent", "has no function 'absent'; it has drop, other$"),
        ("broken.py:drop", "broken.py, line 2: not valid Python"),
        ("empty.py:drop", "it has no public function"),
        ("shapes.py:Thing", "'Thing' in .* is a class"),
        ("constant.py:share", "'share' in .* is a constant; a defense is a function"),
        ("shapes.py:later", "is an async function"),
        ("shapes.py:few", "cannot be called as few"),
        ("shapes.py:no_seed", "cannot be called"),
        ("shapes.py:more", "cannot be called"),
    ],
)
def test_what_is_refused(tmp_path, write, spec, message):
    write("my_defense.py", SIMPLE)
    write("broken.py", "\ndef drop(:\n")
    write("empty.py", "")
    write("constant.py", "share = 0.1\n")
    write(
        "shapes.py",
        """
        class Thing: ...
        async def later(train, fit, know, *, seed): ...
        def few(train, fit, *, seed): ...
        def no_seed(train, fit, know): ...
        def more(train, fit, know, strength, *, seed): ...
        """,
    )
    with pytest.raises(BadInput, match=message):
        parse_defense(spec, tmp_path)


@pytest.mark.parametrize("spec", ["absent.py:drop", "absent:drop", "my-defense:drop", "absent.py"])
def test_only_a_message_about_the_option_names_it(tmp_path, spec):
    with pytest.raises(BadInput, match=f"^--defense '{spec}'"):
        parse_defense(spec, tmp_path)
    with pytest.raises(BadInput, match=f"^'{spec}'"):
        parse_plugin(DefenseSpec, spec, tmp_path, option="")


@pytest.mark.parametrize(
    "definition",
    [
        "def f(train, fit, know, *, seed): ...",
        "def f(train, fit, know, seed): ...",
        "def f(t, f, k, **options): ...",
        "def f(*args, seed=0): ...",
        "def f(train, fit, know, *, seed, rounds=3): ...",
        "from functools import partial\nf = partial(print, 3)",
        "from other import f",
        "from other import g as f",
        "try:\n    import fast\nexcept ImportError:\n    def f(train, fit, know, *, seed): ...",
        "f: object = lambda train, fit, know, *, seed: 0",
    ],
)
def test_what_may_be_a_defense(tmp_path, write, definition):
    write("d.py", definition)
    assert parse_defense("d.py:f", tmp_path).function == "f"


# --- needs ------------------------------------------------------------------------------------------------------------

DEF = "def f(train, fit, know, *, seed): ...\n"


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        (DEF, set()),
        (DEF + "# f.needs = {'n_poison'}", set()),
        (DEF + "f.needs = {'n_poison'}", {"n_poison"}),
        (DEF + "f.needs = ['n_poison', 'clean_holdout']", {"n_poison", "clean_holdout"}),
        (DEF + "f.needs = frozenset({'representation'})", {"representation"}),
        (DEF + "f.needs = set()", set()),
        (DEF + "def g(): ...\ng.needs = {'n_poison'}", set()),
        ("class D:\n    needs = {'n_poison'}\nf = D()", {"n_poison"}),
        ("class D:\n    needs: set[str] = {'n_poison'}\nf = D()\nf.needs = set()", set()),
    ],
)
def test_needs_are_read_from_the_file(tmp_path, write, text, needs):
    write("d.py", text)
    assert parse_defense("d.py:f", tmp_path).needs == needs


@pytest.mark.parametrize(
    ("text", "max_fits"),
    [
        (DEF, 2000),
        (DEF + "f.max_fits = 5000", 5000),
        (DEF + "f.max_fits = 1", 1),
        ("class D:\n    max_fits = 3000\nf = D()", 3000),
    ],
)
def test_how_often_a_trial_may_fit_is_read_from_the_file(tmp_path, write, text, max_fits):
    write("d.py", text)
    assert parse_defense("d.py:f", tmp_path).max_fits == max_fits


@pytest.mark.parametrize("value", ["0", "-3", "1e4", "True", "10 ** 6", "None", "'many'"])
def test_a_number_of_fits_that_cannot_be_read(tmp_path, write, value):
    write("d.py", DEF + f"f.max_fits = {value}")
    with pytest.raises(BadInput, match=r"line 2: max_fits of 'f' is .*; it is read without running the file"):
        parse_defense("d.py:f", tmp_path)


@pytest.mark.parametrize(
    ("text", "deterministic"),
    [
        (DEF, True),
        (DEF + "f.deterministic = False", False),
        (DEF + "f.deterministic = True", True),
        ("class D:\n    deterministic = False\nf = D()", False),
    ],
)
def test_whether_a_defense_repeats_itself_is_read_from_the_file(tmp_path, write, text, deterministic):
    write("d.py", text)
    assert parse_defense("d.py:f", tmp_path).deterministic is deterministic


def test_determinism_that_only_running_the_file_would_tell_is_refused(tmp_path, write):
    write("d.py", DEF + "f.deterministic = bool(0)")
    with pytest.raises(BadInput, match="line 2: deterministic of 'f' is bool\\(0\\); it is read without running the file"):
        parse_defense("d.py:f", tmp_path)


def test_only_defenses_may_need_something(tmp_path, write):
    write("d.py", "def f(sample, count, *, seed): ...\nf.needs = {'clean_holdout'}\ndef load(): ...\nload.needs = {'groups'}\n")
    with pytest.raises(BadInput, match=r"f.needs grants nothing to an attack; delete it"):
        parse_plugin(AttackSpec, "d.py:f", tmp_path, "--attack ")
    with pytest.raises(BadInput, match=r"load.needs grants nothing to a data set"):
        parse_plugin(DatasetSpec, "d.py:load", tmp_path, "--dataset ")


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ("{'poison_mask'}", "needs poison_mask, which is not available to plug-ins; it may need n_poison, clean_holdout, repr"),
        ("{'n_poison', 'labels'}", "needs 'labels'; it may need n_poison"),
        ("NEEDS", r"d.py, line 2: needs of 'f' is NEEDS; it is read without running the file"),
        ("{'n_poison', 3}", "write the names out"),
        ("'n_poison'", "write the names out"),
    ],
)
def test_needs_that_are_refused(tmp_path, write, needs, message):
    write("d.py", DEF + f"f.needs = {needs}")
    with pytest.raises(BadInput, match=message):
        parse_defense("d.py:f", tmp_path)


def test_only_the_mask_and_the_recipe_are_withheld():
    from subpop.types import Knowledge

    assert {*GRANTED, "poison_mask", "training"} == set(Knowledge.__dataclass_fields__)


# --- the source -------------------------------------------------------------------------------------------------------


def test_the_source_changes_with_code_and_not_with_layout(tmp_path, write):
    def source(text, helper="value = 1"):
        write("d.py", text)
        write("helper.py", helper)
        return parse_defense("d.py:f", tmp_path).source

    code = "import helper\ndef f(train, fit, know, *, seed):\n    return fit(train)\n"
    assert source(code) == source("# why\nimport helper\n\n\ndef f(train, fit, know, *, seed):\n    return fit( train )\n")
    assert source(code) != source(code.replace("fit(train)", "fit(train[:0])"))
    assert source(code) != source(code, helper="value = 2")


# --- importing --------------------------------------------------------------------------------------------------------


def test_load_imports_the_file_and_what_lies_beside_it(tmp_path, write):
    write("near.py", "answer = 42")
    write(
        "d.py",
        """
        from dataclasses import dataclass

        import near

        @dataclass
        class Answer:
            x: int

        def f(train, fit, know, *, seed):
            return Answer(near.answer).x
        """,
    )
    assert load(parse_defense("d.py:f", tmp_path))(None, None, None, seed=0) == 42


def test_load_imports_a_module_with_relative_imports(tmp_path, write):
    write("pack/__init__.py", "")
    write("pack/near.py", "answer = 43")
    write("pack/d.py", "from . import near\ndef f(train, fit, know, *, seed):\n    return near.answer")
    assert load(parse_defense("pack.d:f", tmp_path))(None, None, None, seed=0) == 43


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nimport nowhere_to_be_found\n" + DEF, "d.py, line 2: importing it failed with ModuleNotFoundError: No module named"),
        (DEF + "def g():\n    1 / 0\ng()", "d.py, line 3: importing it failed with ZeroDivisionError"),
        (DEF + "import sys\nsys.exit(5)", r"d.py, line 3: importing it failed with sys.exit\(5\)"),
        (DEF + "__import__('wrong')", "wrong.py, line 1: importing it failed with SyntaxError"),
        (DEF + "del f", "has no attribute 'f'"),
        ("f = abs(-3)", "f is int; it must be a function"),
        (DEF + "setattr(f, 'needs', {'n_poison'})", r"f.needs is \['n_poison'\] but reads \[\] without running the file"),
    ],
)
def test_what_goes_wrong_while_importing_is_placed(tmp_path, write, text, message):
    write("wrong.py", "def (")
    write("d.py", text)
    spec = parse_defense("d.py:f", tmp_path)
    with pytest.raises(BadInput, match=message):
        load(spec)


def test_a_broken_module_beside_it_is_found_before_anything_runs(tmp_path, write):
    write("wrong.py", "def (")
    write("d.py", DEF + "import wrong")
    with pytest.raises(BadInput, match=r"wrong\.py is not valid Python"):
        parse_defense("d.py:f", tmp_path)
