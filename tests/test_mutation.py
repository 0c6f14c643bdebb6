"""The tool that changes operators: what it changes, what it leaves, what it finds."""

import textwrap
from pathlib import Path

import coverage
import pytest

from mutation.journal import Journal, Trial
from mutation.main import Project, Run
from mutation.mutants import SPEED, mutants

SOURCE = textwrap.dedent(
    '''
    """Doc 1."""
    import functools

    _KEPT = 16
    SIZE: int = 3
    batch_size: int = 500


    @functools.lru_cache(maxsize=8)
    def chosen(a: int | None, b, flag=True, *, batch_size=50):
        """Not 1 > 2."""
        if isinstance(a, int | float) and not a < 0:
            return max(a, b)[: b - 1]
        if b == "x" + "y":
            raise ValueError(f"more than {1 + 2}")
        total = -b
        total += sum(zip(a, b, strict=True), start=0.5)
        return total
    '''
)


def changes(source):
    return {(m.before, m.after) for m in mutants("bounds/projection.py", source)}


def test_operators_constants_comparisons_and_extremes_are_changed():
    assert changes(SOURCE) == {
        ("3", "4"),
        ("3", "2"),
        ("True", "False"),
        (
            "isinstance(a, int | float) and not a < 0",
            "(isinstance(a, int | float) or not a < 0)",
        ),
        ("not a < 0", "(a < 0)"),
        ("a < 0", "(a <= 0)"),
        ("a < 0", "(a >= 0)"),
        ("0", "1"),
        ("0", "-1"),
        ("max", "min"),
        (": b - 1", ":b - 1 + 1"),
        ("b - 1", "(b + 1)"),
        ("1", "2"),
        ("1", "0"),
        ('b == "x" + "y"', "(b != 'x' + 'y')"),
        ("-b", "b"),
        (
            "total += sum(zip(a, b, strict=True), start=0.5)",
            "total -= sum(zip(a, b, strict=True), start=0.5)",
        ),
        ("0.5", "1.0"),
    }


def test_constants_of_speed_are_told_by_module_and_name():
    for path, line, count in (
        ("exact/branching.py", "_FEW = 16", 0),
        ("bounds/sound.py", "_FEW = 16", 2),
        ("exact/splitting.py", "_MOST, _MOVED = 4096, 64", 0),
        ("exact/splitting.py", "_MOST, _ROUNDING = 4096, 1e-9", 3),
    ):
        assert len(mutants(path, line)) == count, line
    # Each of them is there.
    root = Path(__file__).resolve().parents[1]
    sources = Project(root).sources()
    for module, names in SPEED.items():
        texts = [(root / source).read_text() for source in sources if Path(source).stem == module]
        for name in names.split():
            assert any(f"\n{name}" in text or f", {name}" in text for text in texts), name


def test_a_mutant_is_the_file_with_one_place_changed():
    source = "é = 'ü' if 2 < 3 else 1\n"
    found = {m.applied(source) for m in mutants("some.py", source)}
    assert "é = 'ü' if (2 <= 3) else 1\n" in found
    assert "é = 'ü' if 2 < 3 else 0\n" in found
    for mutant in mutants("some.py", SOURCE):
        changed = mutant.applied(SOURCE)
        compile(changed, "some.py", "exec")
        assert changed != SOURCE
        assert (mutant.line, mutant.path) == (SOURCE[: mutant.start].count("\n") + 1, "some.py")


def test_python_reads_every_mutant_of_the_library():
    root = Path(__file__).resolve().parents[1]
    for path in ("robustra_tf/bounds/rounding.py", "robustra_tf/exact/encoding.py"):
        source = (root / path).read_text(encoding="utf-8")
        found = mutants(path, source)
        assert len(found) > 50
        for mutant in found:
            compile(mutant.applied(source), path, "exec")


