"""The student's implementations as one module: the exercise cells of the notebooks, and what they need to be imported.

An exercise cell is taken whole, without what it only shows. From the other cells come the statements that define or
change a name which the exercises need, directly or through others, in the order of the notebook: what a run from top to
bottom leaves behind, without the trainings and pictures between. Calls of the checks are left out: we check ourselves.
"""

import ast
import builtins
import contextlib
import importlib
import re
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager

from labhelpers.course.checks import BY_LAB
from labhelpers.course.run import read_notebook

HEADER = '''\
"""The exercises' implementations, gathered from the notebooks by `labhelpers submit`. Importing trains nothing."""
'''
# Cell magics that run their cell in the notebook itself; what stands under others (%%bash) is not Python.
_IN_NOTEBOOK = {"time", "capture", "prun", "wandb"}
# A statement that is only a call of one of these shows or checks something.
_SHOW = {"print", "display", "plots", "plt", "get_ipython", "checks"}
_TAKING = {"pop", "popitem", "popleft", "setdefault"}  # methods that change a value and are called for their result
UNWRITTEN = "YOUR ANSWER HERE"  # what nbgrader puts in the place of a model answer
_DONE_NOTHING = {"", "pass", "...", "return", "return None", "return ...", "raise NotImplementedError()"}


@dataclass(frozen=True)
class Piece:
    """A statement outside of any function, or several that share a line."""

    text: str
    line: int  # in its cell, from 1
    tree: ast.Module
    binds: frozenset[str]  # names that it defines
    sets: frozenset[str]  # names whose attributes or items it sets
    calls: frozenset[str]  # names that it calls, or whose methods, or that it hands to a function
    reads: frozenset[str]

    @property
    def is_import(self) -> bool:
        return isinstance(self.tree.body[0], ast.Import | ast.ImportFrom)

    @property
    def meaning(self) -> str:
        """The text; that of `import a.b` is `import a`, for the name is `a`."""
        plain = isinstance(self.tree.body[0], ast.Import) and " as " not in self.text
        return self.text.partition(".")[0] if plain else self.text


@dataclass
class Notebook:
    """What the exercises of a notebook need, and what is wrong with it."""

    path: Path
    lab: str
    cells: dict[str, list[Piece]] = field(default_factory=dict)  # by "02_fcn.ipynb, code cell 7"; only what is needed
    needed: set[str] = field(default_factory=set)  # names
    empty: set[str] = field(default_factory=set)  # exercises in whose place is nothing, or what the student version has
    broken: dict[str, str] = field(default_factory=dict)  # exercises whose cell is not Python, and why
    problems: list[str] = field(default_factory=list)  # each with its remedy
    unwritten: list[str] = field(default_factory=list)  # questions without an answer in words, by grade_id

    def pieces(self, name: str | None = None) -> list[Piece]:
        """All pieces, or those that make a name what it is."""
        found = [piece for pieces in self.cells.values() for piece in pieces]
        return found if name is None else [p for p in found if name in p.binds | p.sets | p.calls]

    def code(self, cell: str) -> str:
        """The needed pieces of a cell, each in the line where it stands there."""
        text = ""
        for piece in self.cells[cell]:
            text += "\n" * (piece.line - 1 - text.count("\n")) + piece.text + "\n"
        return text


def lab_of(name: str) -> str:
    """The two digits of a notebook's lab, also of a copy by Colab, "Copy of 02_fcn.ipynb"; "" if its name has none."""
    found = re.search(r"^\d\d(?!\d)|(?<!\d)\d\d(?=_)", name)
    return found[0] if found else ""


def gather(path: Path) -> Notebook:
    """Reads a notebook and finds what its exercises need.

    Raises:
        OSError, ValueError: the file cannot be read, or is no notebook.
    """
    notebook = Notebook(path, lab_of(path.name))
    titles = set(BY_LAB.get(notebook.lab, ()))
    everything: dict[str, list[Piece]] = {}
    chosen: list[Piece] = []
    seen: set[str] = set()
    number = 0
    for cell in read_notebook(path).cells:
        about = cell.metadata.get("nbgrader")
        about = about if isinstance(about, dict) else {}
        given, solution = str(about.get("grade_id", "")), bool(about.get("solution"))
        if cell.cell_type != "code":
            notebook.unwritten += [given] if solution and cell.source.strip() in ("", UNWRITTEN) else []
            continue
        number += 1
        where = f"{path.name}, code cell {number}"
        if given and given in seen:
            notebook.problems.append(f"{where}: a copy of {given} stands above; this one is taken, delete the other")
        seen.add(given)
        pieces = everything[where] = []
        try:
            source = _as_python(cell.source)
            pieces += [piece for piece in _pieces(source) if not _only_shows(piece.tree)]
        except SyntaxError as error:
            why = f"line {error.lineno} of code cell {number} is not Python ({error.msg}): correct it"
            title = given.partition("-")[2]
            if solution and title in titles:
                notebook.broken[title] = why
                notebook.empty |= {title} if _emptied(cell.source) else set()
            else:
                notebook.problems.append(f"{path.name}: {why}")
        except ImportError as error:  # of a module from which everything is imported
            notebook.problems.append(f"{where}: {error}: install it, or write what you need of it into the notebook")
        chosen += [piece for piece in pieces if solution or piece.text.startswith("from __future__")]
        for piece in pieces:
            for name in titles & piece.binds:
                notebook.empty.discard(name)
                if _emptied(source) or any(map(_is_stub, piece.tree.body)):
                    notebook.empty.add(name)
    _choose(notebook, everything, chosen, titles)
    return notebook


