"""Short names for functions' own variables, in sources that travel: a tenth of a workflow's bytes hangs on such names.

What anything outside of a function may name, stays: parameters, attributes, and all that a module or a class defines.
So do names within f-strings, of which Python 3.11 does not tell the places.
"""

import ast
import builtins
import itertools
import keyword
import string
from collections.abc import Iterator


def shorten_locals(text: str) -> str:
    """Returns a source in which variables of functions are called a, b, c; every line stays where it is."""
    tree = ast.parse(text)
    lines = text.encode().splitlines()  # a syntax tree counts columns in bytes
    known = module_names(tree)
    names = [item for function in outer_functions(tree) for item in short_names(function, known)]
    for node, new in sorted(names, key=lambda item: place(item[0]), reverse=True):
        line = lines[node.lineno - 1]
        lines[node.lineno - 1] = line[: node.col_offset] + new.encode() + line[node.end_col_offset :]
    return b"\n".join(lines).decode() + "\n"


def module_names(tree: ast.Module) -> set[str]:
    """Returns the names that functions of a module may mean by what they don't define themselves."""
    names = set(dir(builtins))
    for node in tree.body:
        inner = [node] if isinstance(node, ast.FunctionDef | ast.ClassDef) else ast.walk(node)
        for part in inner:
            names |= defined_names(part)
    return names


def defined_names(node: ast.AST) -> set[str]:
    """Returns the names by which a node makes something known, but for plain variables of a function."""
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
        case ast.JoinedStr():
            return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        case ast.Name():
            return {node.id}
    return set()


def place(node: ast.Name) -> tuple[int, int]:
    """Returns where a name stands."""
    return node.lineno, node.col_offset


def outer_functions(node: ast.AST) -> Iterator[ast.FunctionDef]:
    """Yields functions that stand in no other."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield child
        else:
            yield from outer_functions(child)


def short_names(function: ast.FunctionDef, known: set[str]) -> Iterator[tuple[ast.Name, str]]:
    """Yields each place of a function's variables, those of functions within it among them, and the short name."""
    parts = list(ast.walk(function))
    uses = sorted((part for part in parts if isinstance(part, ast.Name)), key=place)
    kept = known.union(*(defined_names(part) for part in parts if not isinstance(part, ast.Name)))
    own = dict.fromkeys(use.id for use in uses if isinstance(use.ctx, ast.Store) and use.id not in kept)
    taken = kept.union(use.id for use in uses)
    pairs = map("".join, itertools.product(string.ascii_lowercase, repeat=2))
    free = (name for name in (*string.ascii_lowercase, *pairs) if name not in taken and not keyword.iskeyword(name))
    new = dict(zip(own, free, strict=False))
    yield from ((use, new[use.id]) for use in uses if use.id in new)
