"""Reads a source tree and says where it uses what another library keeps to itself: a name that
begins with an underscore."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping

OURS = "multimodal"
DOCUMENTED = {"torch.utils._python_dispatch.TorchDispatchMode"}
"""Public although its place is not: PyTorch's notes on extending it tell people to import it so."""
BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "attrgetter", "methodcaller"}
MAPPINGS = {"get", "pop", "setdefault"}
"""Methods by which a name may be read out of `vars(x)` or `x.__dict__`."""


def is_private(name: str) -> bool:
    return any(
        part.startswith("_") and not (part.startswith("__") and part.endswith("__"))
        for part in name.split(".")
    )


def foreign_names(sources: Mapping[str, str]) -> list[str]:
    """All uses in `sources`: path -> text. A private attribute is our own where a source of ours
    defines it: any of them on `self`, the same one on anything else."""
    trees = {path: ast.parse(source) for path, source in sources.items()}
    ours = {path: set(_defined(tree)) for path, tree in trees.items()}
    everywhere = set().union(*ours.values())
    return [
        f"{path}:{line}: {what}"
        for path, tree in trees.items()
        for line, what in sorted(_uses(tree, ours[path], everywhere))
    ]


def _defined(tree: ast.AST) -> Iterator[str]:
    """Names that this source gives to functions, classes, variables and attributes of `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node):
            yield node.attr


def _is_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}


def _uses(tree: ast.AST, here: set[str], everywhere: set[str]) -> Iterator[tuple[int, str]]:
    modules = _standard_modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((node.lineno, f"imports {name}") for name in _imported(node))
        elif isinstance(node, ast.Attribute) and is_private(node.attr):
            of_module = isinstance(node.value, ast.Name) and node.value.id in modules
            if not of_module and node.attr not in (everywhere if _is_self(node) else here):
                yield node.lineno, f"uses {ast.unparse(node)}"
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, f"names {name}") for name in _named(node, here))
        elif isinstance(node, ast.Subscript) and _is_namespace(node.value):
            name = node.slice.value if isinstance(node.slice, ast.Constant) else ""
            if isinstance(name, str) and is_private(name) and name not in here:
                yield node.lineno, f"names {name}"


def _standard_modules(tree: ast.AST) -> set[str]:
    """What Python's own modules are called here. `os._exit` is documented, and so public."""
    return {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] in sys.stdlib_module_names
    }


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        top = name.split(".")[0]
        foreign = top != OURS and top not in sys.stdlib_module_names
        if foreign and is_private(name) and name not in DOCUMENTED:
            yield name


def _named(node: ast.Call, here: set[str]) -> Iterator[str]:
    """Private names that a call takes as a keyword, or as the text of an attribute's name."""
    yield from (k.arg for k in node.keywords if k.arg and is_private(k.arg) and k.arg not in here)
    called = node.func
    name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
    reads = isinstance(called, ast.Attribute) and name in MAPPINGS and _is_namespace(called.value)
    if name not in BY_NAME and not reads:
        return
    for argument in node.args:
        text = argument.value if isinstance(argument, ast.Constant) else ""
        if isinstance(text, str) and is_private(text) and text not in here:
            yield text


def _is_namespace(node: ast.expr) -> bool:
    """Whether this is `vars(x)` or `x.__dict__`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "vars"
    return isinstance(node, ast.Attribute) and node.attr == "__dict__"