def module(notebooks: Sequence[Notebook]) -> tuple[str, list[str]]:
    """The module's text, and the names that mean one thing in one notebook and another in the next."""
    imports: set[str] = set()
    bodies: list[str] = []
    problems: list[str] = []
    owner: dict[str, tuple[Path, list[str]]] = {}
    for notebook in notebooks:
        texts: list[str] = []
        for piece in notebook.pieces():
            alike = {other.meaning for name in piece.binds for other in notebook.pieces(name)}
            if piece.is_import and len(alike) == 1:
                imports.add(piece.text)
            else:
                texts.append(piece.text)
        for name in sorted(notebook.needed):
            mine = list(dict.fromkeys(piece.meaning for piece in notebook.pieces(name)))
            other, before = owner.setdefault(name, (notebook.path, mine))
            if before != mine:
                problems.append(f"{notebook.path.name}: {name} is another one in {other.name}: rename one of the two")
        if texts:
            title = notebook.path.stem
            bodies.append(f"# --- {title} {'-' * max(3, 110 - len(title))}\n\n" + "\n\n\n".join(texts))
    first = sorted(imports, key=lambda text: (not text.startswith("from __future__"), text))
    return "\n\n\n".join([HEADER + "\n" + "\n".join(first), *bodies]) + "\n", problems


def _choose(notebook: Notebook, cells: dict[str, list[Piece]], chosen: list[Piece], titles: set[str]) -> None:
    """Finds the pieces that define or change what is needed, then what those need, until nothing is new."""
    pieces = [piece for pieces in cells.values() for piece in pieces]
    defined = {name for piece in pieces for name in piece.binds}
    # What a call may change: values, and through a function those that it declares global.
    changeable = {name for piece in pieces if not _is_definition(piece) or len(piece.binds) > 1 for name in piece.binds}
    made_here = {name for piece in pieces if not piece.is_import for name in piece.binds}
    taken = {id(piece) for piece in chosen}
    needed = titles | {name for piece in chosen for name in piece.reads}
    size = -1
    while size != len(taken):
        size = len(taken)
        for piece in pieces:
            changed = (piece.sets & made_here) | (piece.calls & changeable)
            if id(piece) not in taken and needed & (piece.binds | changed):
                taken.add(id(piece))
                needed |= piece.reads | (piece.binds if _is_definition(piece) else set())
    own = {name for piece in chosen if _is_definition(piece) and not piece.is_import for name in piece.binds}
    notebook.needed = needed & defined | own
    kept = {where: [piece for piece in pieces if id(piece) in taken] for where, pieces in cells.items()}
    notebook.cells = {where: pieces for where, pieces in kept.items() if pieces}
    for name in sorted(needed - defined - titles):
        if name == "get_ipython":
            what = "a command of the shell or of the notebook (! or %) gives what an exercise uses: write the value"
            notebook.problems.append(f"{notebook.path.name}: {what}")
        elif not hasattr(builtins, name):
            what = f"{name} is used in an exercise, but no cell defines it: add it"
            notebook.problems.append(f"{notebook.path.name}: {what}")


def _as_python(source: str) -> str:
    """A cell without the magics and commands of the shell that a notebook knows; its lines stay where they are."""
    with contextlib.suppress(SyntaxError):
        ast.parse(source)
        return source
    while magic := re.match(r"\s*%%(\w*).*", source):
        if magic[1] not in _IN_NOTEBOOK:
            return ""
        source = "\n" * magic[0].count("\n") + source[magic.end() :]
    source = re.sub(r"^(\s*)%(?:time|prun)\s+(?=\S)", r"\1", source, flags=re.MULTILINE)
    return TransformerManager().transform_cell(source)


