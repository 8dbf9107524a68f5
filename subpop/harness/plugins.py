"""Plug-ins (defenses, attacks, loaders of data): `path.py:function` or `package.module:function`, with optional arguments.

A specification is read from the file's syntax tree. No code of the file runs before `load`, which only the child process, and
the commands `subpop check` and `subpop debug`, call.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import stat
import sys
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from subpop.runtime.fingerprint import plugin_hash
from subpop.runtime.naming import Reference, parse_reference
from subpop.runtime.options import place
from subpop.types import GRANTED, BadInput
from subpop.types.printable import described, printable, said_by

MAX_FITS = 2000
"""Maximum number of calls of `fit` in a trial, unless the function declares more."""

_Functions = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Role:
    """What a plug-in is, for messages, and how it is called."""

    noun: str
    signature: str
    call: str
    option: str
    n_given: int
    """Number of arguments by position."""
    takes_seed: bool = True
    """Whether it is also given a seed, by name."""

    @property
    def one(self) -> str:
        """`a defense`, `an attack`."""
        return f"{'an' if self.noun[0] in 'aeiou' else 'a'} {self.noun}"

    @property
    def usage(self) -> str:
        """The notation, with an example."""
        word = self.noun.replace(" ", "_")
        own = f"my_{word}.py:my_{word}"
        return f"write path.py:function or package.module:function, such as {own} or {own}(share=0.1)"


DEFENSE = Role("defense", "(train, fit, know, *, seed)", "(train, fit, know, seed=0)", "--defense ", 3)
ATTACK = Role("attack", "(sample, count, *, seed)", "(sample, count, seed=0)", "--attack ", 2)
DATASET = Role("data set", "() that returns its rows and labels", "()", "--dataset ", 0, takes_seed=False)


@dataclass(frozen=True)
class DefenseSpec:
    """A defense that has been found but not imported."""

    name: str
    """The name in reports."""
    path: Path
    """The file."""
    module: str
    """The dotted module name, '' for a file outside a package."""
    function: str
    """The function's name."""
    folder: Path
    """The folder that is added to `sys.path` for the import."""
    needs: frozenset[str]
    """Names of fields of Knowledge."""
    source: str
    """Hash of the file and of the local modules that it imports."""
    deterministic: bool = True
    """Whether a trial always has the same result; False if the file declares `function.deterministic = False`."""
    hidden_since: float | None = None
    """Files written since then are hidden (see `subpop.harness.hiding`); None to hide none."""
    max_fits: int = MAX_FITS
    """Maximum number of calls of `fit` in a trial; the file may declare `function.max_fits = 5000`."""
    arguments: str = ""
    """Further arguments of the function as `(name=value, ...)`, or ''."""
    may_filter: bool = True
    """Whether it may return a mask of the rows that it kept: False if every `Defended(...)` in the file has a model only."""
    pickled: bytes = b""
    """The function itself where no file has it by name (see `subpop.harness.callables`). Its trials are not reused in another
    session, since nothing tells whether it is the same one."""
    role: ClassVar[Role] = DEFENSE


@dataclass(frozen=True)
class AttackSpec(DefenseSpec):
    """An attack that has been found but not imported."""

    role: ClassVar[Role] = ATTACK


@dataclass(frozen=True)
class DatasetSpec(DefenseSpec):
    """A loader of data that has been found but not imported."""

    role: ClassVar[Role] = DATASET


Spec = TypeVar("Spec", bound=DefenseSpec)


# --- reading ----------------------------------------------------------------------------------------------------------


