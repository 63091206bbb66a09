"""The console script: its help, its version and its errors; and what importing the package and its commands costs."""

from __future__ import annotations

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


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python with arguments in a fresh process."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)


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
