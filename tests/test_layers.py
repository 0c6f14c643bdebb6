"""The layers: who may import whom, who may read the command line, who may speak."""

import ast
import collections
import functools
import graphlib
import statistics
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("train", "eval", "benchmarks")
DECLARATIONS = Path("robustra_tf/cli/command.py")
# Those that a wheel carries.
INSTALLED = ("train", "eval")

# What each part of the library imports of the others: exactly this.
IMPORTS = {
    "attacks": {"bounds", "conditions", "counting", "graph", "intake", "pair", "property"},
    "backend": set(),
    "batches": {"data"},
    "bounds": {"graph", "vocabulary"},
    "certificates": {
        "attacks",
        "bounds",
        "cli",
        "conditions",
        "counting",
        "evidence",
        "exact",
        "graph",
        "intake",
        "pair",
        "property",
        "radii",
        "storage",
        "vocabulary",
    },
    "cli": {"vocabulary"},
    "conditions": {"vocabulary"},
    "counting": set(),
    "data": {"storage"},
    "evidence": {"bounds", "graph", "property", "storage"},
    "exact": {
        "attacks",
        "bounds",
        "conditions",
        "counting",
        "evidence",
        "graph",
        "intake",
        "pair",
        "property",
        "radii",
        "storage",
        "vocabulary",
    },
    "export": {"intake", "pair", "servable", "storage"},
    "graph": set(),
    "intake": {"bounds", "graph", "vocabulary"},
    "metrics": {"counting"},
    "models": {"vocabulary"},
    "onnx": {"intake", "storage"},
    "objective": {"bounds", "counting", "graph", "intake", "vocabulary"},
    "outputs": {"conditions", "intake"},
    "pair": {"counting", "graph", "intake"},
    "programs": {"__version__"},
    "property": {
        "conditions",
        "graph",
        "intake",
        "outputs",
        "property_files",
        "radii",
        "vocabulary",
    },
    "property_files": {"conditions", "intake", "outputs", "vnnlib"},
    "published": set(),
    "radii": set(),
    "servable": {"bounds", "counting", "graph", "intake", "pair", "storage"},
    "storage": set(),
    "training": {
        "batches",
        "bounds",
        "certificates",
        "cli",
        "counting",
        "data",
        "graph",
        "intake",
        "objective",
        "storage",
        "vocabulary",
    },
    "vnncomp": {"exact", "onnx", "property", "storage"},
    "vnnlib": {"storage"},
    "vocabulary": set(),
}

# What each program may import beside the library: benchmarks measure the training step.
MAY_USE = {"train": {"train"}, "eval": {"eval"}, "benchmarks": {"benchmarks", "eval", "train"}}


def files(*folders):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in found]


LIBRARY = files("robustra_tf")


@functools.cache
def _by_kind(path):
    """Every node of a file's tree, by its class: the trees are walked once for all tests."""
    found = collections.defaultdict(list)
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))):
        found[type(node)].append(node)
    return found


def nodes(path, *kinds):
    return [node for kind in kinds for node in _by_kind(path)[kind]]


@functools.cache
def imports(path):
    """Every dotted name that a file imports, `from a import b` as `a.b`, wherever it stands.

    A relative one is written out: `from .a import b` in `train/c.py` as `train.a.b`.
    """
    names = {alias.name for node in nodes(path, ast.Import) for alias in node.names}
    for node in nodes(path, ast.ImportFrom):
        package = path.parts[: len(path.parts) - node.level] if node.level else ()
        home = ".".join((*package, node.module) if node.module else package)
        names |= {f"{home}.{alias.name}" for alias in node.names}
    return names


def test_the_scan_sees_what_is_there():
    assert {path.with_suffix("").parts[1] for path in LIBRARY} == {"__init__", *IMPORTS}
    assert "robustra_tf.intake.subject.take" in imports(Path("robustra_tf/certificates/certify.py"))
    assert {"eval.config.Config", "eval.ledger"} <= imports(Path("eval/stages.py")) | imports(
        Path("eval/merge.py")
    )
    assert "train.config.Config" in imports(Path("train/motivation/settings.py"))
    assert {path.parts[0] for path in files(*PROGRAMS)} == set(PROGRAMS)


