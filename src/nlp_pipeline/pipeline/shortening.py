"""A source as it travels: without what is not needed to run it, with short names, and each statement on its line.

Docstrings, comments, parameters' descriptions and types are left out. Functions' own variables get short names, and so
do a module's constants, functions and classes that no other module knows, and the parameters of functions that are only
called, by position. What anything else may name, stays: other parameters, attributes, and all else that a module or a
class defines.
"""

import ast
import builtins
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator
from typing import Any

from nlp_pipeline.parameters import parameter

# Where a node of a syntax tree has a name that may be another.
NAMED: dict[type, str] = {ast.Name: "id", ast.arg: "arg", ast.FunctionDef: "name", ast.ClassDef: "name"}


def shorten(text: str, shared: set[str]) -> str:
    """Returns a source as it travels; names that are shared with other modules stay."""
    tree = strip(text, types=True)
    shorten_locals(tree, shared)
    shorten_private(tree, shared)
    return write(tree)


def strip(text: str, types: bool = False) -> ast.Module:
    """Returns the syntax tree of a source, without f-strings and what is not needed to run it.

    With `types`, they are left out too, all but those of settings, and what is imported for them.
    """
    tree: ast.Module = WithoutFStrings().visit(ast.parse(text))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            docstring = node.body.pop(0)
            if not node.body and not isinstance(node, ast.Module):
                node.body.append(ast.copy_location(ast.Pass(), docstring))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == parameter.__name__:
            node.args[1] = ast.Constant("")  # the description
    if types:
        tree = WithoutTypes().visit(tree)
        tree = WithoutImports(tree).visit(tree)
    return tree


class WithoutFStrings(ast.NodeTransformer):
    """Makes f-strings calls of `format`: later Pythons write them as the pods' 3.11 can't read them."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Call:
        values: list[ast.expr] = []
        template = self._template(node, values)
        return ast.Call(ast.Attribute(ast.Constant(template), "format", ast.Load()), values, [])

    def _template(self, node: Any, values: list[ast.expr]) -> str:
        if isinstance(node, ast.Constant):
            return str(node.value).replace("{", "{{").replace("}", "}}")
        if isinstance(node, ast.JoinedStr):
            return "".join(self._template(part, values) for part in node.values)
        values.append(self.visit(node.value))
        conversion = f"!{chr(node.conversion)}" if node.conversion > 0 else ""
        return f"{{{conversion}{f':{self._template(node.format_spec, values)}' if node.format_spec else ''}}}"


class WithoutTypes(ast.NodeTransformer):
    """Leaves out the types of functions and variables, and types that have a name, in title case as nothing else."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for part in node.body:
            if not isinstance(part, ast.AnnAssign):
                self.visit(part)
            elif not node.bases:  # of settings, which have a base, kfp has the types
                part.annotation = ast.Constant(0)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return ast.copy_location(ast.Assign([node.target], node.value), node) if node.value else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        match node.targets:
            case [ast.Name(id=name)] if name.istitle():
                return None
        return node


class WithoutImports(ast.NodeTransformer):
    """Leaves out the names that a tree imports and does not use."""

    def __init__(self, tree: ast.AST) -> None:
        self.used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        node.names = [alias for alias in node.names if (alias.asname or alias.name) in self.used]
        return node if node.names else None


def write(tree: ast.Module) -> str:
    """Returns the source of a syntax tree, each statement on the line that the tree says."""
    text = ast.unparse(tree)
    written, places = text.encode().split(b"\n"), dict[int, int]()  # a syntax tree counts columns in bytes
    statements = [[node for node in ast.walk(root) if isinstance(node, ast.stmt)] for root in (ast.parse(text), tree)]
    for new, former in zip(*statements, strict=True):
        places[new.lineno] = former.lineno
        if isinstance(new, ast.Assign | ast.Return) and isinstance(new.value, ast.Tuple) and new.value.elts:
            line, start = written[new.lineno - 1], new.value.col_offset
            written[new.lineno - 1] = line[:start] + line[start + 1 : -1]  # a tuple needs no brackets there
    lines: list[bytes] = []
    for number, line in enumerate(written, 1):
        if line:
            lines += [b""] * (places.get(number, 0) - len(lines) - 1)
            lines.append(line)
    return b"\n".join(lines).decode() + "\n"


