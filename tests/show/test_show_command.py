"""The show command: its output for local and remote sets, and its errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from alexnet_dist.errors import UserError
from alexnet_dist.show.__main__ import main
from support.remote_server import HttpServer

Pack = Callable[..., Path]


def test_the_command_prints_a_summary_and_writes_a_png(
    pack_tiny: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = pack_tiny(), tmp_path / "sheet.png"
    main([str(root), "--out", str(out), "--count", "50"])
    output = capsys.readouterr().out
    for expected in ("20 images of 5 classes", "16 x 16", "red 100.0", "no files", "quality 90", "20 pictures in"):
        assert expected in output
    with Image.open(out) as image:
        assert image.format == "PNG"


def test_a_remote_set_is_shown_by_way_of_the_cache(pack_tiny: Pack, http_server: HttpServer, tmp_path: Path) -> None:
    url, home = http_server.url(pack_tiny()), tmp_path / "home"
    command = [sys.executable, "-m", "alexnet_dist.show", url, "--out", str(tmp_path / "sheet.png")]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"HOME": str(home)})
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"{url}: train, 20 images of 5 classes")
    assert "20 pictures in" in process.stdout
    assert len(list((home / ".cache" / "alexnet_dist").glob("*.tar"))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "17"], r"--crop: 17; expected 1 to 16"),
        (["--count", "0"], r"--count: 0; expected 1 to 1,000"),
        (["--epoch", "-1"], r"--epoch: -1; expected 0 to"),
        (["--split", "val"], r"val\.manifest\.json: no such file"),
        (["--out", "gone/sheet.png"], r"gone/sheet\.png: cannot be written: No such file"),
    ],
)
def test_mistakes_are_reported_plainly(
    pack_tiny: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    root = pack_tiny()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        main([str(root), *options])
    with pytest.raises(UserError, match=r"nowhere/train\.manifest\.json: no such file"):
        main(["nowhere"])


def test_a_damaged_sample_is_named(pack_tiny: Pack) -> None:
    root = pack_tiny(jpegs=[b"no jpeg"] * 20)
    with pytest.raises(UserError, match="pack it again"):
        main([str(root)])
