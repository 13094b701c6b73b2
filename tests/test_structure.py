"""How the files of the suite may lean on each other: downwards only, in no circle, late imports counted."""
import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("detco", "baselines", "benchmarks", "leaderboard", "configs")
MODULE = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)*")
OBJECT = re.compile(rf"({MODULE.pattern}):\w+")  # "module:name", as `task.kind` and a method's `type` are written
BY_NAME = {"resolve_name", "import_module"}  # functions that import what a string names
# Each has a command line of its own; its words go no further than the file.
PARSERS = {"benchmarks.cli", "benchmarks.compare", "benchmarks.figures", "benchmarks.prepare", "benchmarks.speed",
           "benchmarks.pages", "benchmarks.pilots", "benchmarks.verify", "benchmarks.data.synthetic",
           "leaderboard.__main__", "detco.checkpoint"}
SLOW = {"torch", "torchvision", "mmengine", "mmcv", "mmdet", "scipy", "sklearn", "matplotlib", "pandas"}  # to import


def files(root: Path = ROOT) -> dict[str, ast.Module]:
    """Every file of the packages, parsed, by dotted name; a package's `__init__.py` by the package's."""
    paths = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: ast.parse(path.read_text()) for name, path in zip(names, paths)}


def imported(tree: ast.Module) -> set[str]:
    """Dotted names that a file imports, anywhere in it; of `from a import b` it is a.b, be that a file or not."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                assert not node.level, "imports are absolute"
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            case ast.Constant(value=str(text)) if found := OBJECT.fullmatch(text):
                names.add(found[1])
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(text)), *_]):
                if name in BY_NAME:
                    names.add(text.partition(":")[0])
    return names


def graph(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """File -> files of the suite that it imports, and the `__init__.py` that run before those do."""
    edges = {}
    for name, tree in trees.items():
        edges[name] = set()
        for wanted in imported(tree):
            parts = wanted.split(".")
            *above, last = [stem for i in range(len(parts)) if (stem := ".".join(parts[:i + 1])) in trees] or [None]
            # The packages that a file lies in have run before it does.
            edges[name] |= {last} - {None} | {package for package in above if not f"{name}.".startswith(f"{package}.")}
    return edges


def tops(tree: ast.Module) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imported(tree)}


TREES = files()


def test_no_files_import_in_a_circle():
    try:
        TopologicalSorter(graph(TREES)).prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize("lines", [
    ["import detco.b", "import detco.a"],
    ["from detco import b", "from detco.a import x"],
    ["def late():\n    from detco.b import x", "import detco.a"],
    ["KINDS = {'one': 'detco.b:f'}", "from detco import a"],
    ["from pkgutil import resolve_name\nresolve_name('detco.b')", "import importlib as i\ni.import_module('detco.a')"],
])
def test_circles_are_found_however_they_are_written(lines, tmp_path):
    (tmp_path / "detco").mkdir()
    for name, text in zip("ab", lines, strict=True):
        (tmp_path / "detco" / f"{name}.py").write_text(text)
    with pytest.raises(CycleError):
        TopologicalSorter(graph(files(tmp_path))).prepare()


def test_importing_from_a_package_leans_on_its_init(tmp_path):
    (tmp_path / "benchmarks" / "part").mkdir(parents=True)
    (tmp_path / "benchmarks" / "part" / "__init__.py").write_text("from benchmarks.part import inner")
    (tmp_path / "benchmarks" / "part" / "inner.py").write_text("")
    (tmp_path / "benchmarks" / "outer.py").write_text("import benchmarks.part.inner")
    assert graph(files(tmp_path)) == {
        "benchmarks.part": {"benchmarks.part.inner"}, "benchmarks.part.inner": set(),
        "benchmarks.outer": {"benchmarks.part", "benchmarks.part.inner"}}


@pytest.mark.parametrize("room, others", [
    ("leaderboard", {"detco", "baselines", "benchmarks", "configs", "torch", "torchvision", "mmengine"}),
    ("detco", {"baselines", "benchmarks", "leaderboard", "configs"}),
    ("baselines", {"benchmarks", "leaderboard", "configs"}),
    ("configs", {"benchmarks", "leaderboard"}),
])
def test_a_room_imports_nothing_above_it(room, others):
    found = {name: bad for name, tree in TREES.items() if name.split(".")[0] == room and (bad := tops(tree) & others)}
    assert not found


def test_mmdetection_is_imported_under_its_own_room_alone():
    found = {name for name, tree in TREES.items() if tops(tree) & {"mmdet", "mmcv"}}
    assert found and all(name.startswith("benchmarks.detection") for name in found), found


def test_words_of_the_command_line_stay_with_their_parser():
    assert {name for name, tree in TREES.items() if "argparse" in tops(tree)} <= PARSERS


@pytest.mark.parametrize("module", ["benchmarks.errors", "benchmarks.run", "benchmarks.__main__", "leaderboard.record"])
def test_commands_start_without_what_is_slow_to_import(module):
    code = f"import sys, {module}; print(*{SLOW} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
