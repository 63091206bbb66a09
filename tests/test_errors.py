"""Exit codes and messages of commands that return, fail or are interrupted."""

from __future__ import annotations

import pytest

from alexnet_dist.errors import RunError, UserError, run_command


def raising(error: BaseException) -> int:
    def command(_arguments: list[str]) -> None:
        raise error

    return run_command(command, [])


def test_a_command_that_returns_is_0(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    assert run_command(seen.append, ["a", "b"]) == 0
    monkeypatch.setattr("sys.argv", ["program", "c"])
    assert run_command(seen.append) == 0
    assert seen == [["a", "b"], ["c"]]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("data.root: shards: no such folder"), 2, "error: data.root: shards: no such folder\n"),
        (RunError("rank 1 is gone"), 1, "error: rank 1 is gone\n"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C\n"),
    ],
)
def test_what_is_expected_ends_with_one_line(
    error: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error) == code
    assert capsys.readouterr() == ("", message)


def test_our_own_faults_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())