def shorten_locals(tree: ast.Module, shared: set[str]) -> None:
    """Calls variables of functions a, b, c, and parameters of functions that are only called, by position.

    These functions must not have shared names.
    """
    known, private = module_names(tree), called_by_position(tree) - shared
    for function in outer_functions(tree):
        rename(function, short_names(function, known, private))


def shorten_private(tree: ast.Module, shared: set[str]) -> None:
    """Calls constants, functions and classes of a module, but for those with shared names, A, B, C."""
    own = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = [part for node in tree.body if isinstance(node, ast.Assign) for part in ast.walk(node)]
    stored = [part.id for part in targets if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    nodes = list(ast.walk(tree))
    kept = shared.union(*(defined_names(node) for node in nodes if node not in own))
    taken = kept | {node.id for node in nodes if isinstance(node, ast.Name)}
    free = (name for name in string.ascii_uppercase if name not in taken)
    names = dict.fromkeys([*filter(str.isupper, stored), *(node.name for node in own)])
    rename(tree, dict(zip((name for name in names if name not in kept), free, strict=False)))


def rename(tree: ast.AST, names: dict[str, str]) -> None:
    """Gives what has one of these names in a tree another one."""
    for node in ast.walk(tree):
        if field := NAMED.get(type(node)):
            name = getattr(node, field)
            setattr(node, field, names.get(name, name))


def module_names(tree: ast.Module) -> set[str]:
    """Returns the names that functions of a module may mean by what they don't define themselves."""
    names = set(dir(builtins))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        for part in ast.walk(node):
            names |= defined_names(part) or {getattr(part, "id", "")}
    return names


def defined_names(node: ast.AST) -> set[str]:
    """Returns the names by which a node makes something known, but for plain variables."""
    match node:
        case ast.FunctionDef(name=name) | ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            return {name}
        case ast.ClassDef():
            return {node.name, *(part.id for part in ast.walk(node) if isinstance(part, ast.Name))}
        case ast.Import() | ast.ImportFrom():
            return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        case ast.Global() | ast.Nonlocal():
            return set(node.names)
        case ast.arg():
            return {node.arg}
    return set()


def outer_functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yields functions that stand in no other, in their order."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from outer_functions(child)


def called_by_position(tree: ast.Module) -> set[str]:
    """Returns the names of functions with which nothing is done but to call them, by position; none of methods."""
    nodes = list(ast.walk(tree))
    called = [node.func for node in nodes if isinstance(node, ast.Call) and not node.keywords]
    names = {node.id for node in called if isinstance(node, ast.Name)}
    names -= {node.id for node in nodes if isinstance(node, ast.Name) and node not in called}
    return names - {getattr(item, "name", "") for node in nodes if isinstance(node, ast.ClassDef) for item in node.body}


def short_names(function: ast.FunctionDef, known: set[str], private: set[str]) -> dict[str, str]:
    """Returns short names for a function's variables, those of functions within it among them; "a" for the commonest.

    And for the parameters of private functions, and of keys to sort by. The fewer letters are common, the better a text
    packs.
    """
    parts = list(ast.walk(function))
    uses = [part for part in parts if isinstance(part, ast.Name)]
    hidden = [
        arg for part in parts if isinstance(part, ast.FunctionDef) and part.name in private for arg in part.args.args
    ]
    keys = [part.value for part in parts if isinstance(part, ast.keyword) and part.arg == "key"]
    hidden += [arg for key in keys if isinstance(key, ast.Lambda) for arg in key.args.args]
    kept = known.union(*(defined_names(part) for part in parts if part not in hidden))
    stored = [arg.arg for arg in hidden] + [use.id for use in uses if isinstance(use.ctx, ast.Store)]
    own = dict.fromkeys(name for name in stored if name not in kept)
    counts = Counter(use.id for use in uses)
    taken = kept.union(counts)
    pairs = map("".join, itertools.product(string.ascii_lowercase, repeat=2))
    free = (name for name in (*string.ascii_lowercase, *pairs) if name not in taken and not keyword.iskeyword(name))
    return dict(zip(sorted(own, key=lambda name: -counts[name]), free, strict=False))