def parse_plugin(kind: type[Spec], spec: str, base_dir: Path, option: str) -> Spec:
    """Find a function of this kind and what it declares without importing it; paths are relative to `base_dir`. Raises BadInput,
    whose message begins with `option` where the specification itself is wrong."""
    role = kind.role
    reference = parse_reference(spec, role.usage, option)
    shown = option + repr(spec)
    where, function = reference.where, reference.name
    if reference.is_file:
        path, module, folder = _file(shown, where, base_dir, role), "", None
    else:
        path, module, folder = _find_module(shown, where, base_dir, role), where, base_dir.resolve()
    tree = _parsed(path)
    _check_function(tree, reference, path, role)
    stem = where.rpartition(".")[2] if module else path.stem
    needs = checked_needs(_needs_of(tree, function, path), function, path)
    if needs and role is not DEFENSE:
        raise BadInput(
            f"{path}: {function}.needs grants nothing to {role.one}; delete it: only defenses are granted side information"
        )
    return kind(
        name=printable((function if function == stem else f"{stem}.{function}") + reference.call).replace("\n", " "),
        path=path,
        module=module,
        function=function,
        folder=folder or path.parent,
        needs=needs,
        source=plugin_hash(path),
        deterministic=_is_deterministic(tree, function, path),
        max_fits=_max_fits_of(tree, function, path),
        arguments=reference.call,
        may_filter=_may_filter(tree),
    )


def _file(shown: str, where: str, base_dir: Path, role: Role) -> Path:
    """Return the regular file at a path; raises BadInput for anything else, without opening it."""
    path = place(where, base_dir)
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            return path.resolve()
        found = f"{path} is {'a folder' if stat.S_ISDIR(kind) else 'not a regular file'}"
    except FileNotFoundError:
        found = f"there is no file {path}"
    except (OSError, ValueError) as error:
        found = f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
    raise BadInput(f"{shown}: {found}; {role.usage}, relative to {base_dir}")


def _find_module(shown: str, name: str, base_dir: Path, role: Role) -> Path:
    """The file of a dotted module name, found without importing any package."""
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise BadInput(f"{shown}: {name!r} is not a module name; {role.usage}")
    roots = [base_dir.resolve(), *(Path(entry or ".") for entry in sys.path)]
    try:
        top = importlib.util.find_spec(parts[0])  # finds editable installs; for a top-level name it runs no code
    except ValueError:  # __main__
        top = None
    if top is not None and top.submodule_search_locations is not None:
        roots += [Path(location).parent for location in top.submodule_search_locations]
    for root in roots:
        plain = root.joinpath(*parts)
        for path in (plain.with_name(plain.name + ".py"), plain / "__init__.py"):
            if path.is_file():
                return path
    raise BadInput(f"{shown}: there is no module {name!r} in {base_dir} or on sys.path; {role.usage}")


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); give read access to it") from error
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # the last two: nested too deeply
        line = getattr(error, "lineno", None)
        raise BadInput(f"{path}{f', line {line}' if line else ''}: not valid Python ({error}); correct the file") from error


def _check_function(tree: ast.Module, reference: Reference, path: Path, role: Role) -> None:
    name = reference.name
    definition = _defined(tree).get(name)
    if definition is None:
        there = [n for n, node in _defined(tree).items() if isinstance(node, ast.FunctionDef) and not n.startswith("_")]
        raise BadInput(f"{path} has no function {name!r}; it has {', '.join(there) or 'no public function'}")
    if isinstance(definition, ast.ClassDef | ast.AsyncFunctionDef):
        kind = "a class" if isinstance(definition, ast.ClassDef) else "an async function"
        raise BadInput(f"{name!r} in {path} is {kind}; {role.one} is a plain function {role.signature}")
    if isinstance(getattr(definition, "value", None), ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set):
        raise BadInput(f"{name!r} in {path} is a constant; {role.one} is a function {role.signature}")
    if reference.positional:
        raise BadInput(f"{name}{reference.call} in {path} has arguments without names; write each by its name, such as share=0.1")
    given = {argument for argument, _ in reference.named}
    if isinstance(definition, ast.FunctionDef):
        _check_arguments(definition.args, given, name, path, role)
    if isinstance(definition, ast.FunctionDef) and not _takes_the_call(definition.args, role, given):
        raise BadInput(f"{name!r} in {path} cannot be called as {name}{role.call}; give it these parameters")


