"""All changes of one operator, constant, comparison or name that a source file admits.

Left out is what no test can or should notice: annotations, docstrings, texts of errors, decorators,
and keywords and constants that say how something is computed and not what (`SPEED`).
"""

from __future__ import annotations

import ast
import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

#: Keywords whose value changes no result, or only what a wrong program raises.
NEUTRAL = {
    "autograph",
    "batch_size",
    "maxsize",
    "maximum_iterations",
    "name",
    "parallel_iterations",
    "slots",
    "stacklevel",
    "strict",
}
#: Constants of modules, by module and name, that say how fast, in how much memory, by which of two
#: ways to the same numbers, or in which order of a search; results and verdicts are the same.
SPEED = {
    # Bytes and counts that bound what is held at once, and where one way begins to pay.
    "dense": "_BLOCKS _SMALL",
    "derive": "BUDGET",
    "gradients": "SHORT",
    "inner": "_ROWS",
    "layer_rows": "UNKNOWN WORTH_CHOOSING",
    "median": "_MOST_COMPARED",
    "options": "DEFAULT_BUDGET _COPIES",
    "projection": "_KEPT",
    "runs": "SHALLOW SPELLED",
    "slopes": "HELD",
    "steps": "BUDGET",
    "substitution": "_DENSER",
    "tiled": "LANES MOVING",
    # How long a search tries something before something else, on what first, on how many at once.
    "batched": "_CANDIDATES _CHEAPER _LONG _LONGER _PARTS _TINY _UNMEASURED",
    "boxwork": "_BYTES",
    "branching": "_BETTER_HALF _FEW",
    "closing": "_EFFORT _GAIN PART_EFFORT _WRITTEN_EFFORT",
    "properties": "_BATCH _RESTARTS _STEPS",
    "refining": "_BATCH _CERTAIN _GAIN _MOST _PART _PATIENCE _PAYS _RATE _ROOT_STEPS _ROUNDS "
    "_SHARE _STEPS _UNITS",
    "searches": "_FIRST_NODES _FIRST_SECONDS",
    "splitting": "FEW_INPUTS FEW_RELUS _LOOSENESS _MOST _MOVED _REPLAYED",
}

_ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
_COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_PAIRS = [
    ("max", "min"),
    ("maximum", "minimum"),
    ("reduce_max", "reduce_min"),
    ("argmax", "argmin"),
    ("all", "any"),
    ("reduce_all", "reduce_any"),
    ("logical_and", "logical_or"),
    ("floor", "ceil"),
]
_NAMES = dict(_PAIRS) | {right: left for left, right in _PAIRS}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change: in `path`, at characters `start` to `end`, `before` becomes `after`.

    Attributes:
      beside: what stands before and after it on its lines.
      lines: those of the statement that are run when the changed expression is, first to last.
      scope: the lines of the function around it, or all of the file: who runs these may notice.
    """

    path: str
    line: int
    start: int
    end: int
    before: str
    after: str
    beside: tuple[str, str]
    lines: tuple[int, int]
    scope: tuple[int, int]

    def __str__(self) -> str:
        before, after = (" ".join(text.split()) for text in (self.before, self.after))
        head, tail = self.beside
        return f"{self.path}:{self.line}: {head}⟦{before} → {after}⟧{tail}"

    def applied(self, source: str) -> str:
        """The whole file with the change."""
        return source[: self.start] + self.after + source[self.end :]


def mutants(path: str, source: str) -> list[Mutant]:
    """The changes that a file admits, in order."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.after))


