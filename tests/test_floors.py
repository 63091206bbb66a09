"""The floors: which module may import which, and which know of processes, the configuration and the environment."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Units are dotted names below alexnet_dist: a module, or a package with all that is in it. A module belongs to the
# longest unit that its name begins with; units of one floor do not import each other.
FLOORS = (
    {"errors"},
    {"system"},
    {"monitoring"},
    {"nn", "data"},
    {"config", "model"},
    {"distributed"},
    {"runs"},
    {"training.optim", "training.run_plan", "training.tensorboard"},
    {"training.schedule"},
    {"training.context"},
    {"training.feed", "training.inputs"},
    {"training.step", "training.faults"},
    {"training.build", "training.graph", "training.resume", "training.initial"},
    {"training.run_logger", "training.ending", "training.saver", "training.provenance"},
    {"training.pipeline"},
    {"training.loop"},
    {"training.train"},
    {"pack", "show", "export", "features", "figures", "benchmark"},
    {"demo", "paper", "evaluate", "finetune", "predict", "report"},
    {"train"},
    {"doctor"},
    {"__main__", "launch"},
)
COMMANDS = set().union(*FLOORS[-5:])
CONFIG_READERS = {
    "config",
    "runs",
    *(unit for floor in FLOORS for unit in floor if unit.startswith("training.")),
} | COMMANDS
DISTRIBUTED = {"distributed"}
# What torch's own calls take is measured beside ours.
DISTRIBUTED_FOLDERS = ("alexnet_dist/benchmark/contenders/",)
ENVIRONMENT = ("alexnet_dist/system/environment.py",)
MOST_LINES, MOST_ENTRIES = 300, 25


@dataclass(frozen=True)
class Module:
    """One file: its path from the root, its dotted name, and its text."""

    path: str
    name: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def imports(self) -> set[str]:
        """Dotted names of all that is imported, also inside functions and for types only."""
        names: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno}: relative import"
                assert node.module is not None
                # `from a import b`: b may be a module of a, or a name in it.
                names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        return names

    @property
    def units(self) -> set[str]:
        """The units that it imports, without its own."""
        inside = {
            unit_of(name.removeprefix("alexnet_dist.")) for name in self.imports if name.startswith("alexnet_dist.")
        }
        return {unit for unit in inside if unit} - {unit_of(self.name)}


def unit_of(name: str) -> str:
    """Return the unit of a module or of a name in one; empty for a bare package, whose __init__ imports nothing."""
    parts = name.split(".")
    prefixes = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    return next((prefix for prefix in prefixes if any(prefix in units for units in FLOORS)), "")


def modules(folder: str) -> Iterator[Module]:
    for file in sorted((ROOT / folder).rglob("*.py")):
        path = file.relative_to(ROOT)
        name = ".".join(path.with_suffix("").parts).removeprefix("alexnet_dist.").removesuffix(".__init__")
        yield Module(str(path), name, file.read_text())


PACKAGE = list(modules("alexnet_dist"))
HOUSE = [module for module in (*PACKAGE, *modules("launch")) if not module.path.endswith("/__init__.py")]
INITS = [module for module in PACKAGE if module.path.endswith("/__init__.py")]
TESTS = list(modules("tests"))


def by_path(module: Module) -> str:
    return module.path


def floor_of(unit: str) -> int:
    for number, units in enumerate(FLOORS):
        if unit in units:
            return number
    raise AssertionError(f"{unit!r} is on no floor: give it one in {Path(__file__).name}")


def test_the_test_reads_the_house() -> None:
    units = {unit_of(module.name) for module in HOUSE}
    assert units == {unit for floor in FLOORS for unit in floor}
    assert sum(map(len, FLOORS)) == len(units)
    (step,) = [module for module in HOUSE if module.name == "training.step"]
    assert {"distributed", "nn", "monitoring", "training.feed"} <= step.units
    (command,) = [module for module in HOUSE if module.name == "train"]
    assert "training.train" in command.units  # it is imported inside a function


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_imports_go_down(module: Module) -> None:
    here = floor_of(unit_of(module.name))
    for unit in sorted(module.units):
        assert floor_of(unit) < here, f"{module.path} is on floor {here} and imports {unit} of floor {floor_of(unit)}"


def test_there_is_no_import_circle() -> None:
    """Not even inside a package: the modules can be put into an order in which each imports earlier ones only."""
    names = {module.name for module in HOUSE}
    waiting = {
        module.name: {
            name for name in (full.removeprefix("alexnet_dist.") for full in module.imports) if name in names
        } - {module.name}
        for module in HOUSE
    }  # fmt: skip
    while ready := {name for name, needed in waiting.items() if not needed & waiting.keys()}:
        waiting = {name: needed for name, needed in waiting.items() if name not in ready}
    assert not waiting, f"these import each other: {waiting}"


def test_the_top_level_is_short() -> None:
    entries = {path.name for path in (ROOT / "alexnet_dist").iterdir()} - {"__init__.py", "py.typed", "__pycache__"}
    assert len(entries) <= MOST_ENTRIES, sorted(entries)
    tops = {f"{unit.partition('.')[0]}" for floor in FLOORS for unit in floor} - {"launch"}
    assert {entry.removesuffix(".py") for entry in entries} == tops


@pytest.mark.parametrize("module", INITS, ids=by_path)
def test_a_package_imports_no_torch(module: Module) -> None:
    top_level = [node for node in module.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.name for node in top_level if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in top_level if isinstance(node, ast.ImportFrom)}
    assert not any(name.partition(".")[0] == "torch" for name in imported)
    if not module.name.startswith("config"):
        assert not any(name.startswith("alexnet_dist.") for name in imported)


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_only_the_upper_floors_see_the_configuration(module: Module) -> None:
    assert unit_of(module.name) in CONFIG_READERS or "config" not in module.units


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_few_modules_know_of_other_processes(module: Module) -> None:
    unit = unit_of(module.name)
    if not module.path.startswith(DISTRIBUTED_FOLDERS):
        assert unit in DISTRIBUTED or not any(name.startswith("torch.distributed") for name in module.imports)
    if unit == "nn":
        assert "torch.distributed" not in module.text
        assert not any(name.startswith(("multiprocessing", "subprocess", "socket")) for name in module.imports)


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_only_one_module_reads_the_environment(module: Module) -> None:
    names = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    nodes = list(ast.walk(module.tree))
    used = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert not used & names or module.path.startswith(ENVIRONMENT)


@pytest.mark.parametrize("module", [*HOUSE, *INITS, *TESTS], ids=by_path)
def test_a_file_is_short_and_says_what_it_is_for(module: Module) -> None:
    assert len(module.text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(module.tree), "no docstring"
    assert not {"utils", "common", "helpers"} & set(Path(module.path).with_suffix("").parts)


@pytest.mark.parametrize("module", HOUSE, ids=by_path)
def test_nothing_is_left_for_later(module: Module) -> None:
    assert "TODO" not in module.text
    assert "NotImplementedError" not in module.text
