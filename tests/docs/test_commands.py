"""Every command in the documents is accepted: its options by the command, its keys by the configuration."""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest
from torch.distributed.run import get_args_parser

from alexnet_dist import config
from alexnet_dist.__main__ import COMMANDS
from alexnet_dist.errors import UserError
from support.documents import GUIDES, LAUNCH, ROOT, Command, blocks, commands, read

# What a user has or is told to install; their arguments are not checked.
PROGRAMS = {
    *(
        ".",
        "amtool",
        "awk",
        "curl",
        "docker",
        "git",
        "grep",
        "install",
        "kubectl",
        "ln",
        "mkdir",
        "openssl",
        "pip",
        "prometheus",
    ),
    *("prometheus-alertmanager", "pytest", "sbatch", "scancel", "sky", "tail"),
}
WITH_COMMANDS = [*GUIDES, *LAUNCH]
NEEDS_GPU = re.compile(r"one_gpu_fast|cuda|large_batch|--nproc-per-node=(?:8|16)\b")


class ParsedError(Exception):
    """Ends a command once it has parsed its arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """Return what a command makes of its arguments; it does nothing else."""
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)

        def parse(parser: argparse.ArgumentParser, *words: list[str], _original: object = original) -> NoReturn:
            assert callable(_original)
            raise ParsedError(_original(parser, *words))

        monkeypatch.setattr(argparse.ArgumentParser, name, parse)
    try:
        main = importlib.import_module(f"alexnet_dist.{module}.__main__").main
    except ModuleNotFoundError:
        main = importlib.import_module(f"alexnet_dist.{module}").main
    with pytest.raises(ParsedError) as stopped:
        main(arguments)
    monkeypatch.undo()
    return stopped.value.arguments


def check_own(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the words that follow python or torchrun: -m and one of our commands, or launch/train.py."""
    if words[0] == "-m":
        package, _, module = words[1].partition(".")
        assert package == "alexnet_dist"
        assert module in COMMANDS
        arguments = words[2:]
    else:
        assert (ROOT / words[0]).exists()
        if words[0] != "launch/train.py":
            return
        module, arguments = "train", words[1:]
    found = parsed(module, arguments, monkeypatch)
    if "config" in found and "overrides" in found:
        monkeypatch.chdir(ROOT)
        config.from_arguments(found)


def check(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a command; SystemExit, a UserError or an AssertionError says that it is not accepted."""
    program, *words = command.words
    if program == "make":
        assert re.search(rf"^{words[0]}:", read("Makefile"), re.MULTILINE)
    elif program == "alexnet-dist":
        assert words[0] == "--version" or words[0] in COMMANDS
    elif program == "torchrun":
        options = get_args_parser().parse_args(words)
        script = options.training_script
        check_own([*(["-m"] if options.module else []), script, *options.training_script_args], monkeypatch)
    elif program == "python" and words[0] != "-c":
        check_own(words, monkeypatch)
    else:
        assert program in PROGRAMS | {"python"}


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_every_command_is_accepted(document: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in commands(document):
        check(command, monkeypatch)


@pytest.mark.parametrize("document", WITH_COMMANDS)
def test_every_block_is_valid_shell(document: str) -> None:
    for block in blocks(document, "sh"):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True, timeout=60)


def test_a_command_that_needs_a_gpu_says_so() -> None:
    found = [command for document in GUIDES for command in commands(document) if NEEDS_GPU.search(command.text)]
    assert len(found) >= 8
    assert [command.text for command in found if "GPU" not in command.comment] == []


def test_the_documents_have_commands() -> None:
    ours = {command.words[2] for document in GUIDES for command in commands(document) if "-m" in command.words[:2]}
    assert len(ours) >= 12


@pytest.mark.parametrize(
    "line",
    [
        "python -m alexnet_dist.pack shards --sise 64",
        "python -m alexnet_dist.packs a b",
        "torchrun --nproc-per-pod=2 launch/train.py",
        "torchrun --nproc-per-node=2 launch/train.py --config nothing",
        "torchrun --nproc-per-node=2 -m alexnet_dist.train data.worker=1",
        "python launch/trains.py",
        "make demonstration",
        "alexnet-dist trains",
        "rm -rf /",
    ],
)
def test_a_wrong_command_is_found(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((SystemExit, AssertionError, UserError)):
        check(Command(tuple(line.split()), "", line), monkeypatch)


def test_paths_of_configurations_exist() -> None:
    named = re.findall(r"configs/[\w/]+\.yaml", "\n".join(read(document) for document in WITH_COMMANDS))
    assert [name for name in named if not Path(ROOT / name).exists()] == []
