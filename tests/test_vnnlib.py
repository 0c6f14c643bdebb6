"""VNN-LIB: texts against a reading by evaluation, refusals by line and token, files of others."""

import gzip
import os
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustra_tf import vnnlib
from robustra_tf.vnnlib.syntax import MalformedError

TEXTS = int(os.environ.get("ROBUSTRA_FUZZ_TEXTS", "60"))
NIGHTLY = "ROBUSTRA_FUZZ_TEXTS" in os.environ


def declared(inputs=1, outputs=2):
    names = [f"X_{i}" for i in range(inputs)] + [f"Y_{i}" for i in range(outputs)]
    return "".join(f"(declare-const {name} Real)\n" for name in names)


BOX = "(assert (<= X_0 1))\n(assert (>= X_0 -1))\n"


def holds(spec, x, y):
    """Whether inputs and outputs are what the cases say must not be."""
    return any(
        ((case.lower <= x) & (x <= case.upper)).all()
        and any((a @ y <= b).all() for a, b in case.polyhedra)
        for case in spec.cases
    )


def test_boxes_and_polyhedra_of_a_text_by_hand():
    text = declared(2, 2) + (
        "; a comment (assert (<= X_0\n"
        "(assert (and (<= X_0 1.5e0) (>= X_0 -.5)))\r\n"
        "(assert (>= 2 X_1)) (assert (<= (* -2 X_1) +4))\n"
        "(assert (or (<= Y_0 Y_1) (and (>= Y_0 3) (<= (+ Y_0 (* 2 Y_1)) 1))))"
    )
    (case,) = vnnlib.parse(text).cases
    np.testing.assert_array_equal(case.lower, [-0.5, -2])
    np.testing.assert_array_equal(case.upper, [1.5, 2])
    (first, second) = case.polyhedra
    np.testing.assert_array_equal(first[0], [[1, -1]])
    np.testing.assert_array_equal(second[0], [[-1, 0], [1, 2]])
    np.testing.assert_array_equal(second[1], [-3, 1])


def test_disjunctions_of_inputs_and_outputs_are_boxes_each_with_its_own():
    text = declared() + (
        "(assert (or (and (>= X_0 0) (<= X_0 1) (<= Y_0 0)) (and (>= X_0 2) (<= X_0 3) (>= Y_1 5))"
        " (and (>= X_0 0) (<= X_0 1) (<= Y_1 0))))"
    )
    first, second = vnnlib.parse(text).cases
    assert (first.lower, first.upper, len(first.polyhedra)) == (0, 1, 2)
    assert (second.lower, second.upper, len(second.polyhedra)) == (2, 3, 1)
    joined = vnnlib.parse(
        declared() + "(assert (or (and (<= X_0 1) (>= X_0 0)) (and (<= X_0 3) (>= X_0 2))))"
        "(assert (or (<= Y_0 0) (<= Y_1 0)))"
    )
    assert [len(case.polyhedra) for case in joined.cases] == [2, 2]


def test_an_empty_alternative_goes_and_an_empty_whole_is_refused():
    text = declared() + BOX + "(assert (or (and (>= X_0 2) (<= Y_0 0)) (<= Y_1 0)))"
    (case,) = vnnlib.parse(text).cases
    np.testing.assert_array_equal(case.polyhedra[0][0], [[0, 1]])


MALFORMED = {
    "": "expected declarations and assertions",
    "(": "line 1: expected ')'",
    ")": "line 1: expected '(', got ')'",
    "\n\nword": "line 3: expected '(', got 'word'",
    "(" * 101: "at most 100 nested brackets",
    "()": "line 1: expected (declare-const",
    "(check-sat)": "got '(check-sat ...'",
    "(declare-const X_0 Int)": "expected (declare-const NAME Real)",
    "(declare-const Z_0 Real)": "line 1: expected a name X_0, ... or Y_0, ..., got 'Z_0'",
    "(declare-const X_00 Real)": "got 'X_00'",
    "(declare-const X_0 Real)\n(declare-const X_0 Real)": "line 2: expected every name once",
    "(declare-const X_1 Real)(declare-const Y_0 Real)": "expected X_0 to be declared",
    "(declare-const X_0 Real)": "expected Y_0 to be declared, got 0 others",
    declared() + BOX: "expected conditions on outputs",
    declared() + "(assert (<= Y_0 0))": "expected bounded inputs, X_0 has no lower bound",
    declared() + "(assert (>= X_0 0))(assert (<= Y_0 0))": "X_0 has no upper bound",
    declared() + "(assert (or (<= Y_0 1) (<= X_0 1)))(assert (>= X_0 0))": "X_0 has no upper",
    declared() + BOX + "(assert (>= X_0 2))(assert (<= Y_0 0))": "some input to satisfy",
    declared() + BOX + "(assert (<= 2 1))(assert (<= Y_0 0))": "some input to satisfy",
    declared() + BOX + "(assert (<= Y_0 nan))": "line 6: expected a number or a declared name",
    declared() + BOX + "(assert (<= Y_2 0))": "got 'Y_2'",
    declared() + BOX + "(assert (<= Y_0 1e999))": "in the range of float64, got '1e999'",
    declared() + BOX + "(assert (<= Y_0 1e-999))": "numbers that float64 has, got '1e-999'",
    declared() + BOX + "(assert (<= (* 1e-200 (* 1e-200 Y_0)) 0))": "products that float64 has",
    declared() + BOX + "(assert (<= (* 1e-200 1e-200 X_0) -1))": "line 6: expected products",
    declared() + BOX + "(assert (< Y_0 0))": "line 6: expected and, or, <= or >=, got '(< ...'",
    declared() + BOX + "(assert (not (<= Y_0 0)))": "got '(not ...'",
    declared() + BOX + "(assert (<= Y_0 0 1))": "expected two sides of <=, got 3",
    declared() + BOX + "(assert (<= (* Y_0 Y_1) 0))": "expected a linear term",
    declared() + BOX + "(assert (<= (/ Y_0 2) 0))": "expected a term of +, - or *, got '(/ ...'",
    declared() + BOX + "(assert (<= (+) Y_0))": "expected arguments, got '(+ ...'",
    declared() + BOX + "(assert (or))": "line 6: expected arguments",
    declared() + BOX + "(assert (<= Y_0 X_0))": "line 6: expected inputs or outputs alone",
    declared(2) + BOX + "(assert (<= X_0 X_1))": "bounds of one input, got X_0 and X_1",
    declared() + BOX + "(assert (or (<= Y_0 0) (<= Y_1 0)))\n" * 17: "at most 65536 alternatives",
    "(vnnlib-version <3.0>)": "line 1: expected version <2.0>",
}


