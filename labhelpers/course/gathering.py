"""The student's implementations as one module: the exercise cells of the notebooks, and what they need to be imported.

An exercise cell is taken whole. Names that it uses and that the notebook defines elsewhere come along: imports, helper
functions and classes, and constants that are plain values.
"""

import ast
import builtins
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nbformat

HEADER = '''\
"""The exercises' implementations, gathered from the notebooks by `labhelpers submit`. Importing trains nothing."""
'''
UNSOLVED = "NotImplementedError"


@dataclass(frozen=True)
class StudentModule:
    """The module's text, its exercises, and what keeps it from being complete, each with its remedy."""

    source: str
    exercises: list[str]  # ids: "02-FCN8s"
    problems: list[str]


@dataclass
class _Notebook:
    """The cells of a notebook, parsed."""

    path: Path
    exercises: dict[str, ast.Module] = field(default_factory=dict)  # by id
    sources: dict[str, str] = field(default_factory=dict)
    helpers: dict[str, tuple[int, ast.stmt, str]] = field(default_factory=dict)  # name -> place, statement, source
    problems: list[str] = field(default_factory=list)


def gather(notebooks: Sequence[Path]) -> StudentModule:
    """One module from the exercises of the notebooks, in their order.

    Raises:
        OSError, ValueError: a file cannot be read, or is no notebook.
    """
    imports: set[str] = set()
    bodies: list[str] = []
    problems: list[str] = []
    exercises: list[str] = []
    owner: dict[str, tuple[Path, str]] = {}  # a name of the module -> the notebook and the text that define it
    for path in notebooks:
        notebook = _read(path)
        problems += notebook.problems
        if not notebook.exercises and not notebook.problems:
            problems.append(f"{path.name}: no exercise cell in it; copy your answers into the course's notebook")
        exercises += notebook.exercises
        used, unknown = _closure(notebook)
        problems += [f"{path.name}: {name} is used in an exercise, but no cell defines it: add it" for name in unknown]
        texts: list[str] = []
        for _, statement, text in sorted((notebook.helpers[name] for name in used), key=lambda helper: helper[0]):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                imports.add(text)
            elif text not in texts:
                texts.append(text)
        texts += notebook.sources.values()
        for text in texts:
            for name in _defined(ast.parse(text)):
                other, before = owner.setdefault(name, (path, text))
                if before != text:
                    problems.append(f"{path.name}: {name} is another one in {other.name}: rename one of the two")
        if texts:
            bodies.append(f"# --- {path.stem} {'-' * max(3, 110 - len(path.stem))}\n\n" + "\n\n\n".join(texts))
    source = "\n\n\n".join([HEADER + "\n" + "\n".join(sorted(imports)), *bodies]) + "\n"
    return StudentModule(source, exercises, problems)


def _read(path: Path) -> _Notebook:
    notebook = _Notebook(path)
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    for place, cell in enumerate(cells):
        about = cell.metadata.get("nbgrader", {})
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            if about.get("solution"):
                where = f"{path.name}, exercise {about['grade_id']}"
                notebook.problems.append(f"{where}: line {error.lineno} is not Python ({error.msg}): correct it")
            continue  # elsewhere: a shell command, say, which defines nothing
        if about.get("solution"):
            notebook.exercises[about["grade_id"]] = tree
            notebook.sources[about["grade_id"]] = cell.source.strip()
            if any(isinstance(node, ast.Raise) and UNSOLVED in ast.dump(node) for node in ast.walk(tree)):
                notebook.problems.append(f"{path.name}: exercise {about['grade_id']} is not solved yet")
            continue
        for statement in tree.body:
            for name, text in _offered(statement, cell.source):
                notebook.helpers.setdefault(name, (place, statement, text))
    return notebook


def _offered(statement: ast.stmt, source: str) -> Iterator[tuple[str, str]]:
    """What a statement outside the exercises may lend to them: names, each with the text that defines it."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        start = f"from {statement.module} import" if isinstance(statement, ast.ImportFrom) else "import"
        for name, alias in zip(_names(statement), statement.names, strict=True):
            yield name, f"{start} {ast.unparse(alias)}"
        return
    if isinstance(statement, ast.Assign):
        try:
            ast.literal_eval(statement.value)
        except ValueError:  # not a plain value
            return
    for name in _names(statement):
        yield name, ast.get_source_segment(source, statement) or ""


def _closure(notebook: _Notebook) -> tuple[list[str], list[str]]:
    """Helpers that the exercises need, directly or through other helpers, and names that nothing defines."""
    own = {name for tree in notebook.exercises.values() for name in _defined(tree)}
    wanted = [name for tree in notebook.exercises.values() for name in _free(tree)]
    used, unknown = [], []
    while wanted:
        name = wanted.pop()
        if name in own or name in used or name in unknown or hasattr(builtins, name):
            continue
        if name in notebook.helpers:
            used.append(name)
            wanted += _free(notebook.helpers[name][1])
        else:
            unknown.append(name)
    return used, unknown


def _defined(tree: ast.Module) -> list[str]:
    """Names that the top level of a module defines."""
    return [name for statement in tree.body for name in _names(statement)]


def _names(statement: ast.stmt) -> list[str]:
    """Names that a statement defines by def, class, assignment or import."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.split(".")[0] for alias in statement.names]
    return []


def _free(tree: ast.AST) -> set[str]:
    """Names that are read in a piece of code and bound nowhere in it; Python's own symbol tables decide."""
    text = ast.unparse(tree)
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
    return found - set(_defined(ast.parse(text)))
