"""What travels of a source means the same, on the same lines: nothing that runs is left out, no name mistaken."""

import ast

import pytest

from nlp_pipeline.pipeline.embedding import FILES, ROOT
from nlp_pipeline.pipeline.shortening import shorten_locals, shorten_private, strip, write


def lines_of(tree: ast.AST) -> list[int]:
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]


def nameless(tree: ast.AST) -> str:
    """Returns a tree as text, without the names that shortening may give to something."""
    for node in ast.walk(tree):
        for field in {"id", "arg", "name"} & {*node._fields}:
            if isinstance(node, ast.Name | ast.arg | ast.FunctionDef | ast.ClassDef):
                setattr(node, field, "")
    return ast.dump(tree)


def test_each_source_that_travels_is_the_same_but_for_names() -> None:
    sources = {
        path: text for files in FILES.values() for path, text in files.items() if path.startswith("nlp_pipeline")
    }
    for path, text in sources.items():
        if path.endswith(".py"):
            stripped, short = strip((ROOT.parent / path).read_text(encoding="utf-8"), types=True), ast.parse(text)
            assert lines_of(short) == lines_of(stripped), path
            assert nameless(short) == nameless(ast.parse(ast.unparse(stripped))), path


def test_comments_docstrings_and_descriptions_stay_behind() -> None:
    text = '"""What it is."""\n\nX = "# no comment"  # why\n\n\nclass Y(Exception):\n    """Only this."""\n'
    assert write(strip(text)) == "\n\nX = '# no comment'\n\n\nclass Y(Exception):\n    pass\n"
    assert write(strip("a = parameter(1, 'what it is', COUNT)\n")) == "a = parameter(1, '', COUNT)\n"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "def f(a: int, *b: str, c: list[int] = [], **d: Any) -> T:\n    x: int = 0\n    return x, (a, b)\n",
            "def f(a, *b, c=[], **d):\n    x = 0\n    return x, (a, b)\n",
        ),
        # Of settings, which have a base, kfp has the types of the fields.
        (
            "x: dict[str, int] = {}\nclass A(B):\n    y: int = 0\n    def f(self):\n        z: Any\n",
            "x = {}\nclass A(B):\n    y: int = 0\n    def f(self):\n        z: Any\n",
        ),
        (
            'T = TypeVar("T")\nROWS = Rows = dict[str, T]\nRow = int\nclass A:\n    y: Row = 0\n',
            "\nROWS = Rows = dict[str, T]\n\nclass A:\n    y: 0 = 0\n",
        ),
        (
            "from m import (\n    A,\n    B as C,\n)\nfrom n import D\ndef f(a: A) -> D:\n    return C()\n",
            "from m import B as C\n\n\n\n\ndef f(a):\n    return C()\n",
        ),
    ],
    ids=["functions", "settings", "named types", "imports"],
)
def test_types_stay_behind(text: str, left: str) -> None:
    assert write(strip(text, types=True)) == left


def test_what_stands_in_brackets_is_joined_and_strings_become_one() -> None:
    text = (
        'a = [\n    1,\n    2,\n]\nb = f(\n    "a "\n    "b", x=1\n)\nif a:\n    c = (a +\n         """\n""")\nd = 1\n'
    )
    assert write(strip(text)) == "a = [1, 2]\n\n\n\nb = f('a b', x=1)\n\n\n\nif a:\n    c = a + '\\n'\n\n\nd = 1\n"


def test_f_strings_are_formatted_as_they_were() -> None:
    text = """f'{a!r:>{n}} {{x}} {b["k"]:.{n}f} {n} "{a}"' f"'" """
    values = {"a": "x", "n": 5, "b": {"k": 2 / 3}}
    left = write(strip(text))
    assert eval(left, values) == eval(text, values) == "  'x' {x} 0.66667 5 \"x\"'"
    assert not any(isinstance(node, ast.JoinedStr) for node in ast.walk(ast.parse(left)))


def function(body: str, parameter: str = "size") -> ast.Module:
    """Returns a module with a function."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return ast.parse(f"known = 1\ndef f({parameter}):\n{lines}")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("total = 1\nreturn total + size", "a = 1\nreturn a + size"),
        ("rows = [row.total for row in size]", "b = [a.total for a in size]"),
        ("for number, _ in size:\n    print(number, end=number)", "for a, b in size:\n    print(a, end=a)"),
        ("with size as file, size as other:\n    pass", "with size as a, size as b:\n    pass"),
        ("def inner(row):\n    return total + row\ntotal = inner", "def inner(row):\n    return a + row\na = inner"),
        ("def inner(row):\n    return row\ninner(1)", "def inner(a):\n    return a\ninner(1)"),
        ("return sorted(size, key=lambda row: row.total)", "return sorted(size, key=lambda a: a.total)"),
        ("total = 1\nreturn g(total=total)", "a = 1\nreturn g(total=a)"),
    ],
)
def test_variables_of_functions_are_shortened(before: str, after: str) -> None:
    tree = function(before)
    shorten_locals(tree, set())
    assert ast.dump(tree) == ast.dump(function(after))


@pytest.mark.parametrize(
    "body",
    [
        "size = size + 1",  # a parameter
        "known = known or 1",  # of the module
        "print = 1",  # of Python
        "global found\nfound = 1",
        "import os.path, json as loads\nos = loads = 1",
        "def total():\n    pass\ntotal = 1",
        "class Row:\n    total = 1\ntotal = 2",
        "try:\n    pass\nexcept OSError as error:\n    error = 1",
        "match size:\n    case [first, *rest]:\n        first = rest",
        "return [inner for inner in size if (lambda inner: inner)]",
        # Parameters of functions that are not only called, by position.
        "def inner(row):\n    return row\ninner(row=1)",
        "def inner(row):\n    return row\nsize(inner)",
        "def inner(row):\n    return row\ninner(**size)",
        "class Row:\n    def inner(row):\n        return row\ninner(1)",
    ],
)
def test_what_else_may_be_meant_stays(body: str) -> None:
    tree = function(body)
    shorten_locals(tree, set())
    assert ast.dump(tree) == ast.dump(function(body))


def test_no_name_is_taken_twice() -> None:
    tree = function("\n".join(f"value{number} = b" for number in range(30)), "b")
    shorten_locals(tree, set())
    names = [line.split()[0] for line in ast.unparse(tree).splitlines()[3:]]
    assert len(set(names)) == 30 and names[:2] == ["a", "c"] and not {"b", "as", "if", "in", "is"} & set(names)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "MOST = 3\nLEAST = 1\nclass Rows:\n    TOP = MOST\ndef all_(most=1):\n    return all_(most=MOST), LEAST\n",
            "A = 3\nLEAST = 1\nclass B:\n    TOP = A\ndef C(most=1):\n    return C(most=A), LEAST\n",
        ),
        ("MOST = 1\ndef f(MOST):\n    return MOST\n", "MOST = 1\ndef A(MOST):\n    return MOST\n"),
        ("def f():\n    pass\nclass G:\n    def f(self):\n        pass\n", None),
        ("most = 1\n", None),
    ],
)
def test_private_names_of_a_module_are_shortened(before: str, after: str | None) -> None:
    tree = ast.parse(before)
    shorten_private(tree, {"LEAST", "G"})
    assert ast.dump(tree) == ast.dump(ast.parse(after or before))
