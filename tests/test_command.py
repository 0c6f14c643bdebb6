"""Command lines declared as dataclasses: flags of absl and of argparse, help and checks."""

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
from absl import flags

from eval import (
    attack,
    certify,
    cross_check,
    curves,
    export_benchmark,
    merge,
    network,
    radius,
    report,
    subject,
    verify,
)
from eval import config as eval_config
from robustra_tf.cli import command
from robustra_tf.cli.settings import Range, SettingError
from train import config as train_config
from train import main as train_main
from train.motivation import settings as motivation

COMMANDS = {
    "train.main": (train_config.Config, train_main.Request),
    "train.motivation": (motivation.Settings,),
    "eval.main": (eval_config.Config,),
    "eval.merge": (merge.Merge,),
    "eval.curves": (curves.Curves,),
    "eval.report": (report.Report,),
    "eval.network": (subject.Source,),
    "eval.certify": (certify.Certify,),
    "eval.attack": (attack.Attacked,),
    "eval.radius": (radius.Radius,),
    "eval.verify": (verify.Verify,),
    "eval.cross_check": (cross_check.CrossCheck,),
    "eval.export_benchmark": (export_benchmark.ExportBenchmark,),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One setting of every kind."""

    files: tuple[Path, ...] = command.setting("what is read", operands="FILE")
    out: Path = command.setting("folder", topic="Results")
    count: int = command.setting("how many", 3, range=Range(1, 9), topic="Numbers")
    rate: float | None = command.setting(
        "how fast", None, range=Range(0, unit="hertz", open_low=True), topic="Numbers"
    )
    sizes: tuple[int, ...] = command.setting("sizes", (1, 2), range=Range(1), topic="Numbers")
    name: str = command.setting("which", "a", choices=("a", "b"))
    quick: bool = command.setting("in haste", False)

    def __post_init__(self):
        command.check(self)


def read(*words):
    return command.read(Example, "programs.example", "An example.", [*words, "--out=o", "x", "y"])


def test_settings_are_read_by_their_types_with_their_defaults():
    assert read() == Example(files=(Path("x"), Path("y")), out=Path("o"))
    given = read("--count=4", "--rate", "0.5", "--sizes=7,8,9", "--name=b", "--quick")
    assert given == Example(
        files=(Path("x"), Path("y")),
        out=Path("o"),
        count=4,
        rate=0.5,
        sizes=(7, 8, 9),
        name="b",
        quick=True,
    )
    assert not read("--quick", "--noquick").quick


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--count=10", "--count: expected at least 1 and at most 9, got 10"),
        ("--count=two", "--count: invalid int value: 'two'"),
        ("--rate=0", "--rate: expected above 0 hertz, got 0.0"),
        ("--rate=nan", "--rate: expected above 0 hertz, got nan"),
        ("--sizes=2,0", "--sizes: expected at least 1, got 0"),
        ("--sizes=2,x", "--sizes: invalid list of int value: '2,x'"),
        ("--name=c", "--name: expected one of a, b, got 'c'"),
        ("--counts=3", "unrecognized arguments: --counts=3"),
    ],
)
def test_what_is_refused_is_one_line_that_names_it(word, message, capsys):
    with pytest.raises(SystemExit) as leave:
        read(word)
    assert leave.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("programs.example: ")
    assert line.endswith(message)


def test_what_must_be_given_is_asked_for(capsys):
    for words in (["x"], ["--out=o"]):
        with pytest.raises(SystemExit):
            command.read(Example, "programs.example", "An example.", words)
    first, second = capsys.readouterr().err.splitlines()
    assert "required: --out" in first
    assert "required: FILE" in second


def test_absls_flags_are_those_of_the_fields():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Flags:
        sizes: tuple[float, ...] = command.setting("sizes", ())
        count: int | None = command.setting("how many", None)
        rate: float = command.setting("how fast", 1.0)
        quick: bool = command.setting("in haste", True)
        out: Path = command.setting("folder")

    values = flags.FlagValues()
    command.define(values, Flags)
    command.parse(values, ["program", "--sizes=1,2", "--count=3", "--noquick", "--out=o"])
    found = {name: values[name].value for name in command.names(Flags)}
    # What is not given is None: the program knows what stands for it.
    assert found == {"sizes": [1.0, 2.0], "count": 3, "rate": None, "quick": False, "out": "o"}
    for wrong, message in (("--rate=x", "rate=x"), ("--rates=1", "'rates'"), ("word", "'word'")):
        with pytest.raises(ValueError, match=message):
            command.parse(values, ["program", wrong])


def test_help_is_there_without_docstrings():
    # `python -OO` strips them: a module's `__doc__` is None.
    page = command.usage("programs.example", None, Example)
    assert page.startswith("usage: python -m programs.example [--FLAG=VALUE ...] FILE...")


def test_the_page_of_help_has_topics_units_ranges_and_defaults():
    page = command.usage("programs.example", "An example.\n\nMore of it.", Example)
    assert page == (
        "usage: python -m programs.example [--FLAG=VALUE ...] FILE...\n\n"
        "An example.\n\n"
        "Options:\n"
        "  FILE                    what is read\n"
        "  --name=NAME             which: a, b; default: a\n"
        "  --[no]quick             in haste; default: no\n\n"
        "Results:\n"
        "  --out=PATH              folder; required\n\n"
        "Numbers:\n"
        "  --count=N               how many; at least 1 and at most 9; default: 3\n"
        "  --rate=X                how fast; above 0 hertz\n"
        "  --sizes=N,...           sizes; at least 1; default: 1,2\n"
    )


def declared_as_operands(kind):
    return [field for field in dataclasses.fields(kind) if field.metadata["setting"].operands]


@pytest.mark.parametrize("program", COMMANDS)
def test_help_fits_a_terminal_and_names_every_flag(program):
    page = command.usage(program, importlib.import_module(program).__doc__, *COMMANDS[program])
    assert max(map(len, page.splitlines())) <= 80
    named = re.findall(r"^  (?:--(?:\[no\])?(\w+)|[A-Z.a-z]+ )", page, re.MULTILINE)
    declared = [name for kind in COMMANDS[program] for name in command.names(kind)]
    operands = {f.name for kind in COMMANDS[program] for f in declared_as_operands(kind)}
    assert sorted(filter(None, named)) == sorted(set(declared) - operands)
    assert len(named) == len(declared)


@pytest.mark.parametrize("program", COMMANDS)
def test_every_setting_says_its_default_or_may_be_left_out(program):
    """A field without a default says in words what stands for it, or that it is required."""
    for kind in COMMANDS[program]:
        for field in dataclasses.fields(kind):
            declaration = field.metadata["setting"]
            assert declaration.text
            if field.default is dataclasses.MISSING and not declaration.operands:
                assert declaration.otherwise or field.name in ("out", "run"), field.name


def test_a_declaration_is_borrowed_but_for_what_is_changed():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other:
        count: int = command.same(Example, "count", text="as many", default=5)

    (field,) = dataclasses.fields(Other)
    declaration = field.metadata["setting"]
    assert (Other().count, declaration.text, declaration.range) == (5, "as many", Range(1, 9))
    assert Example.__dataclass_fields__["count"].metadata["setting"].text == "how many"


@pytest.mark.parametrize("help_flag", ["--help", "-h"])
def test_programs_print_the_page_and_end(help_flag, capsys):
    with pytest.raises(SystemExit) as leave:
        train_main.PROGRAM.parse(
            flags.FlagValues(), train_main.COMMAND, train_main.__doc__, ["train.main", help_flag]
        )
    assert leave.value.code == 0
    assert capsys.readouterr().out == command.usage(
        "train.main", train_main.__doc__, *train_main.COMMAND
    )
    with pytest.raises(SystemExit) as leave:
        network.main([help_flag])
    assert leave.value.code == 0
    assert "usage: python -m eval.network" in capsys.readouterr().out


def test_a_network_needs_a_source():
    for given in (
        {},
        {"saved_model": Path("s"), "weights": Path("w.mat"), "model": "digits_small"},
        {"weights": Path("w.mat")},
        {"saved_model": Path("s"), "model": "digits_small"},
    ):
        with pytest.raises(SettingError, match=r"--(saved_model|model): expected"):
            subject.Source(**given)
