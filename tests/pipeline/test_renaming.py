"""Variables of functions get short names, where nothing else can mean them; all else stays as it is."""

import ast
from pathlib import Path

import pytest

import nlp_pipeline
from nlp_pipeline.pipeline.embedding import shared_names, strip
from nlp_pipeline.pipeline.renaming import join_lines, shorten_locals, shorten_private

PACKAGE = Path(nlp_pipeline.__file__).parent


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("total = 1\nreturn total + size", "a = 1\nreturn a + size"),
        ("rows = [row.total for row in size]", "b = [a.total for a in size]"),
        ("for number, _ in size:\n    print(number, end=number)", "for a, b in size:\n    print(a, end=a)"),
        ("with size as file, size as other:\n    pass", "with size as a, size as b:\n    pass"),
        ("def inner(row):\n    return total + row\ntotal = inner", "def inner(row):\n    return a + row\na = inner"),
        ("def inner(row: int):\n    return row\ninner(1)", "def inner(a: int):\n    return a\ninner(1)"),
        (
            "if (found := size):\n    return lambda text: found[text]",
            "if (a := size):\n    return lambda text: a[text]",
        ),
        ("ä = 1; größe = ä", "a = 1; b = a"),
        ("return sorted(size, key=lambda row: row.total)", "return sorted(size, key=lambda a: a.total)"),
        ("total = 1\nreturn f\"{size['total']} {total}\"", "a = 1\nreturn f\"{size['total']} {a}\""),
        ("n_ = 1\nreturn f'n_ {n_:>3} {size.n_} {f(n_=n_)}'", "a = 1\nreturn f'n_ {a:>3} {size.n_} {f(n_=a)}'"),
    ],
)
def test_variables(before: str, after: str) -> None:
    assert shorten_locals(function(before)) == function(after)


def test_private_names_of_a_module_that_no_other_has() -> None:
    text = "MOST = 3\nLEAST = 1\nclass Rows:\n    TOP = MOST\ndef every(most=1):\n    return every(most=MOST), LEAST\n"
    renamed = "C = 3\nLEAST = 1\nclass A:\n    TOP = C\ndef B(most=1):\n    return B(most=C), LEAST\n"
    assert shorten_private(text, {"LEAST"}) == renamed
    for kept in ("MOST = 1\nprint('MOST')\n", "MOST = 1\nx = '{MOST}'\n", "most = 1\n"):
        assert shorten_private(kept, set()) == kept


def test_what_stands_in_brackets_is_joined() -> None:
    text = 'a = [\n    1,\n    2,\n]\nb = f(\n    a, x=1\n)\nc = """\n(\n"""\nif a:\n    c = (a +\n         b)\n'
    joined = 'a = [1, 2]\n\n\n\nb = f(a, x=1)\n\n\nc = """\n(\n"""\nif a:\n    c = (a + b)\n\n'
    assert join_lines(text) == joined


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('(\n"a, "\n"{b}"\n)', '("a, {b}")\n\n\n'),
        ('(\nf"a {b}"\nf" c"\n" d"\n)', '(f"a {b} c d")\n\n\n\n'),
        ('(\n"a"\nf"{b}"\n)', '("a" f"{b}")\n\n\n'),
        ('(\nf"a"\n"{b}"\n)', '(f"a" "{b}")\n\n\n'),
        ('f(\n"a",\n\'b"\'\n"c",\n)', 'f("a", \'b"\' "c")\n\n\n\n'),
        ("(\na,\n)", "(\na,\n)"),  # a tuple
    ],
)
def test_strings_in_brackets_become_one(before: str, after: str) -> None:
    assert join_lines(before) == after


@pytest.mark.parametrize(
    "body",
    [
        "size = size + 1",  # a parameter
        "known = known or 1",  # of the module
        "print = 1",  # of Python
        "global found\nfound = 1",
        "import os.path, json as loads\nos = loads = 1",
        "total = 1\nreturn f'{total:{total}}'",
        "total = 1\nreturn f'{{total}}{total}'",
        "def total():\n    pass\ntotal = 1",
        "class Row:\n    total = 1\ntotal = 2",
        "try:\n    pass\nexcept OSError as error:\n    error = 1",
        "match size:\n    case [first, *rest]:\n        first = rest",
        "return [inner for inner in size if (lambda inner: inner)]",
        "def inner(row):\n    return row\ninner(row=1)",
        "def inner(row):\n    return row\nsize(inner)",
        "def inner(row):\n    return row\ninner(**size)",
        "class Row:\n    def inner(row):\n        return row\ninner(1)",
    ],
)
def test_what_stays(body: str) -> None:
    assert shorten_locals(function(body)) == function(body)


def test_no_name_is_taken_twice() -> None:
    many = "\n".join(f"value{number} = b" for number in range(30))
    names = [line.split()[0] for line in shorten_locals(function(many, "b")).splitlines()[2:]]
    assert len(set(names)) == 30 and names[:2] == ["a", "c"] and not {"b", "as", "if", "in", "is"} & set(names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_sources_are_the_same_but_for_names(path: Path) -> None:
    text = strip(path.read_text(encoding="utf-8"))
    short = shorten_private(shorten_locals(join_lines(text), shared_names()), shared_names())
    trees = [ast.parse(text), ast.parse(short)]
    statements = [[node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)] for tree in trees]
    assert statements[0] == statements[1]
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                node.id = ""
            elif isinstance(node, ast.arg):
                node.arg = ""
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                node.name = ""
    assert ast.dump(trees[0]) == ast.dump(trees[1])


def function(body: str, parameter: str = "size") -> str:
    """Returns a module with a function."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f"known = 1\ndef f({parameter}):\n{lines}"