def _defined(tree: ast.Module) -> dict[str, ast.stmt]:
    """Return the definitions at the top level of the file by name, including those in blocks such as `if` and `try`."""
    found: dict[str, ast.stmt] = {}
    for node in _top_level(tree.body):
        if isinstance(node, _Functions | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name): node for alias in node.names}
        for target in _targets(node):
            if isinstance(target, ast.Name):
                found[target.id] = node
    return found


def _top_level(body: list[ast.stmt]) -> list[ast.stmt]:
    nodes: list[ast.stmt] = []
    for node in body:
        nodes.append(node)
        if isinstance(node, ast.If | ast.Try | ast.With):
            handlers = [line for handler in getattr(node, "handlers", []) for line in handler.body]
            rest = [*getattr(node, "orelse", []), *getattr(node, "finalbody", [])]
            nodes += _top_level([*node.body, *handlers, *rest])
    return nodes


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) and node.value is not None else []


def _check_arguments(args: ast.arguments, given: set[str], name: str, path: Path, role: Role) -> None:
    """Raise BadInput for arguments that the function does not have, or that the harness passes itself."""
    passed = {"seed"} if role.takes_seed else set()
    own = [arg.arg for arg in [*args.args[role.n_given :], *args.kwonlyargs] if arg.arg not in passed]
    unknown = sorted(given - set(own))
    if unknown and (args.kwarg is None or given & {*passed, *(arg.arg for arg in args.args[: role.n_given])}):
        raise BadInput(f"{name!r} in {path} has no argument {unknown[0]!r} of its own; it has {', '.join(own) or 'none'}")


def _takes_the_call(args: ast.arguments, role: Role, given: Set[str] = frozenset()) -> bool:
    positional = [*args.posonlyargs, *args.args]
    named_ones = [arg.arg for arg in [*args.args[role.n_given :], *args.kwonlyargs]]
    seed = not role.takes_seed or args.kwarg is not None or "seed" in named_ones
    known, without_default = {*(["seed"] if role.takes_seed else []), *given}, positional[: len(positional) - len(args.defaults)]
    required = sum(arg.arg not in known for arg in without_default)
    named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    extra = [arg.arg for arg, default in named if default is None and arg.arg not in known]
    return seed and required <= role.n_given and (len(positional) >= role.n_given or args.vararg is not None) and not extra


# --- needs ------------------------------------------------------------------------------------------------------------


def _declared(tree: ast.Module, function: str, name: str) -> ast.expr | None:
    """Return the value in `function.name = value`, or in `name = value` of the class that `function` is an instance of, or
    None."""
    holder = getattr(_defined(tree).get(function), "value", None)
    class_name = holder.func.id if isinstance(holder, ast.Call) and isinstance(holder.func, ast.Name) else None
    owner = _defined(tree).get(class_name) if class_name else None
    found: ast.expr | None = None
    for node in owner.body if isinstance(owner, ast.ClassDef) else []:
        if any(isinstance(target, ast.Name) and target.id == name for target in _targets(node)):
            found = node.value  # type: ignore[attr-defined]
    for node in _top_level(tree.body):
        if any(ast.unparse(target) == f"{function}.{name}" for target in _targets(node)):
            found = node.value  # type: ignore[attr-defined]
    return found


def _needs_of(tree: ast.Module, function: str, path: Path) -> list[str]:
    """Names from `function.needs = {...}`."""
    value = _declared(tree, function, "needs")
    return [] if value is None else _literal_names(value, function, path)


def _is_deterministic(tree: ast.Module, function: str, path: Path) -> bool:
    """Return the value of `function.deterministic = ...`; True if it is not declared."""
    value = _declared(tree, function, "deterministic")
    if value is None:
        return True
    if not isinstance(value, ast.Constant) or not isinstance(value.value, bool):
        raise BadInput(
            f"{path}, line {value.lineno}: deterministic of {function!r} is {ast.unparse(value)}; it is read without running "
            "the file, so write True or False"
        )
    return value.value


