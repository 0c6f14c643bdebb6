"""The layers: who may import whom, who may read the command line, who may speak."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("train", "eval", "benchmarks")
BASE = {"settings", "backend"}

# What each part of the library may import of the others.
MAY_IMPORT = {
    "settings": set(),
    "backend": set(),
    "data": BASE,
    "graph": BASE,
    "models": BASE | {"graph"},
    "bounds": BASE | {"graph"},
    "objective": BASE | {"graph", "bounds"},
    "certificates": BASE | {"graph", "bounds", "objective"},
    "export": BASE | {"graph", "models", "bounds", "objective", "certificates"},
}


def files(*folders):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in found]


def parsed(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))


def imports(path):
    """Every dotted name that a file imports, `from a import b` as `a.b`, wherever it stands."""
    names = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(dotted):
    """The part of the library that a dotted name or a path belongs to."""
    pieces = dotted.split(".") if isinstance(dotted, str) else dotted.with_suffix("").parts
    return pieces[1] if pieces[0] == "robustra_tf" and len(pieces) > 1 else None


LIBRARY = files("robustra_tf")
EVERY = files("robustra_tf", *PROGRAMS)


def test_the_scan_sees_the_library():
    assert {part(path) for path in LIBRARY} >= set(MAY_IMPORT)
    assert "robustra_tf.graph" in {
        name.rpartition(".")[0] for path in LIBRARY for name in imports(path)
    }


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_library_imports_only_the_layers_below(path):
    outside = {name for name in imports(path) if name.split(".")[0] in (*PROGRAMS, "tests")}
    assert not outside, f"{path} imports {outside}: the library knows nothing of its programs"
    own = part(path)
    if own == "__init__":  # the façade names everything
        return
    assert own in MAY_IMPORT, f"{path}: say in MAY_IMPORT what robustra_tf/{own} may import"
    parts = {part(name) for name in imports(path)} - {None, own}
    assert parts <= MAY_IMPORT[own], f"{path} imports {sorted(parts - MAY_IMPORT[own])}"


@pytest.mark.parametrize("path", files(*PROGRAMS), ids=str)
def test_programs_do_not_import_each_other(path):
    # Benchmarks measure the training step: they alone may read another program.
    others = {"train": {"eval", "benchmarks"}, "eval": {"train", "benchmarks"}}
    found = {name.split(".")[0] for name in imports(path)}
    assert not found & (others.get(path.parts[0], set()) | {"tests"})


@pytest.mark.parametrize("path", EVERY, ids=str)
def test_only_main_reads_the_command_line(path):
    if path.name == "main.py":
        return
    names = {node.id for node in ast.walk(parsed(path)) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(parsed(path)) if isinstance(node, ast.Attribute)}
    flags = {name for name in names if name == "FLAGS" or name.startswith("DEFINE_")}
    assert not flags, f"{path} uses {flags}"
    assert not any(name.startswith(("absl.flags.FLAGS", "sys.argv")) for name in imports(path))


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_library_raises_instead_of_asserting_or_printing(path):
    for node in ast.walk(parsed(path)):
        assert not isinstance(node, ast.Assert), f"{path}:{node.lineno} asserts"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path}:{node.lineno} prints"
