"""Names in docstrings: what stands bare in backticks is there to be found."""

import ast
import builtins
import collections
import importlib
import inspect
import re
from pathlib import Path

import pytest

from tests.quiet import keras

ROOT = Path(__file__).resolve().parents[1]
#: A name by itself, perhaps with dots; formulas, flags and commands are none.
BARE = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)*)`(?!`)")
#: What formulas are written with: a letter or one of these words, perhaps with an index.
SYMBOL = re.compile(r"([A-Za-z]|nu|nuhat|qhat|eta|gamma|delta|lambda)(_\w+)?")
DEFINITIONS = (ast.FunctionDef, ast.ClassDef)
#: Packages whose names docstrings may use.
FOREIGN = {
    "tf": "tensorflow",
    "keras": "keras",
    "np": "numpy",
    "onnx": "onnx",
    "absl": "absl.flags",
    "time": "time",
}


def parameters(function):
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return {one.arg for one in named if one is not None}


def members(tree):
    """What a class or a module has: definitions, assignments, attributes of `self`, imports."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {alias.asname or alias.name for alias in names}
    return found


class Library:
    """All that a docstring of the library may name."""

    def __init__(self, *folders):
        paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
        self.trees = {
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
                ast.parse(path.read_text(encoding="utf-8"))
            )
            for path in paths
        }
        self.members = {name: members(tree) for name, tree in self.trees.items()}
        nodes = [node for tree in self.trees.values() for node in ast.walk(tree)]
        self.classes = collections.defaultdict(set)  # of several of one name, what any has
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                self.classes[node.name] |= members(node)
        self.defined = {n.name for n in nodes if isinstance(n, DEFINITIONS)}
        # Settings and columns are literal texts.
        self.texts = {
            n.value for n in nodes if isinstance(n, ast.Constant) and type(n.value) is str
        }

    def docstrings(self, package):
        """(module, definition or None, names in its scope) of every public docstring."""
        for name, tree in self.trees.items():
            if name.split(".")[0] == package:
                yield name, tree, set()
                yield from self._within(name, tree, set())

    def _within(self, module, tree, scope):
        for node in tree.body:
            if isinstance(node, DEFINITIONS) and not node.name.startswith("_"):
                own = set(scope)
                if isinstance(node, ast.ClassDef):
                    methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                    own |= {one for method in methods for one in parameters(method)}
                    yield module, node, own
                    yield from self._within(module, node, own)
                else:
                    yield module, node, own | parameters(node)

    def has(self, name, module, scope):
        """Whether a bare name in a docstring of `module`, with `scope`, is there."""
        head, _, rest = name.partition(".")
        if name in scope | self.members[module] | self.defined | self.texts:
            return True
        if SYMBOL.fullmatch(name) or hasattr(builtins, name):
            return True
        # A package carries the programs under another name; a file may be named as such.
        name = name.removeprefix("robustra_tf.programs.").removesuffix(".py")
        if any(f".{known}".endswith(f".{name}") for known in self.trees):
            return True
        owner, _, last = name.rpartition(".")
        homes = [k for k in self.trees if owner and f".{k}".endswith(f".{owner}")]
        if any(last in self.members[home] for home in homes):
            return True
        if head in self.classes and rest:
            return rest in self.classes[head]
        # Of a parameter or an attribute, whose class is not looked for.
        somewhere = any(rest in own for own in self.classes.values()) or _of_keras(rest)
        if rest and head in (scope | self.members[module]) - {*FOREIGN} and somewhere:
            return True
        return _foreign(name) if rest else _of_keras(name)


def _foreign(name):
    """Whether a dotted name is one of a package outside."""
    head, *rest = name.split(".")
    if head not in FOREIGN:
        return False
    value = importlib.import_module(FOREIGN[head])
    for part in rest[FOREIGN[head].count(".") :]:
        value = getattr(value, part, None)
    return value is not None


def _of_keras(name):
    """Whether Keras's models have it, from which ours inherit, or it is one of its kinds."""
    homes = (keras.Model, keras.layers, keras.optimizers, keras.callbacks)
    compiled = inspect.signature(keras.Model.compile).parameters
    return any(hasattr(home, name) for home in homes) or name in compiled


@pytest.fixture(scope="module")
def library():
    return Library("robustra_tf", "train", "eval")


def test_what_a_docstring_names_is_there(library):
    wrong, count = [], 0
    for module, node, scope in library.docstrings("robustra_tf"):
        for name in BARE.findall(ast.get_docstring(node) or ""):
            count += 1
            if not library.has(name, module, scope):
                wrong.append(f"{module}.{getattr(node, 'name', '')}: {name}")
    assert wrong == []
    assert count > 500


def test_the_scan_knows_what_is_not_there(library):
    there = ("eps", "Certificate.certified", "keras.Model", "tf.function", "fit", "nuhat_1", "linf")
    module, scope = "robustra_tf.certificates.certify", {"eps"}
    assert [name for name in there if not library.has(name, module, scope)] == []
    gone = ("epsilons", "Certificate.plausible", "keras.Modell", "tf.functional", "bounds.patches")
    assert [name for name in gone if library.has(name, module, scope)] == []