@pytest.mark.parametrize("text", MALFORMED, ids=range(len(MALFORMED)))
def test_a_malformed_text_is_refused_in_one_line(text):
    with pytest.raises(MalformedError, match=re.escape(MALFORMED[text])) as raised:
        vnnlib.parse(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_a_file_is_named_and_packed_ones_are_bounded(tmp_path, monkeypatch):
    path = tmp_path / "prop.vnnlib.gz"
    path.write_bytes(gzip.compress(b"(assert"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: line 1: expected ')'")):
        vnnlib.read(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged, no gzip archive")):
        vnnlib.read(path)
    (tmp_path / "packed.vnnlib").write_bytes(gzip.compress(b"(assert"))
    with pytest.raises(ValueError, match=re.escape("packed.vnnlib: line 1: expected ')'")):
        vnnlib.read(tmp_path / "packed.vnnlib")
    path.write_bytes(gzip.compress(b"\xff\xfe"))
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected UTF-8")):
        vnnlib.read(path)
    monkeypatch.setattr("robustra_tf.vnnlib.reading.LARGEST", 2000)
    path.write_bytes(gzip.compress(b" " * 2001))
    with pytest.raises(ValueError, match=re.escape(f"{path}: expected at most 2000 bytes")):
        vnnlib.read(path)


class Drawn:
    """A text, and what it says by evaluation: no linear functions, no disjunctive form."""

    def __init__(self, draw):
        self.draw = draw
        self.inputs, self.outputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def space(self):
        return self.draw(st.sampled_from([" ", "  ", "\n", "\r\n", "\t", " ; (note\n"]))

    def number(self):
        value = self.draw(st.integers(-16, 16)) / 4
        styles = [f"{value}", f"{value:e}", f"{value:+.2f}", f"{value * 100:g}E-2"]
        return self.draw(st.sampled_from(styles)), lambda x, y: value

    def variable(self, kind):
        index = self.draw(st.integers(0, (self.inputs if kind == "X" else self.outputs) - 1))
        return f"{kind}_{index}", lambda x, y: (x if kind == "X" else y)[index]

    def output_term(self, depth=2):
        if depth == 0 or self.draw(st.booleans()):
            return self.draw(st.sampled_from([self.number, lambda: self.variable("Y")]))()
        (left, f), (right, g) = self.output_term(depth - 1), self.output_term(depth - 1)
        kind = self.draw(st.sampled_from("+-*n"))
        if kind == "n":
            return f"(-{self.space()}{left})", lambda x, y: -f(x, y)
        if kind == "*":
            left, f = self.number()
        form = f"({kind} {left}{self.space()}{right})"
        joined = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}[kind]
        return form, lambda x, y: joined(f(x, y), g(x, y))

    def comparison(self, left, right):
        (a, f), (b, g) = left, right
        if self.draw(st.booleans()):
            return f"(<= {a}{self.space()}{b})", lambda x, y: f(x, y) <= g(x, y)
        return f"(>=\t{b} {a} )", lambda x, y: f(x, y) <= g(x, y)

    def leaf(self):
        if self.draw(st.integers(0, 3)):
            return self.comparison(self.output_term(), self.output_term())
        sides = [self.variable("X"), self.number()]
        return self.comparison(*(sides if self.draw(st.booleans()) else sides[::-1]))

    def condition(self, depth):
        if depth == 0 or not self.draw(st.integers(0, 2)):
            return self.leaf()
        word, join = self.draw(st.sampled_from([("and", all), ("or", any)]))
        parts = [self.condition(depth - 1) for _ in range(self.draw(st.integers(1, 3)))]
        inside = self.space().join(form for form, _ in parts)
        return f"({word} {inside})", lambda x, y: join(part(x, y) for _, part in parts)

    def text(self):
        lines = [declared(self.inputs, self.outputs)]
        truths = []
        for index in range(self.inputs):
            if self.draw(st.integers(0, 9)):  # else it may be unbounded
                low, high = sorted(self.draw(st.tuples(*[st.integers(-8, 8)] * 2)))
                lines.append(f"(assert (<= X_{index} {high}))(assert (>= X_{index} {low}))")
                truths.append(lambda x, y, i=index, a=low, b=high: a <= x[i] <= b)
        for _ in range(self.draw(st.integers(0, 3))):
            form, truth = self.condition(3)
            lines.append(f"(assert{self.space()}{form})")
            truths.append(truth)
        return self.space().join(lines), lambda x, y: all(truth(x, y) for truth in truths)


def read_or_refused(text):
    try:
        return vnnlib.parse(text), ""
    except MalformedError as error:
        return None, str(error)


@settings(
    max_examples=TEXTS,
    deadline=None,
    derandomize=not NIGHTLY,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_random_texts_say_what_they_evaluate_to_or_are_refused(data, seed):
    drawn = Drawn(data.draw)
    text, truth = drawn.text()
    rng = np.random.default_rng(seed)
    # All numbers are multiples of a small power of two: nothing is rounded.
    points = [
        (rng.integers(-40, 40, drawn.inputs) / 4, rng.integers(-40, 40, drawn.outputs) / 4)
        for _ in range(100)
    ]
    spec, refusal = read_or_refused(text)
    if spec is None:
        assert re.search(r"X_\d has no|conditions on outputs|some input|alternatives", refusal)
        if "some input" in refusal:
            assert not any(truth(x, y) for x, y in points)
        return
    for x, y in points:
        assert holds(spec, x, y) == truth(x, y)
    again = vnnlib.parse(vnnlib.text(spec, "as it\nwas read"))
    assert (again.inputs, again.outputs) == (drawn.inputs, drawn.outputs)
    for x, y in points:
        assert holds(again, x, y) == holds(spec, x, y)


SECOND = """(vnnlib-version <2.0>)
(declare-network f
  (declare-input X float32 [1,2]) (declare-output Y float32 [1,2]))
(assert (and (>= X[0,0] -1.0) (<= X[0,0] 0.1) (== X[0,1] 3.0)))
(assert (or (<= (+ Y[0,0] (- Y[0,1])) 0.5) (>= (* 2.0 Y[0,1]) 3.0)))
"""


def test_version_two_by_its_package():
    (case,) = vnnlib.parse(SECOND).cases
    np.testing.assert_array_equal(case.lower, [-1, 3])
    np.testing.assert_array_equal(case.upper, [0.1, 3])
    (first, second) = case.polyhedra
    np.testing.assert_array_equal(first[0], [[1, -1]])
    np.testing.assert_array_equal(second[0], [[0, -2]])
    np.testing.assert_array_equal((*first[1], *second[1]), [0.5, -3])


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("<= (+", "< (+", "expected and, or, <=, >= or =="),
        ("X[0,0]", "X[0,5]", "line 4: .*X.0,5"),
        ("(* 2.0 Y[0,1])", "(* Y[0,0] Y[0,1])", "Non-linear"),
        ("(assert (and", "(assert (xor", "syntax error"),
        ("0.1)", "1e-1)", "syntax error"),  # the package's lexer has no exponents
        ("(declare-o", '(declare-hidden H float32 [1] "h") (declare-o', "expected inputs and"),
        ("(== X[0,1] 3.0)", "", "X_1 has no lower bound"),
    ],
)
def test_version_two_is_refused_in_one_line(old, new, word):
    with pytest.raises(MalformedError, match=word) as raised:
        vnnlib.parse(SECOND.replace(old, new))
    assert "\n" not in str(raised.value)


def test_version_two_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "vnnlib", None)
    with pytest.raises(ImportError, match=r"robustra-tf\[onnx\]"):
        vnnlib.parse(SECOND)


@pytest.mark.oracle
def test_the_public_properties_are_read(shared):
    """Six benchmarks; `make fuzz` reads all of them, tests the smallest and the largest of each."""
    sizes = {"acasxu": (5, 5), "mnist_fc": (784, 10), "oval21": (3072, 10)}
    sizes |= {"rl_benchmarks": None, "collins_rul_cnn": None, "test": None}
    for name, size in sizes.items():
        files = sorted(shared.glob(f"vnncomp/{name}/**/*.vnnlib*"), key=lambda p: p.stat().st_size)
        assert files
        for path in files if NIGHTLY else (files[0], files[-1]):
            spec = vnnlib.read(path)
            assert size in (None, (spec.inputs, spec.outputs)), path
    six = vnnlib.read(shared / "vnncomp/acasxu/vnnlib/prop_6.vnnlib.gz")
    assert [len(case.polyhedra) for case in six.cases] == [4, 4]