@pytest.fixture
def project(tmp_path):
    """A function whose boundary does not matter, one that no test runs, and a test that is slow."""
    files = {
        "small.py": """
            def larger(a, b):
                return a if a > b else b

            def ended(n):
                while n > 0:
                    n -= 1
                return n

            def unused(a):
                return a + a
            """,
        "limits.py": "MOST = 2",
        "test_small.py": """
            import pytest
            import small

            @pytest.mark.no_cover
            def test_larger():
                assert small.larger(1, 2) == small.larger(2, 1) == small.larger(2, 2) == 2

            def test_ended():
                assert small.ended(3) == 0
            """,
        "pyproject.toml": """
            [tool.coverage.run]
            source_pkgs = ["small"]
            parallel = true
            """,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    return Project(tmp_path, ["small.py", "limits.py"], ["test_small.py"], modules=(), left_out=())


def test_a_known_mutant_is_caught_and_an_equivalent_one_survives(project):
    run = Run(project, processes=1)
    run.least_limit = 5.0
    changes = ("a <= b", "a >= b", "n += 1", "n >= 0", "a - a")
    drawn = [mutant for mutant in run.mutants if mutant.after.strip("()") in changes]
    told = []
    trials = run.tried(drawn, told.append)
    assert len(trials) == len(told) == len(changes)
    found = {trial.mutant.after.strip("()"): trial for trial in trials}
    assert found["a <= b"].caught == "test_small.py::test_larger"
    assert found["a >= b"].caught == ""
    assert found["a >= b"].tests == 1
    assert found["n += 1"].caught == "time limit"
    assert found["n >= 0"].caught == "test_small.py::test_ended"
    # No test runs it: nothing can catch it.
    assert (found["a - a"].caught, found["a - a"].tests) == ("", 0)
    assert str(found["a <= b"]).startswith(
        "caught    small.py:3: return a if ⟦a > b → (a <= b)⟧ else b"
    )
    # A run that goes on from what was written down tries none of them again.
    later = Run(project, processes=1, keep="all")
    assert [later._try(None, mutant) for mutant in drawn] == trials
    # The project itself was never touched, and the map is kept.
    assert "a > b" in (project.root / "small.py").read_text()
    before = (project.root / ".coverage/mutation/map.json").stat().st_mtime_ns
    Run(project, processes=1)
    assert (project.root / ".coverage/mutation/map.json").stat().st_mtime_ns == before


def test_what_is_written_down_counts_while_the_source_is_the_same(tmp_path):
    path = tmp_path / "folder" / "trials.jsonl"
    caught, survived, *_ = mutants("some.py", SOURCE)
    trials = [Trial(caught, "test_some.py::test_it", 1.5, 3), Trial(survived, "", 2.0, 7, 4)]
    journal = Journal(path)
    for trial in (Trial(survived, "another", 1.0, 1), *trials):
        journal.add(trial, SOURCE)
    assert [Journal(path, keep="all").known(t.mutant, SOURCE) for t in trials] == trials
    again = Journal(path, keep="caught")
    assert again.known(caught, SOURCE) == trials[0]
    assert again.known(survived, SOURCE) is None
    assert again.known(caught, SOURCE + "more = 1") is None
    assert Journal(path).known(caught, SOURCE) is None
    assert not path.exists()


def test_what_processes_write_late_is_added_to_the_map(project):
    run = Run(project, processes=1)
    # No test runs a line of what holds constants alone: those of the files beside it judge it.
    (constant,) = [mutant for mutant in run.mutants if mutant.before == "2" and mutant.after == "3"]
    assert [len(part) for part in run.rounds(constant)[:2]] == [1, 1]
    found = run._map
    lines = found._read({"test_small.py"})
    assert lines["test_small.py"]["lines"]
    late = coverage.CoverageData(str(project.root / ".coverage/mutation/data.late"))
    late.set_context("test_small.py::test_larger|run")
    late.add_lines({str((project.root / "small.py").resolve()): [11]})
    late.write()
    added = found._read({"test_small.py"})["test_small.py"]["lines"]
    assert added["test_small.py::test_larger"]["small.py"][-1] == 11
    assert (
        added["test_small.py::test_ended"]
        == lines["test_small.py"]["lines"]["test_small.py::test_ended"]
    )
