"""The command: its exit codes, and what it prints to stdout and stderr."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet_dist.data.manifest import Options, load, manifest_path
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.pack import packing
from alexnet_dist.pack.__main__ import _parser, main
from support.colours import colour_image, packed_colours
from support.folders import SIZE, write_folder
from support.layouts import tar_of

SMALL = ["--size", str(SIZE), "--processes", "1"]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "alexnet_dist.pack", *map(str, arguments)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_exit_codes_and_output(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a": 3, "b": 2})
    completed = command(source, tmp_path / "out", *SMALL)
    assert completed.returncode == 0, completed.stderr
    printed = json.loads(completed.stdout.splitlines()[-1])
    keys = {"images", "rejected", "shards", "seconds", "images_per_second", "seen", "not_samples", "missing"}
    assert printed.keys() == keys
    assert (printed["seen"], printed["not_samples"], printed["missing"]) == (5, 0, [])
    assert (printed["images"], printed["rejected"], printed["shards"]) == (5, 0, 1)
    assert "5 images of 2 classes" in completed.stderr
    (source / "empty").mkdir()
    failed = command(source, tmp_path / "other", *SMALL)
    assert failed.returncode == 2
    assert failed.stdout == ""
    assert failed.stderr.startswith("error: ")
    assert "empty: an empty class folder" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom alexnet_dist.pack.__main__ import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "sys.exit('torch' in sys.modules or 'webdataset' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_every_option_has_a_default_and_an_example() -> None:
    helps = {action.dest: action.help or "" for action in _parser()._actions if action.dest != "help"}
    assert len(helps) == 19
    for name, text in helps.items():
        assert "for example" in text, name
        assert "(default: " in text or name in ("source", "out"), name
        assert len(text.split()) > 8, name


def test_the_summary_adds_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", {"a": 2, "b": 1})
    lines = ["# images", "a/000.jpg a", "a/001.jpg a", "b/000.jpg b", "a/gone.jpg a", ""]
    (source / "list.txt").write_text("\n".join(lines))
    packing = [str(source / "list.txt"), str(tmp_path / "out"), *SMALL]
    for arguments in (packing, packing, [str(tmp_path / "out"), "--verify"]):
        main(arguments)
        printed = capsys.readouterr()
        sums = "seen 5 = 3 packed + 1 rejected + 1 not samples (1 blank lines and comments)"
        assert sums in printed.err
        numbers = json.loads(printed.out.splitlines()[-1])
        assert (numbers["seen"], numbers["images"], numbers["rejected"], numbers["not_samples"]) == (5, 3, 1, 1)
        assert numbers["missing"] == []


def test_the_other_side_of_a_holdout_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", {"a": 4})
    for split, images in (("train", 3), ("val", 1)):
        main([str(source), str(tmp_path / "out"), *SMALL, "--holdout", "0.25", "--split", split])
        other = "val" if split == "train" else "train"
        rule = f"({4 - images} images of the {other} side of the holdout)"
        assert f"seen 4 = {images} packed + 0 rejected + {4 - images} not samples {rule}" in capsys.readouterr().err


def test_fields_of_shards_are_options(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    members = [(f"{number}.{field}", data) for number in range(2) for field, data in (
        ("input.jpg", colour_image(number)), ("mask.jpg", colour_image(5)), ("meta.json", b'{"name": "c%d"}' % number)
    )]  # fmt: skip
    (tmp_path / "source" / "train-0.tar").write_bytes(tar_of(members))
    fields = ["--image-field", "input.jpg", "--label-field", "meta.json:name"]
    main([str(tmp_path / "source"), str(tmp_path / "out"), *SMALL, *fields])
    assert packed_colours(tmp_path / "out", "train") == [("c0", 0), ("c1", 1)]


def test_packed_already_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", {"a": 2})
    (source / "a" / "notes.txt").write_text("text")
    arguments = [str(source), str(tmp_path / "out"), *SMALL]
    main(arguments)
    first = capsys.readouterr()
    assert "REJECTED 1 file;" in first.err
    assert "a/notes.txt: not a JPEG or PNG" in first.err
    main(arguments)
    second = capsys.readouterr()
    assert "already packed" in second.err
    assert json.loads(second.out)["images"] == json.loads(first.out)["images"] == 2
    assert json.loads(second.out)["images_per_second"] == 0


def test_options_may_stand_between_source_and_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(write_folder(tmp_path / "source", {"a": 2})), str(tmp_path / "out")
    for arguments in ([source, *SMALL, out], [*SMALL, source, out], [source, out, *SMALL], ["--verify", out]):
        main(arguments)
        assert json.loads(capsys.readouterr().out)["images"] == 2


def test_the_folder_that_is_read_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "source" / "train", {"a": 2})
    write_folder(tmp_path / "source" / "test", {"a": 1}, seed=1)
    main([str(tmp_path / "source"), str(tmp_path / "out"), *SMALL, "--split", "val"])
    assert f"val is read from {tmp_path}/source/test\n" in capsys.readouterr().err
    main([str(tmp_path / "source" / "train"), str(tmp_path / "out"), *SMALL])
    assert "is read from" not in capsys.readouterr().err


def test_the_options_are_those_of_the_manifest(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a": 4})
    options = "--processes 1 --seed 3 --size 12 --quality 40 --chroma 444 --filter bilinear --samples-per-shard 2"
    main([str(source), str(tmp_path / "out"), *options.split(), "--holdout", "0.5"])
    assert load(manifest_path(tmp_path / "out", "train")).options == Options(
        seed=3, size=12, quality=40, chroma="444", filter="bilinear", samples_per_shard=2, holdout=0.5
    )


def test_more_rejects_than_allowed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", {"a": 2})
    for number in range(7):
        (source / "a" / f"{number}.txt").write_text("text")
    with pytest.raises(UserError, match=r"(?s)7 files rejected, and --max-rejected is 6.*txt: not a JPEG.*2 more"):
        main([str(source), str(tmp_path / "out"), *SMALL, "--max-rejected", "6"])
    main([str(source), str(tmp_path / "out"), *SMALL, "--max-rejected", "7"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--size", "7"],
        ["--size", "x"],
        ["--holdout", "1"],
        ["--holdout", "0"],
        ["--quality", "101"],
        ["--processes", "0"],
        ["--split", "dev"],
        ["--layout", "tar"],
        ["--unknown"],
    ],
)
def test_wrong_arguments_exit_with_2(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), str(tmp_path / "out"), *arguments])
    assert end.value.code == 2


def test_a_folder_that_cannot_be_written_is_a_user_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_folder(tmp_path / "source", {"a": 2})
    (tmp_path / "file").write_text("")
    assert run_command(main, [str(source), str(tmp_path / "file" / "out"), *SMALL]) == 2
    assert "file/out: Not a directory" in capsys.readouterr().err

    def full(_job: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "write_shard", full)
    assert run_command(main, [str(source), str(tmp_path / "out"), *SMALL]) == 2
    assert "out: No space left on device" in capsys.readouterr().err