def _pieces(source: str) -> Iterator[Piece]:
    """The statements of a cell; an import gives a piece for each name.

    Raises:
        SyntaxError: it is not Python. ImportError: everything is imported from a module that is not there.
    """
    lines = source.splitlines()
    end = 0
    group: list[ast.stmt] = []
    for statement in [*ast.parse(source).body, None]:
        if group and (statement is None or statement.lineno > end):  # else they share a line
            line = min([group[0].lineno, *(node.lineno for node in getattr(group[0], "decorator_list", []))])
            yield _piece("\n".join(lines[line - 1 : end]), line, group)
            group = []
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in _imported(statement):
                one = type(statement)(**{**vars(statement), "names": [alias]})
                yield _piece(ast.unparse(one), statement.lineno, [one])
        elif statement is not None:
            group.append(statement)
            end = statement.end_lineno or 0
            while end < len(lines) and re.match(r"\s+#", lines[end]):  # comments below its last line, END SOLUTION say
                end += 1


def _imported(statement: ast.Import | ast.ImportFrom) -> list[ast.alias]:
    if statement.names[0].name != "*":
        return statement.names
    module = importlib.import_module(f"{'.' * statement.level}{statement.module or ''}")
    public = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    return [ast.alias(name) for name in public]


def _piece(text: str, line: int, statements: list[ast.stmt]) -> Piece:
    tree = ast.Module(statements, [])
    binds, sets, calls = set(), set(), set()
    for node in _here(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            binds.add(node.name)
            binds |= {name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            binds.add(node.name)
        elif isinstance(node, ast.alias):
            binds.add(node.asname or node.name.split(".")[0])
        elif isinstance(getattr(node, "ctx", None), ast.Store | ast.Del):
            (binds if isinstance(node, ast.Name) else sets).add(_root(node))
        elif isinstance(node, ast.Expr) and _root(node.value) not in _SHOW:
            for call in (part for part in _here(node.value) if isinstance(part, ast.Call)):
                calls |= set(map(_root, [call.func, *call.args, *(word.value for word in call.keywords)]))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _TAKING:
            calls.add(_root(node.func))
    reads = _free(ast.unparse(tree)) - binds
    return Piece(text, line, tree, frozenset(binds), frozenset(sets), frozenset(calls), frozenset(reads))


def _here(node: ast.AST) -> Iterator[ast.AST]:
    """A piece of code and its parts that run where they stand: not what is inside functions, classes and lambdas."""
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    for part in ast.iter_child_nodes(node):
        if isinstance(node, ast.comprehension) and part is node.target:
            continue  # known only inside
        yield from _here(part)


def _root(node: ast.AST) -> str:
    """The name at the beginning of `name.attribute[item](...)`, "" where there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call | ast.Starred):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _free(text: str) -> set[str]:
    """Names that are read in a piece of code and bound nowhere in it; Python's own symbol tables decide."""
    found = set()

    def visit(table: symtable.SymbolTable) -> None:
        top = table.get_type() == "module"
        for symbol in table.get_symbols():
            local_to_module = top and (symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace())
            if symbol.is_referenced() and (symbol.is_global() or top) and not local_to_module:
                found.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    visit(symtable.symtable(text, "exercise", "exec"))
    return found


def _only_shows(tree: ast.Module) -> bool:
    """Whether a piece defines nothing: it gives a value, calls something that shows it, or checks an answer."""
    (statement, *others) = tree.body
    value = getattr(statement, "value", None)
    if others or value is None:
        return False
    if isinstance(statement, ast.Expr):
        return _root(value) in _SHOW or not any(isinstance(part, ast.Call) for part in _here(value))
    return isinstance(value, ast.Call) and _root(value) == "checks"


def _is_definition(piece: Piece) -> bool:
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
    return isinstance(piece.tree.body[0], kinds)


def _emptied(source: str) -> bool:
    """Whether nothing is left between some BEGIN SOLUTION and its END."""
    regions = re.findall(r"### BEGIN SOLUTION(.*?)### END SOLUTION", source, flags=re.DOTALL)
    lines = [[line.partition("#")[0].strip() for line in region.splitlines()] for region in regions]
    return any(set(region) <= _DONE_NOTHING for region in lines)


def _is_stub(statement: ast.stmt) -> bool:
    """Whether a definition raises NotImplementedError, or is or has a function that does nothing."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Raise) and "NotImplementedError" in ast.dump(node):
            return True
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and all(map(_does_nothing, node.body)):
            return True
    value = statement.value if isinstance(statement, ast.Assign) else None
    return _nothing(value.body if isinstance(value, ast.Lambda) else value) and value is not None


def _does_nothing(statement: ast.stmt) -> bool:
    """Whether it is `pass`, `...`, `return None` or a docstring."""
    text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return text or isinstance(statement, ast.Pass) or isinstance(statement, ast.Return) and _nothing(statement.value)


def _nothing(value: ast.expr | None) -> bool:
    return value is None or isinstance(value, ast.Constant) and value.value in (None, ...)
