"""The public names, their documentation, and the pages that show them."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import itertools
import re
import textwrap
from pathlib import Path

import pytest

import subpop
from subpop import testing as contracts
from subpop.defenses import DEFENSES, matched_random_filter

ROOT = Path(__file__).parents[1]
CERTIFICATES = ("kl_radius", "most_wrong", "neyman_pearson_radius", "pairwise_exact_radius", "pairwise_log_bounds")
FILTERS = tuple(
    f"{defense.__module__}.{defense.__name__}".removeprefix("subpop.defenses.")
    for defense in (*DEFENSES.values(), matched_random_filter)
)
"""Every registered defense is public; a new one needs no line here."""
PUBLIC = (
    *(f"subpop.{name}" for name in subpop.__all__),
    *(f"subpop.testing.{name}" for name in contracts.__all__),
    *(f"subpop.defenses.certificates.{name}" for name in CERTIFICATES),
    *(f"subpop.defenses.{name}" for name in FILTERS),
    *(f"subpop.defenses.adapters.{name}" for name in ("art_filter", "cleanlab_filter", "outlier_filter")),
    "subpop.attacks.adapters.SubpopulationAttack",
    "subpop.session.pytest_plugin.clean_model",
    "subpop.session.pytest_plugin.measure",
    "subpop.datasets.split.split",
    "subpop.audit.run.audit",
    "subpop.audit.result.Audit",
)
WITHOUT_EXAMPLE = {
    "subpop.Certificate": "a type",
    "subpop.ChannelModel": "implemented by convolutional victims",
    "subpop.Damage": "shown with `damage`",
    "subpop.MissingData": "needs a missing file",
    "subpop.StoredModel": "implemented by victims",
    "subpop.Worst": "shown with `worst_k`",
    "subpop.defenses.adapters.art_filter": "needs the toolbox; docs/adapters.md has one",
    "subpop.defenses.adapters.cleanlab_filter": "needs cleanlab",
    "subpop.testing.ContractWarning": "a warning",
    "subpop.session.pytest_plugin.clean_model": "a fixture",
    "subpop.session.pytest_plugin.measure": "a fixture",
}


def found(path):
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def documented_values(module):
    """Module-level names, and the string below each."""
    body = ast.parse(Path(module.__file__).read_text()).body
    texts = {}
    for node, following in itertools.pairwise(body):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            texts[target.id] = inspect.cleandoc(following.value.value)
    return texts


def docstring(path):
    thing, name = found(path), path.rpartition(".")[2]
    if inspect.isclass(thing) or inspect.isfunction(thing) or path.startswith("subpop.session.pytest_plugin."):
        return inspect.getdoc(thing) or ""
    modules = ["subpop.types.roles", *(f"subpop.{module}" for module in ("datasets", "attacks", "victims", "defenses"))]
    return next((texts[name] for texts in map(documented_values, map(importlib.import_module, modules)) if name in texts), "")


def section(text, title):
    """The text of a numpydoc section, '' without one."""
    match = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return match.group(1) if match else ""


def entries(text):
    """Names that a section of parameters documents."""
    return {name.strip(" *") for line in text.splitlines() if line and not line.startswith(" ") for name in line.split(",")}


def functions():
    """Public functions, and the methods that public classes define, with their paths."""
    for path in PUBLIC:
        thing = found(path)
        if inspect.isfunction(thing):
            yield path, thing
        if inspect.isclass(thing):
            for name, method in vars(thing).items():
                method = getattr(method, "__func__", method)
                if inspect.isfunction(method) and not name.startswith("_"):
                    yield f"{path}.{name}", method


FUNCTIONS = dict(functions())
DATACLASSES = [path for path in PUBLIC if dataclasses.is_dataclass(found(path))]


def raises_bad_input(function):
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    return any(isinstance(error.func, ast.Name) and error.func.id == "BadInput" for error in raised)


def test_there_are_at_most_sixty_four_public_names_besides_the_registered_defenses():
    assert len(set(PUBLIC)) == len(PUBLIC) <= len(FILTERS) + 64


def test_the_reference_shows_exactly_the_public_names():
    pages = "\n".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    shown = re.findall(r"^::: (\S+)$", pages, re.MULTILINE)
    assert sorted(shown) == sorted(PUBLIC)


@pytest.mark.parametrize("path", PUBLIC)
def test_every_public_name_is_documented(path):
    summary, _, rest = docstring(path).partition("\n")
    assert summary, f"{path} has no docstring"
    assert not rest or rest.startswith("\n") or "\n\n" not in rest, f"{path}: the summary is one line, followed by a blank one"


@pytest.mark.parametrize("path", FUNCTIONS)
def test_every_parameter_result_and_error_is_documented(path):
    function = FUNCTIONS[path]
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    expected = {name for name in signature.parameters if name not in ("self", "cls")}
    if expected:
        assert entries(section(text, "Parameters")) == expected
    if expected and signature.return_annotation not in ("None", None):
        assert section(text, "Returns")
    if expected and raises_bad_input(function):
        assert "BadInput" in section(text, "Raises")


@pytest.mark.parametrize("path", DATACLASSES)
def test_every_field_is_documented_below_the_field(path):
    thing = found(path)
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    described = {
        node.target.id
        for node, following in itertools.pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
    }
    assert described == {field.name for field in dataclasses.fields(thing)}


@pytest.mark.parametrize("path", PUBLIC)
def test_examples_run(path):
    parts = [(path, docstring(path))]
    parts += [(name, inspect.getdoc(function) or "") for name, function in FUNCTIONS.items() if name.startswith(f"{path}.")]
    examples = [doctest.DocTestParser().get_doctest(text, {}, name, None, 0) for name, text in parts]
    assert any(example.examples for example in examples) or path in WITHOUT_EXAMPLE, f"{path} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    output = []
    for example in examples:
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