def test_only_the_programs_import_relatively():
    """A wheel carries `train` and `eval` inside of the library, where they have other names."""
    wrong = []
    for path in files("robustra_tf", *PROGRAMS):
        own = path.parts[0] if path.parts[0] in INSTALLED else None
        for node in nodes(path, ast.ImportFrom, ast.Import):
            level = getattr(node, "level", 0)
            named = [getattr(node, "module", None) or alias.name for alias in node.names]
            absolute = level == 0 and own in {name.split(".")[0] for name in named}
            # `train/a.py` reaches `train` by one dot, `train/b/c.py` by two.
            if absolute or level > (len(path.parts) - 1 if own else 0):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong


def test_parts_of_the_library_import_what_the_table_says_and_no_less():
    found = {part: set() for part in IMPORTS}
    for path in LIBRARY:
        own = path.with_suffix("").parts[1]
        if own == "__init__":  # the façade names everything
            continue
        for name in imports(path):
            package, part = [*name.split("."), None][:2]
            if package == "robustra_tf" and part != own:
                found[own].add(part)
    assert found == IMPORTS


def test_no_part_of_the_library_rests_on_itself():
    above = graphlib.TopologicalSorter(IMPORTS)
    assert set(above.static_order()) >= set(IMPORTS)  # raises where there is a circle


def test_the_library_knows_nothing_of_its_programs():
    wrong = []
    for path in LIBRARY:
        wrong += [
            f"{path} imports {name}"
            for name in imports(path)
            if name.split(".")[0] in (*PROGRAMS, "tests")
        ]
    assert not wrong


def test_programs_do_not_import_each_other():
    wrong = []
    for path in files(*PROGRAMS):
        others = {*PROGRAMS, "tests"} - MAY_USE[path.parts[0]]
        wrong += [f"{path} imports {n}" for n in imports(path) if n.split(".")[0] in others]
    assert not wrong


def test_only_main_reads_absls_flags():
    """They are made from the declarations in one place, and read where the program begins."""
    wrong = []
    for path in files("robustra_tf", *PROGRAMS):
        names = {node.id for node in nodes(path, ast.Name)}
        names |= {node.attr for node in nodes(path, ast.Attribute)}
        names |= {name.rpartition(".")[2] for name in imports(path)}
        if path != DECLARATIONS:
            wrong += [f"{path} declares by {name}" for name in names if name.startswith("DEFINE_")]
        if path.name not in ("main.py", "__main__.py") and "FLAGS" in names:
            wrong.append(f"{path} reads flags")
    assert not wrong
    assert any(node.attr == "DEFINE_float" for node in nodes(DECLARATIONS, ast.Attribute)), (
        "the scan sees no flags where they are made"
    )


def test_command_lines_are_declared_in_one_way():
    """The checker of certificates shares no code on purpose; all others are dataclasses."""
    found = {path for path in files("robustra_tf", *PROGRAMS) if "argparse" in imports(path)}
    assert found == {DECLARATIONS, Path("eval/check.py")}


def test_library_raises_instead_of_asserting_or_printing():
    wrong = []
    for path in LIBRARY:
        wrong += [f"{path}:{node.lineno} asserts" for node in nodes(path, ast.Assert)]
        calls = [node for node in nodes(path, ast.Call) if isinstance(node.func, ast.Name)]
        wrong += [f"{path}:{call.lineno} prints" for call in calls if call.func.id == "print"]
    assert not wrong


def _functions(package):
    """Of every function of a package: its name, and its lines without its docstring."""
    for path in files(package):
        for node in nodes(path, ast.FunctionDef, ast.AsyncFunctionDef):
            first = node.body[0]
            lines = node.end_lineno - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= first.end_lineno - first.lineno + 1
            yield f"{path}:{node.name}", lines


def test_no_source_file_has_more_than_300_lines():
    packages = ("robustra_tf", "train", "eval", "mutation")
    files = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}


def test_functions_are_short():
    lengths = dict(_functions("robustra_tf"))
    assert {name: lines for name, lines in lengths.items() if lines > 60} == {}
    assert statistics.median(lengths.values()) <= 8
