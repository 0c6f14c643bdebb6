"""The package: what a wheel holds, the command `robustra`, and both outside of the checkout."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import robustra_tf as rt
from robustra_tf.programs import console

ROOT = Path(__file__).resolve().parents[1]


def module_file(name):
    """The file of the checkout that a command runs."""
    return (ROOT / Path(*name.partition(":")[0].split("."))).with_suffix(".py")


@pytest.mark.parametrize("name", console.COMMANDS)
def test_every_command_is_a_program(name):
    program = console.COMMANDS[name].program
    text = module_file(program).read_text(encoding="utf-8")
    function = program.partition(":")[2]
    started = re.search(rf'\nif __name__ == "__main__":\n    (sys.exit\()?{function}\(', text)
    assert started, "as a module it starts elsewhere"
    assert f"`robustra {name}" in text, "its docstring does not name the command"


def test_every_program_of_a_checkout_is_a_command():
    runnable = [
        path
        for folder in ("train", "eval")
        for path in (ROOT / folder).rglob("*.py")
        if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
    ]
    # Of people `robustra check --run` is asked, which asks the other one.
    others = {ROOT / "eval" / "replay.py"}
    assert {module_file(c.program) for c in console.COMMANDS.values()} == set(runnable) - others


def test_every_command_is_in_the_table_of_the_pages():
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = dict(
        re.findall(r"^\| `robustra ([\w-]+)` \| `python -m ([\w.]+)` \|", page, re.MULTILINE)
    )
    programs = {name: c.program.partition(":")[0] for name, c in console.COMMANDS.items()}
    assert rows == {name: module.removesuffix(".__main__") for name, module in programs.items()}


def test_the_readme_is_short_and_its_links_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 6 * 2**10
    links = re.findall(r"\]\(([^)#]+)", text)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_the_list_of_commands_fits_a_screen_and_costs_no_import():
    program = (
        "import sys\nfrom robustra_tf.programs import console\n"
        "code = console.main(['--help'])\n"
        "print(code, {'tensorflow', 'keras', 'numpy', 'absl'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    *lines, last = done.stdout.splitlines()
    assert last == "0 set()", done.stderr
    assert [line for line in lines if len(line) > 80] == []
    assert len(lines) <= 24
    assert all(re.search(rf"^  {name}  ", done.stdout, re.MULTILINE) for name in console.COMMANDS)


def test_a_command_that_is_none_is_refused_in_one_line(capsys):
    assert console.main(["trian"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "got 'trian'" in line
    assert "train" in line
    assert console.main([]) == 2
    assert console.main(["--version"]) == 0
    assert capsys.readouterr().out == f"{rt.__version__}\n"


def test_a_command_says_which_extra_it_needs(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    for name in [name for name in sys.modules if name.endswith("eval.report")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    assert console.main(["report", "--out=nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "robustra report: needs jinja2, which pip install 'robustra-tf[report]' brings"


def test_what_is_imported_is_declared():
    """Whatever the package imports, an installation of it alone or of one of its extras brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        project["optional-dependencies"][name]
        for name in ("data", "report", "cluster", "sweep", "gurobi")
    ]
    declared = {
        re.match(r"[\w-]+", text)[0].replace("-", "_")
        for text in [*project["dependencies"], *(one for extra in extras for one in extra)]
    }
    modules = {"absl_py": "absl", "scikit_learn": "sklearn"}
    known = {modules.get(name, name) for name in declared} | {"robustra_tf"}
    imported = set()
    for folder in ("robustra_tf", "train", "eval"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(node.module.split(".")[0])
    assert imported - set(sys.stdlib_module_names) - known == set()
    # Imported by TensorFlow and by TensorFlow Datasets, which do not say so; Gurobi by its name.
    silent = {"tensorboard", "importlib_resources", "gurobipy"}
    assert known - imported == silent - imported


def test_the_public_names_are_the_same_for_people_and_for_type_checkers():
    tree = ast.parse((ROOT / "robustra_tf" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    homes = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            homes[alias.name] = None if node.module == "robustra_tf" else node.module
    assert homes == rt._HOMES
    assert list(homes) != []
    assert sorted(homes) == sorted(rt.__all__)


def test_the_version_is_the_same_wherever_it_stands():
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited.group(1) == rt.__version__
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert rt.__version__ in heads[0]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (path,) = out.glob("*.whl")
    return path


def test_a_wheel_holds_the_library_and_the_programs_and_nothing_beside(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {
        "robustra_tf",
        f"robustra_tf-{rt.__version__}.dist-info",
    }
    expected = {
        (Path("robustra_tf/programs") if folder != "robustra_tf" else Path())
        / path.relative_to(ROOT)
        for folder in ("robustra_tf", "train", "eval")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("robustra_tf/")} == set(map(str, expected))
    assert {"robustra_tf/py.typed", "robustra_tf/programs/eval/templates/report.html"} <= names
    licences = [name for name in names if name.endswith("licenses/LICENSE")]
    assert len(licences) == 1


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A fresh environment with the wheel in it, and a function that runs its commands elsewhere.

    What the package needs is taken from the environment of the tests: no network is asked.
    """
    folder = tmp_path_factory.mktemp("elsewhere")
    venv.create(folder / "venv")
    python = folder / "venv" / "bin" / "python"
    needs = [path for path in sys.path if path.endswith("site-packages")]
    (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    pip += ["--disable-pip-version-check", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    (own / "needs.pth").write_text("\n".join(needs))
    # What is installed there is another copy, whose coverage is not asked for.
    left_out = ("PYTHONPATH", "COVERAGE_PROCESS_CONFIG")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(program, *arguments):
        done = subprocess.run(
            [python.with_name(program), *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


# Three processes import TensorFlow from a fresh environment, one of them trains: half a minute.
@pytest.mark.slow
def test_the_installed_package_trains_evaluates_and_certifies(installed, tmp_path):
    run = tmp_path / "run"
    flags = ["--method=ibp", "--epochs=1", "--eps_warmup_epochs=0", "--limit_train=100"]
    installed("robustra", "train", *flags, "--limit_test=0", f"--workdir={run}")
    assert {"config.json", "history.csv", "f"} <= {path.name for path in run.iterdir()}

    evaluation = tmp_path / "evaluation"
    flags = [f"--saved_model={run / 'f'}", "--limit=20", f"--out={evaluation}"]
    assert "report in" in installed("robustra", "eval", *flags, "--stages=clean,ibp")
    assert {"results.json", "report.html"} <= {path.name for path in evaluation.iterdir()}

    program = (
        "import sys, robustra_tf as rt\n"
        "assert rt.__file__.startswith(sys.prefix), rt.__file__\n"
        "x, y = rt.data.load('digits', 'test', limit=3)\n"
        f"model = rt.export.load({str(run / 'f')!r})\n"
        "print(rt.certify(model, x, y, eps=0.001, save='certificate.npz').summary())"
    )
    told = installed("python", "-c", program)
    assert told.startswith("3 images, linf balls of radius 0.001 in pixels cut to [0, 1], dual")
    assert installed("robustra", "check", "certificate.npz").startswith("accepted: 3 images")