class _Finder(ast.NodeVisitor):
    def __init__(self, path: str, source: str):
        self.path, self.source, self.found = path, source, []
        self._offsets = [0]
        for line in source.splitlines(keepends=True):
            self._offsets.append(self._offsets[-1] + len(line))
        whole = (1, len(self._offsets) - 1)
        self._statement, self._scope = whole, whole
        self._speed = set(SPEED.get(Path(path).stem, "").split())

    def visit(self, node: ast.AST) -> None:
        """Changes of this node, then of what stands in it."""
        kept = self._statement, self._scope
        if isinstance(node, ast.stmt):
            self._statement = (node.lineno, _header_end(node))
        for changed in self._changes(node):
            self._add(node, changed)
        for child in self._children(node):
            self.visit(child)
        self._statement, self._scope = kept

    def _children(self, node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _defaults(node.args)
            self._scope = (node.body[0].lineno, node.end_lineno)
            yield from node.body
        elif isinstance(node, ast.ClassDef):
            yield from node.body
        elif isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        elif isinstance(node, ast.AnnAssign):
            named = isinstance(node.target, ast.Name) and node.target.id in NEUTRAL
            yield from [node.value] * (node.value is not None and not named)
        elif isinstance(node, ast.Assign) and _named(node) <= self._speed:
            return
        elif isinstance(node, ast.Call):
            yield node.func
            # What stands behind `isinstance` are types: `A | B` is no arithmetic.
            types = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
            yield from node.args[:1] if types else node.args
            yield from (k.value for k in node.keywords if k.arg not in NEUTRAL)
        else:
            yield from ast.iter_child_nodes(node)

    def _changes(self, node: ast.AST) -> Iterator[ast.AST]:
        if isinstance(node, ast.BinOp | ast.AugAssign):
            other = _ARITHMETIC.get(type(node.op))
            parts = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
            if other and not any(map(_is_text, parts)):
                yield _with(node, op=other())
        elif isinstance(node, ast.Compare) and len(node.ops) == 1:
            for other in _COMPARISONS[type(node.ops[0])]:
                yield _with(node, ops=[other()])
        elif isinstance(node, ast.Compare):
            for k, op in enumerate(node.ops):
                for other in _COMPARISONS[type(op)]:
                    yield _with(node, ops=[*node.ops[:k], other(), *node.ops[k + 1 :]])
        elif isinstance(node, ast.BoolOp):
            yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            yield node.operand
        elif isinstance(node, ast.Constant):
            for value in _other_constants(node.value):
                yield ast.Constant(value)
        elif isinstance(node, ast.Attribute) and node.attr in _NAMES:
            yield _with(node, attr=_NAMES[node.attr])
        elif isinstance(node, ast.Name) and node.id in _NAMES and isinstance(node.ctx, ast.Load):
            yield ast.Name(_NAMES[node.id])
        elif isinstance(node, ast.Slice):
            for end in ("lower", "upper"):
                bound = getattr(node, end)
                if bound is not None and not isinstance(bound, ast.Constant):
                    one = ast.BinOp(bound, ast.Add(), ast.Constant(1))
                    yield _with(node, **{end: one})

    def _add(self, node: ast.AST, changed: ast.AST) -> None:
        start, end = (
            self._place(node.lineno, node.col_offset),
            self._place(node.end_lineno, node.end_col_offset),
        )
        after = ast.unparse(ast.fix_missing_locations(changed))
        if isinstance(changed, ast.expr) and not isinstance(
            changed, ast.Constant | ast.Name | ast.Attribute | ast.Slice
        ):
            after = f"({after})"
        before = self.source[start:end]
        head = self.source[self._offsets[node.lineno - 1] : start].lstrip()
        tail = self.source[end : self._offsets[node.end_lineno]].rstrip()
        place = (self.path, node.lineno, start, end, before, after, (head, tail))
        self.found.append(Mutant(*place, self._statement, self._scope))

    def _place(self, line: int, column: int) -> int:
        """Where in the text a place in UTF-8 is that the parser gives."""
        begin = self._offsets[line - 1]
        text = self.source[begin : self._offsets[line]]
        return begin + len(text.encode()[:column].decode())


def _with(node: ast.AST, **fields) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _header_end(node: ast.stmt) -> int:
    """The last line of a statement, without the statements in it."""
    body = getattr(node, "body", None)
    return max(node.lineno, body[0].lineno - 1) if body else node.end_lineno


def _named(node: ast.Assign) -> set[str]:
    """What is assigned to, names of tuples among it; something else as its text."""
    parts = [part for t in node.targets for part in (t.elts if isinstance(t, ast.Tuple) else [t])]
    return {ast.unparse(part) for part in parts}


def _defaults(given: ast.arguments) -> Iterator[ast.AST]:
    """The defaults of arguments that a result may depend on."""
    positional = [*given.posonlyargs, *given.args]
    pairs = [*zip(reversed(positional), reversed(given.defaults), strict=False)]
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    yield from (d for name, d in pairs if d is not None and name.arg not in NEUTRAL)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)
    )


def _other_constants(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, float):
        return [2 * value] if value else [1.0]
    return []
