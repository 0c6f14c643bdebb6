"""The tables of `docs/reliability.md` name tests that exist; no test is skipped unexplained."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = sorted((ROOT / "tests").glob("*.py"))


def functions(path):
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def named(text):
    """(file, test or None) of every test that a text names: after a file, its functions follow."""
    found, file = [], None
    for word in re.findall(r"`(tests/[\w/]+\.py|test_\w+)`", text):
        if word.startswith("tests/"):
            file = word
            found.append((file, None))
        else:
            found.append((file, word))
    return found


def test_every_test_that_the_tables_name_exists():
    wrong, count = [], 0
    for line in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines():
        for file, test in named(line):
            count += 1
            if file is None or not (ROOT / file).is_file():
                wrong.append(f"{file}: {test}")
            elif test is not None and test not in functions(ROOT / file):
                wrong.append(f"{file} has no {test}")
    assert not wrong
    assert count > 20


def test_every_row_names_a_test():
    rows = []
    for line in (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "fault" and set(cells[0]) != {"-"}:
            rows.append((cells[0], named(cells[-1])))
    assert rows
    assert [fault for fault, tests in rows if not tests] == []


def unexplained(tree):
    """The lines of a syntax tree where a test is skipped without a reason."""
    skips = re.compile(r"(^|\.)(skip|skipif|importorskip|xfail|skipTest)$")
    given = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not skips.search(ast.unparse(node.func)):
            continue
        reasons = [k.value for k in node.keywords if k.arg in ("reason", "msg")]
        if not ast.unparse(node.func).endswith(("skipif", "importorskip")):
            reasons += node.args[:1]
        if any(ast.unparse(reason).strip("'\" ") for reason in reasons):
            given.add(node.func)
    named = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute | ast.Name)]
    return sorted({n.lineno for n in named if skips.search(ast.unparse(n)) and n not in given})


def test_no_test_is_skipped_without_a_reason():
    wrong = []
    for path in TESTS:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        # A parameter or a layer may be called so: only pytest's and unittest's count.
        wrong += [f"{path.name}:{line}" for line in unexplained(tree) if _is_pytest(path, line)]
    assert not wrong


def _is_pytest(path, line):
    return re.search(r"pytest\.|unittest\.|self\.", path.read_text().splitlines()[line - 1])


def test_the_scan_sees_skips_without_reasons():
    lines = (
        "pytest.skip('why')",
        "pytest.skip()",
        "pytest.skip('')",
        "@pytest.mark.skip\ndef test(): pass",
        "@pytest.mark.skipif(x)\ndef test(): pass",
        "@pytest.mark.skipif(x, reason='why')\ndef test(): pass",
        "pytest.importorskip('scipy')",
        "pytest.importorskip('scipy', reason='why')",
        "pytest.mark.xfail(reason=f'{why}')",
    )
    found = [bool(unexplained(ast.parse(line))) for line in lines]
    assert found == [False, True, True, True, True, False, True, False, False]
