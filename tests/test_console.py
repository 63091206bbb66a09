"""The console script: its help, its version and its errors; and what importing the package and its commands costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import alexnet_dist
from alexnet_dist.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
# Modules that are slow to import, so no command may import them before its arguments are parsed.
SLOW = {"torch", "numpy", "PIL", "simplejpeg", "matplotlib"}


def run_python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run this Python with arguments in a fresh process."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def run_console(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the console script's module."""
    return run_python("-m", "alexnet_dist", *arguments)


def imported_by(code: str) -> set[str]:
    """Return the names of the modules that a fresh process has imported after running some code."""
    result = run_python("-c", f"{code}\nimport sys; print(*sys.modules)")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_the_installed_script_runs_the_module() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"alexnet-dist": "alexnet_dist.__main__:run"}


def test_the_version_is_the_packages() -> None:
    result = run_console("--version")
    assert (result.returncode, result.stdout) == (0, f"alexnet-dist {alexnet_dist.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_command(arguments: tuple[str, ...]) -> None:
    result = run_console(*arguments)
    assert result.returncode == 0
    listed = [line.split()[0] for line in result.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_the_commands_are_the_modules_that_can_be_run() -> None:
    package = ROOT / "alexnet_dist"
    modules = {path.stem for path in package.glob("*.py") if '__name__ == "__main__"' in path.read_text("utf-8")}
    modules -= {path.stem for path in package.glob("*.py") if "exit(refuse_to_run(" in path.read_text("utf-8")}
    packages = {path.parent.name for path in package.glob("*/__main__.py")}
    assert (modules | packages) - {"__main__"} == set(COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("pak", "SOURCE"), "did you mean 'pack'?"),
        (("xyz",), f"expected one of {', '.join(COMMANDS)}"),
        (("--verbose",), f"expected one of {', '.join(COMMANDS)}"),
    ],
)
def test_an_unknown_command_is_rejected_with_a_hint(arguments: tuple[str, ...], hint: str) -> None:
    result = run_console(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: alexnet-dist: unknown command {arguments[0]!r}; {hint}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_gets_its_arguments(command: str) -> None:
    result = run_console(command, "--help")
    assert result.returncode == 0
    assert result.stdout == run_python("-m", f"alexnet_dist.{command}", "--help").stdout
    assert run_console(command, "--no-such-option").returncode == 2


def test_a_users_mistake_has_the_exit_code_of_the_command() -> None:
    result = run_console("pack", "OUT")
    assert result.returncode == 2
    assert result.stderr.startswith("error: expected SOURCE and OUT")


def test_the_package_imports_no_torch_until_its_net_is_used() -> None:
    assert "torch" not in imported_by("import alexnet_dist; alexnet_dist.__version__")
    net = "alexnet_dist.nn.model.AlexNet"
    modules = imported_by(f"from alexnet_dist import AlexNet\nassert repr(AlexNet) == \"<class '{net}'>\"")
    assert "torch" in modules


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'alexnet_dist' has no attribute 'Alexnet'"):
        alexnet_dist.Alexnet  # noqa: B018


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_torch(command: str) -> None:
    code = f"""
import contextlib
from alexnet_dist.__main__ import main
with contextlib.suppress(SystemExit):
    main([{command!r}, "--help"])
"""
    assert not imported_by(code) & SLOW


def namesakes() -> list[str]:
    """Return the modules that a user may take for a command: named like one, or public.

    The suites of benchmark are named like benchmarks. Python itself refuses to run a package without __main__.
    """
    paths = [path.relative_to(ROOT) for path in (ROOT / "alexnet_dist").glob("*/**/*.py") if path.stem in COMMANDS]
    return [
        "alexnet_dist.model",
        *(".".join(path.with_suffix("").parts) for path in paths if "suites" not in path.parts),
    ]


def test_the_module_that_trains_is_among_the_namesakes() -> None:
    assert namesakes() == ["alexnet_dist.model", "alexnet_dist.training.train"]


@pytest.mark.parametrize("module", [*namesakes(), "alexnet_dist.training", "alexnet_dist.runs"])
def test_a_module_that_is_no_command_does_not_end_as_if_it_had_done_something(module: str) -> None:
    result = run_python("-m", module, "data.root=shards")
    assert result.returncode in (1, 2)
    assert result.stdout == ""
    if module in namesakes():
        assert result.stderr == (
            f"error: {module} is imported by commands, and does nothing by itself; expected python -m"
            f" alexnet_dist.train{', or another of python -m alexnet_dist' if module.endswith('model') else ''}\n"
        )
    else:
        assert "is a package and cannot be directly executed" in result.stderr


def test_training_without_a_config_or_data_is_refused(tmp_path: Path) -> None:
    result = run_python("-m", "alexnet_dist.train", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"error: shards/train.manifest.json: no such file: {tmp_path}/shards/train.manifest.json was tried, because the"
        f" current folder is {tmp_path}. Give the absolute path of shards, or change to the folder that contains it; to"
        " pack it: python -m alexnet_dist.pack SOURCE shards --split train"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", COMMANDS)
def test_help_can_be_printed_on_an_ascii_terminal_and_into_a_closed_pipe(command: str) -> None:
    arguments = [sys.executable, "-m", f"alexnet_dist.{command}", "--help"]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(arguments, env=ascii_only, capture_output=True, text=True, timeout=120, check=False)
    assert (shown.returncode, shown.stderr) == (0, "")
    read, write = os.pipe()
    os.close(read)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open(write, "w") as closed:  # noqa: PTH123
        ended = subprocess.run(arguments, env=buffered, stdout=closed, stderr=subprocess.PIPE, timeout=120, check=False)
    assert (ended.returncode, ended.stderr) == (141, b"")
