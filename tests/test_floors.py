"""The house: who may import whom, who knows of processes, configuration and environment, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# A name is a module of alexnet_dist, or one of its packages with all that is in it.
FLOORS = (
    {"errors"},
    {"draws", "geometry", "process", "timeline"},
    {"config", "data", "layers", "optim", "topology", "hello", "link", "metrics", "checkpoint", "profiling"},
    {"model", "programme"},
    {"feed", "parallel", "run"},
    {"step"},
    {"building", "journal", "opening"},
    {"loop"},
    {"train"},
    {"pack", "evaluate", "predict", "export", "figures", "demo", "benchmark", "show", "launch"},
)
# Commands whose library part another command calls.
LENT: Mapping[str, set[str]] = {"predict": {"evaluate", "pack"}, "figures": {"export"}}
CONFIG_READERS = {"config", "run", "building", "opening", "loop", "train"} | FLOORS[-1]
DISTRIBUTED = {"hello", "link", "topology", "parallel"}
# What torch's own calls take is measured beside ours.
DISTRIBUTED_FILES = {"alexnet_dist/benchmark/wire.py"}
# process reads the environment; the demo hands it on to the processes it starts.
ENVIRONMENT = {"alexnet_dist/process.py", "alexnet_dist/demo/__main__.py"}
MOST_LINES = 300


@dataclass(frozen=True)
class Module:
    """One file: its path from the root, the unit of the house that it belongs to, and its text."""

    path: str
    unit: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def imports(self) -> set[str]:
        """Dotted names of all that is imported, also inside functions and for types only."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                assert node.module is not None
                # `from a import b`: b may be a module of a, or a name in it.
                found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    @property
    def units(self) -> set[str]:
        """The units of the house that it imports, without its own."""
        parts = [name.split(".") for name in self.imports]
        inside = {part[1] for part in parts if part[0] == "alexnet_dist" and len(part) > 1}
        outside = {"launch" for part in parts if part[0] == "launch"}
        return (inside | outside) - {self.unit}


def modules(folder: str) -> Iterator[Module]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT)
        unit = path.parts[0] if folder != "alexnet_dist" else path.parts[1].removesuffix(".py")
        yield Module(str(path), unit, file.read_text())


HOUSE = [
    module for module in (*modules("alexnet_dist"), *modules("launch")) if module.path != "alexnet_dist/__init__.py"
]
TESTS = list(modules("tests"))


def by_path(module: Module) -> str:
    return module.path


def floor_of(unit: str) -> int:
    for number, units in enumerate(FLOORS):
        if unit in units:
            return number
    raise AssertionError(f"{unit} is on no floor: give it one in {Path(__file__).name}")


def test_the_test_reads_the_house() -> None:
    assert {"errors", "config", "data", "model", "train", "launch"} <= {module.unit for module in HOUSE}
    assert len({unit for units in FLOORS for unit in units}) == sum(len(units) for units in FLOORS)
    (step,) = [module for module in HOUSE if module.unit == "step"]
    assert {"optim", "feed", "model", "parallel"} <= step.units
    (launcher,) = [module for module in HOUSE if module.path == "launch/train.py"]
    assert "train" in launcher.units  # it is imported inside a function


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_imports_go_down(module: Module) -> None:
    here = floor_of(module.unit)
    for unit in sorted(module.units - LENT.get(module.unit, set())):
        assert floor_of(unit) < here, f"{module.path} is on floor {here} and imports {unit} of floor {floor_of(unit)}"


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_only_the_upper_floors_see_the_configuration(module: Module) -> None:
    assert module.unit in CONFIG_READERS or "config" not in module.units


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_few_modules_know_of_other_processes(module: Module) -> None:
    if module.path not in DISTRIBUTED_FILES:
        assert module.unit in DISTRIBUTED or not any(name.startswith("torch.distributed") for name in module.imports)
    if module.unit in ("model", "layers"):
        assert "torch.distributed" not in module.text
        assert not any(name.startswith(("multiprocessing", "subprocess", "socket")) for name in module.imports)


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_only_process_reads_the_environment(module: Module) -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    nodes = list(ast.walk(module.tree))
    found = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    found |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not found & names or module.path in ENVIRONMENT


@pytest.mark.parametrize("module", [*HOUSE, *TESTS], ids=by_path)
def test_a_file_is_short_and_says_what_it_is_for(module: Module) -> None:
    assert len(module.text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(module.tree), "no docstring"
    assert not {"utils", "common", "helpers"} & set(Path(module.path).with_suffix("").parts)


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_nothing_is_left_for_later(module: Module) -> None:
    assert "TODO" not in module.text
    assert "NotImplementedError" not in module.text