def _may_filter(tree: ast.Module) -> bool:
    """Whether some `Defended(...)` has a mask, or none is in the file, so that another module makes them."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Defended")]
    return not calls or any(len(call.args) > 1 or {"keep", None} & {each.arg for each in call.keywords} for call in calls)


def _max_fits_of(tree: ast.Module, function: str, path: Path) -> int:
    """Return the value of `function.max_fits = ...`; MAX_FITS if it is not declared."""
    value = _declared(tree, function, "max_fits")
    if value is None:
        return MAX_FITS
    if not isinstance(value, ast.Constant) or type(value.value) is not int or value.value < 1:
        raise BadInput(
            f"{path}, line {value.lineno}: max_fits of {function!r} is {ast.unparse(value)}; it is read without running the "
            "file, so write a whole number of at least 1, such as 5000"
        )
    return value.value


def _literal_names(value: ast.expr, function: str, path: Path) -> list[str]:
    line = value.lineno
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("set", "frozenset"):
        value = value.args[0] if value.args else ast.Tuple([])
    items = value.elts if isinstance(value, ast.Set | ast.List | ast.Tuple) else None
    if items is None or not all(isinstance(item, ast.Constant) and isinstance(item.value, str) for item in items):
        raise BadInput(
            f"{path}, line {line}: needs of {function!r} is {ast.unparse(value)}; it is read without running the file, "
            'so write the names out: {"n_poison"}'
        )
    return [str(item.value) for item in items if isinstance(item, ast.Constant)]


def checked_needs(names: list[str], function: str, path: Path) -> frozenset[str]:
    if "poison_mask" in names:
        raise BadInput(
            f"{function!r} in {path} needs poison_mask, which is not available to plug-ins; it may need {', '.join(GRANTED)}"
        )
    unknown = sorted(set(names) - set(GRANTED))
    if unknown:
        raise BadInput(f"{function!r} in {path} needs {', '.join(map(repr, unknown))}; it may need {', '.join(GRANTED)}")
    return frozenset(names)


# --- importing --------------------------------------------------------------------------------------------------------


def load(spec: DefenseSpec) -> Any:
    """Import the file and return its function; raises BadInput with the line at which importing failed."""
    if spec.pickled:
        return _unpickled(spec)
    if str(spec.folder) not in sys.path:
        sys.path.insert(0, str(spec.folder))
    try:
        module = importlib.import_module(spec.module) if spec.module else _import_file(spec.path)
        function = getattr(module, spec.function)
    except (Exception, SystemExit) as error:
        reason = f"sys.exit({said_by(error)})" if isinstance(error, SystemExit) else described(error)
        raise BadInput(f"{_place(error, spec.path)}: importing it failed with {reason}; correct the file") from error
    if not callable(function):
        raise BadInput(f"{spec.path}: {spec.function} is {type(function).__name__}; it must be a function {spec.role.signature}")
    needs = getattr(function, "needs", ())
    if frozenset(needs) != spec.needs:
        raise BadInput(
            f"{spec.path}: {spec.function}.needs is {sorted(needs)} but reads {sorted(spec.needs)} without running the file; "
            f"write `{spec.function}.needs = {{...}}` below the function"
        )
    return parse_reference(f"module:{spec.function}{spec.arguments}", spec.role.usage).bind(function)


def _unpickled(spec: DefenseSpec) -> Any:
    import cloudpickle

    try:
        return cloudpickle.loads(spec.pickled)
    except (Exception, SystemExit) as error:
        reason = "another process cannot read it; write it to a file"
        raise BadInput(f"{spec.name} was sent by value, and {reason} ({described(error)})") from error


def _import_file(path: Path) -> object:
    """Import a file under a name that no installed module has."""
    name = f"subpop_plugin_{path.stem}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise BadInput(f"{path} cannot be imported; name a .py file")
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # dataclasses and pickle look there
    found.loader.exec_module(module)
    return module


def _place(error: BaseException, path: Path) -> str:
    """`file, line n`: the last line of the plug-in's file that the error passed through."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == str(path):
            line = frame.tb_lineno
        frame = frame.tb_next
    return str(path) if line is None else f"{path}, line {line}"
