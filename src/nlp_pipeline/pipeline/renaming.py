"""What makes sources that travel shorter, and leaves every statement on its line: short names, and joined lines.

Functions' own variables get short names, and so do a module's constants, functions and classes that no other module
knows, and the parameters of functions that are only called, by position. What anything else may name, stays: other
parameters, attributes, and all else that a module or a class defines.
"""

import ast
import builtins
import io
import itertools
import keyword
import re
import string
import textwrap
import tokenize
from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

# In an f-string, what stands between braces; one within others is left as it is.
FIELD = re.compile(r"\{[^{}]*\}")
# Where a node of a syntax tree has a name that may be another.
NAMED: dict[type, str] = {ast.Name: "id", ast.FunctionDef: "name", ast.ClassDef: "name"}
# The last string of a line, and whether it is an f-string.
STRING_END = re.compile(r'(?<!\w)(f?)"(?:[^"\\]|\\.)*"$')
OPENING, CLOSING = ("(", "[", "{"), (")", "]", "}")


def shorten_locals(text: str, shared: Set[str] = frozenset()) -> str:
    """Returns a source in which variables of functions are called a, b, c; every line stays where it is.

    Where functions don't have shared names, and are only called, by position, their parameters are too.
    """
    tree = ast.parse(text)
    known, content, private = module_names(tree), text.encode(), called_by_position(tree) - shared
    for function in reversed(list(outer_functions(tree))):
        start, end = span_of(function, content)
        body = content[start:end]
        # Of names within f-strings Python 3.11 tells no places; where they can't be found, they stay.
        for kept in (known, known | names_in_strings(function)):
            names = short_names(function, kept, private)
            renamed = rename(function, content, start, names)
            if means(renamed, function, names):
                body = renamed
                break
        content = content[:start] + body + content[end:]
    return content.decode()


def shorten_private(text: str, shared: Set[str]) -> str:
    """Returns a source in which constants, functions and classes, but for those with shared names, are called A, B."""
    tree = ast.parse(text)
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    targets = [part for node in tree.body if isinstance(node, ast.Assign) for part in ast.walk(node)]
    constants = [part.id for part in targets if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
    own = [name for name in (*defined, *filter(str.isupper, constants)) if name not in shared]
    free = (name for name in string.ascii_uppercase if not re.search(rf"\b{name}\b", text))
    for name, new in zip(dict.fromkeys(own), free, strict=False):
        renamed = re.sub(rf"(?<![\w.]){name}(?![\w=])", new, text)
        renamed_tree = ast.parse(renamed)
        if same(renamed_tree, tree, {name: new}):
            text, tree = renamed, renamed_tree
    return text


def join_lines(text: str) -> str:
    """Returns a source in which what stands in brackets is on one line; the lines after that are empty.

    Where a text of several lines stands in brackets, it is left as it is.
    """
    depth, broken = 0, set[int]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.OP:
            depth += (token.string in OPENING) - (token.string in CLOSING)
        elif token.type == tokenize.NL and depth:
            broken.add(token.start[0])
    lines: list[str] = []
    for number, line in enumerate(text.split("\n")):
        if number in broken:
            first = max(at for at, former in enumerate(lines) if at not in broken)
            lines[first] = glue(lines[first].rstrip(), line.strip())
            lines.append("")
        else:
            lines.append(line)
    joined = "\n".join(lines)
    return joined if same(ast.parse(joined), ast.parse(text), {}) else text


def glue(before: str, after: str) -> str:
    """Returns two lines within brackets as one: strings become one string, and no comma stays at the brackets' end."""
    kind = STRING_END.search(before)
    if kind and (after.startswith(f'{kind[1]}"') or (after.startswith('"') and not {*"{}"} & {*after})):
        return before[:-1] + after.removeprefix("f")[1:]
    if after[:1] in CLOSING:
        return before.removesuffix(",") + after
    return before + after if before[-1:] in OPENING or not after else f"{before} {after}"


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


def names_in_strings(function: ast.FunctionDef) -> set[str]:
    """Returns the names within a function's f-strings."""
    strings = [node for node in ast.walk(function) if isinstance(node, ast.JoinedStr)]
    return {part.id for node in strings for part in ast.walk(node) if isinstance(part, ast.Name)}


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


def rename(function: ast.FunctionDef, content: bytes, start: int, names: dict[str, str]) -> bytes:
    """Returns the source of a function, which starts at a place of its module's, with other names."""
    spans: list[tuple[int, int, bytes]] = []
    waiting: list[ast.AST] = [function]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.JoinedStr):
            first, last = span_of(node, content)
            text = FIELD.sub(lambda field: rename_words(field[0], names), content[first:last].decode())
            spans.append((first, last, text.encode()))
            continue
        if isinstance(node, ast.Name) and node.id in names:
            spans.append((*span_of(node, content), names[node.id].encode()))
        if isinstance(node, ast.arg) and node.arg in names:
            first, _ = span_of(node, content)
            spans.append((first, first + len(node.arg.encode()), names[node.arg].encode()))
        waiting += ast.iter_child_nodes(node)
    _, end = span_of(function, content)
    for first, last, new in sorted(spans, reverse=True):
        content = content[:first] + new + content[last:]
        end += len(new) - (last - first)
    return content[start:end]


def rename_words(text: str, names: dict[str, str]) -> str:
    """Returns an expression with other names, but for attributes, keywords of calls, strings, parts of longer words."""
    words = r"""'[^']*'|"[^"]*"|(?<![\w.])[^\W\d]\w*(?![\w=])"""
    return re.sub(words, lambda word: names.get(word[0], word[0]), text)


def means(renamed: bytes, function: ast.FunctionDef, names: dict[str, str]) -> bool:
    """Says whether a source is that of a function, but for the names."""
    try:
        (parsed,) = ast.parse(textwrap.dedent(renamed.decode())).body
    except SyntaxError:
        return False
    return same(parsed, function, names, NAMED | {ast.arg: "arg"})


def same(renamed: Any, original: Any, names: dict[str, str], named: dict[type, str] = NAMED) -> bool:
    """Says whether a syntax tree, or part of one, is the original but for the names of what is `named`."""
    if type(renamed) is not type(original):
        return False
    if isinstance(original, list):
        pairs = zip(renamed, original, strict=False)
        return len(renamed) == len(original) and all(same(part, former, names, named) for part, former in pairs)
    if not isinstance(original, ast.AST):
        return bool(renamed == original)
    name = named.get(type(original))
    for field in original._fields:
        part, former = getattr(renamed, field, None), getattr(original, field, None)
        expected = names.get(str(former), former) if field == name else former
        if not same(part, expected, names, named):
            return False
    return True


def span_of(node: Any, content: bytes) -> tuple[int, int]:
    """Returns where a node begins and ends in a source, in bytes; a function begins with the line of its decorators."""
    lines = content.splitlines(keepends=True)
    first, column = node.lineno, node.col_offset
    if isinstance(node, ast.FunctionDef):
        first, column = min([first, *(item.lineno for item in node.decorator_list)]), 0
    start = sum(len(line) for line in lines[: first - 1]) + column
    return start, sum(len(line) for line in lines[: node.end_lineno - 1]) + node.end_col_offset
