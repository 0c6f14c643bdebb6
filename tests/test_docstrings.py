"""Public docstrings: every one has an example, and the examples say what happens."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import robustra_tf as rt

API = Path(__file__).resolve().parents[1] / "docs" / "api.md"


def public():
    """Name -> function or class, of all that the library offers by name; errors need no example."""
    found = {}
    for name in rt.__all__:
        value = getattr(rt, name)
        if not inspect.ismodule(value):
            found[name] = value
            continue
        for part, member in vars(value).items():
            own = getattr(member, "__module__", None) or ""
            if own.startswith(value.__name__) and not part.startswith("_"):
                found[f"{name}.{part}"] = member
    kinds = (inspect.isfunction, inspect.isclass)
    return {
        name: value
        for name, value in found.items()
        if any(kind(value) for kind in kinds)
        and not (inspect.isclass(value) and issubclass(value, Exception))
    }


PUBLIC = public()


def test_the_scan_sees_functions_and_classes():
    assert {"certify", "Certificate", "data.load", "attacks.fgsm", "metrics.certified"} <= {*PUBLIC}
    assert "data.DataNotFoundError" not in PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_the_examples_of_a_docstring_say_what_happens(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"^```python\n(.*?)^```$", API.read_text(), re.MULTILINE | re.DOTALL)
    names = {}
    exec(block, names)
    test = doctest.DocTestParser().get_doctest(
        inspect.getdoc(PUBLIC[name]), names, name, inspect.getsourcefile(PUBLIC[name]), 0
    )
    assert test.examples, f"{name} has no example"
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
