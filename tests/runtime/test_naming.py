"""The notation `path.py:name(arguments)`: what it reads, and that nothing runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subpop.runtime.naming import parse_reference
from subpop.types import BadInput

USAGE = "write path.py:function"
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("text", "where", "name", "positional", "named"),
    [
        ("my_defense.py:drop", "my_defense.py", "drop", (), ()),
        ("sklearn.svm:LinearSVC(C=0.1)", "sklearn.svm", "LinearSVC", (), (("C", 0.1),)),
        ("a/b c.py:f(1, 'x:y', b=[1, -2], a=None)", "a/b c.py", "f", (1, "x:y"), (("a", None), ("b", [1, -2]))),
        ("C:/work (copy)/d.py:f()", "C:/work (copy)/d.py", "f", (), ()),
        ("pack.mod:f(text='a:b(c)')", "pack.mod", "f", (), (("text", "a:b(c)"),)),
        ("modul.py:größe(ß=1)", "modul.py", "größe", (), (("ß", 1),)),
    ],
)
def test_what_is_written(text, where, name, positional, named):
    found = parse_reference(text, USAGE)
    assert (found.where, found.name, found.positional, found.named) == (where, name, positional, named)
    assert found.is_file == where.endswith(".py")
    assert parse_reference(f"{where}:{name}{found.call}", USAGE) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("drop", "names no function; write path.py:function"),
        ("a.py:", "names no function"),
        ("a.py:1f", "names no function"),
        ("a.py:f(", "names no function"),
        ("a.py:f(x=)", "not valid Python"),
        ("a.py:f(x=open('y'))", "open\\('y'\\) .* is not a literal"),
        ("a.py:f(x=__import__('os').system('true'))", "is not a literal"),
        ("a.py:f(x=y)", "the argument y of"),
        ("a.py:f(**{'x': 1})", "write each argument by its name"),
        ("a.py:f(*[1])", "is not a literal"),
        ("a.py:f(1)(2)", "names no function"),
    ],
)
def test_what_cannot_be_read(text, said):
    with pytest.raises(BadInput, match=said):
        parse_reference(text, USAGE)


@given(
    st.lists(literals, max_size=2),
    st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True).filter(str.isidentifier), literals, max_size=2),
)
def test_any_literal_comes_back(positional, named):
    import keyword

    named = {name: value for name, value in named.items() if not keyword.iskeyword(name)}
    given_ = ", ".join([*map(repr, positional), *(f"{name}={value!r}" for name, value in named.items())])
    found = parse_reference(f"a.py:f({given_})", USAGE)
    assert (list(found.positional), dict(found.named)) == (positional, named)


def test_a_bound_function_has_the_attributes_of_the_original():
    def drop(train, fit, know, *, seed, share=0.5):
        return share

    drop.needs = {"n_poison"}
    bound = parse_reference("m:drop(share=0.1)", USAGE).bind(drop)
    assert bound(1, 2, 3, seed=0) == 0.1
    assert (bound.needs, bound.__name__) == ({"n_poison"}, "drop")
    assert parse_reference("m:drop", USAGE).bind(drop) is drop
