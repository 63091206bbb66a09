"""Classification of single images: turned as viewers show them, and no bad file hides the predictions of others."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet_dist.data.transform import training_image
from alexnet_dist.errors import UserError, run_command
from alexnet_dist.predict import __main__ as command
from alexnet_dist.runs.inference import view_probabilities
from alexnet_dist.runs.load import LoadedRun, load_run
from alexnet_dist.runs.pictures import Picture, find_pictures
from alexnet_dist.runs.prediction import Failure, Prediction, class_names, predictions, square_pixels
from support.folders import encoded, photo
from support.remote_server import HttpServer
from support.runs import write_run

Make = Callable[[Path], object]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("home"))[0]


@pytest.fixture(scope="module")
def run(directory: Path) -> LoadedRun:
    return load_run(directory)


def results(run: LoadedRun, paths: Sequence[Path], views: int = 1) -> list[Prediction | Failure]:
    pictures = [Picture(str(path)) for path in paths]
    return list(predictions(run, pictures, views, torch.device("cpu"), class_names(run.manifest)))


def predict(run: LoadedRun, path: Path, views: int = 1) -> Prediction:
    (result,) = results(run, [path], views)
    assert isinstance(result, Prediction)
    return result


def image_file(folder: Path, name: str, kind: str = "JPEG", **options: object) -> Path:
    (folder / name).write_bytes(encoded(photo(3, 30, 40), kind, **options))
    return folder / name


@pytest.mark.parametrize("views", [1, 10])
def test_a_prediction_has_the_probabilities_of_the_training_image(run: LoadedRun, tmp_path: Path, views: int) -> None:
    path = image_file(tmp_path, "a.jpg")
    pixels = training_image(path.read_bytes(), run.manifest.options)[1]
    expected = view_probabilities(run, torch.from_numpy(pixels)[None], views, torch.device("cpu"))[0]
    prediction = predict(run, path, views)
    assert prediction.image == str(path)
    assert [guess.probability for guess in prediction.classes] == sorted(expected.tolist(), reverse=True)[:5]
    assert [guess.name for guess in prediction.classes] == [f"class-{guess.index}" for guess in prediction.classes]
    assert expected[prediction.classes[0].index] == prediction.classes[0].probability


def test_a_picture_is_turned_before_it_is_classified(run: LoadedRun, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = Image.fromarray(photo(3, 30, 40)).transpose(Image.Transpose.ROTATE_270)
    (tmp_path / "upright.png").write_bytes(encoded(upright, "PNG"))
    tagged, plain = image_file(tmp_path, "tagged.png", "PNG", exif=exif), image_file(tmp_path, "plain.png", "PNG")
    turned, expected, other = (predict(run, path).classes for path in (tagged, tmp_path / "upright.png", plain))
    assert turned == expected
    assert turned != other


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_formats_that_pack_rejects_are_classified(run: LoadedRun, tmp_path: Path, kind: str) -> None:
    assert predict(run, image_file(tmp_path, "a.jpg", kind)).classes


def write_huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


BAD: dict[str, tuple[Make, str]] = {
    "missing": (lambda _: None, "No such file or directory; expected an image file such as"),
    "empty": (Path.touch, "empty file; expected an image file"),
    "text": (lambda path: path.write_text("not an image"), "not a whole image in a format that Pillow reads; expected"),
    "damaged": (lambda path: path.write_bytes(encoded(photo(1))[:400]), "damaged or truncated JPEG; expected"),
    "fifo": (os.mkfifo, "not a regular file; save the image to a file first"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "not a regular file; save the image to a file first"),
    "huge": (write_huge, "more than 536,870,912 bytes; expected one image"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_image_is_refused_by_name(run: LoadedRun, tmp_path: Path, name: str) -> None:
    make, message = BAD[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=f"^{tmp_path / name}: {message}"):
        square_pixels(run, tmp_path / name)
    (result,) = results(run, [tmp_path / name])
    assert isinstance(result, Failure)
    assert result.error.startswith(f"{tmp_path / name}: ")


def test_bad_images_do_not_hide_the_predictions_of_the_others(
    directory: Path, run: LoadedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        image_file(tmp_path, "a.jpg"),
        tmp_path / "missing.jpg",
        image_file(tmp_path, "b.webp", "WEBP"),
        tmp_path / "text.jpg",
    ]
    paths[3].write_text("not an image")
    words = [str(directory), *map(str, paths)]
    assert run_command(command.main, words) == 2
    printed = capsys.readouterr()
    assert [line for line in printed.out.splitlines() if not line.startswith("  ")] == [str(paths[0]), str(paths[2])]
    step, first, *errors = printed.err.splitlines()
    assert step == f"{directory}: step 3"
    assert first == "error: 2 of 4 images were not classified:"
    assert [error.split(": ")[0] for error in errors] == [str(paths[1]), str(paths[3])]
    assert run_command(command.main, [*words, "--json"]) == 2
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert [result["image"] for result in results] == list(map(str, paths))
    assert [sorted(result) for result in results] == [["classes", "image"], ["error", "image"]] * 2
    # A net computes a batch in another order than an image: the last digits differ.
    alone = predict(run, paths[0]).classes[0]
    assert results[0]["classes"][0]["probability"] == pytest.approx(alone.probability, rel=1e-5)
    assert results[1]["error"] == errors[0]


def test_one_bad_image_is_named_alone(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(command.main, [str(directory), str(tmp_path / "missing.jpg")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{directory}: step 3\nerror: {tmp_path / 'missing.jpg'}: No such file")
    assert run_command(command.main, [str(directory), str(image_file(tmp_path, "a.jpg"))]) == 0


def test_a_fifo_does_not_keep_the_command_waiting(directory: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    good = image_file(tmp_path, "a.jpg")
    line = [sys.executable, "-m", "alexnet_dist.predict", str(directory), str(tmp_path / "fifo"), str(good)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2
    assert result.stdout.startswith(f"{good}\n")
    assert "1 of 2 images were not classified" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_batch_has_the_predictions_of_its_images_alone(run: LoadedRun, tmp_path: Path) -> None:
    paths = [image_file(tmp_path, f"{number}.png", "PNG") for number in range(3)]
    paths[1].write_bytes(encoded(photo(9, 20, 50), "PNG"))
    paths.insert(1, tmp_path / "missing.png")
    found = results(run, paths)
    assert [type(result) for result in found] == [Prediction, Failure, Prediction, Prediction]
    for path, result in zip(paths, found, strict=True):
        if isinstance(result, Prediction):
            alone = predict(run, path)
            assert [guess.index for guess in result.classes] == [guess.index for guess in alone.classes]
            assert [guess.probability for guess in result.classes] == pytest.approx(
                [guess.probability for guess in alone.classes], rel=1e-5
            )


def test_a_folder_stands_for_its_images(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a.png", "b/1.JPEG", "notes.txt", ".hidden/3.jpg", "b/.4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    pictures, note = find_pictures([str(tmp_path), "missing.jpg", "https://host/a.jpg?size=1", "-"])
    assert [picture.name for picture in pictures] == [
        *(str(tmp_path / name) for name in ("a.png", "b/1.JPEG", "b/2.jpg")), "missing.jpg", "https://host/a.jpg?size=1",
        "-",
    ]  # fmt: skip
    assert note.startswith("left out of folders: 4 files (links to folders, hidden, or with names that do not end as")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none: a folder without images; expected files such as"):
        find_pictures([str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"-: the standard input is named twice"):
        find_pictures(["-", "-"])


def test_a_url_that_is_none_does_not_hide_the_others(run: LoadedRun, tmp_path: Path) -> None:
    pictures, _ = find_pictures(["pipe:cat", "http://host:99999/a.jpg", str(image_file(tmp_path, "a.jpg"))])
    *failures, found = predictions(run, pictures, 1, torch.device("cpu"), class_names(run.manifest))
    assert isinstance(found, Prediction)
    assert all(isinstance(failure, Failure) for failure in failures)
    reasons = ["scheme 'pipe' is not supported; expected a file, or a URL", "not a valid URL; expected SCHEME://HOST"]
    assert all(reason in str(failure) for reason, failure in zip(reasons, failures, strict=True))


def test_a_path_is_always_that_of_a_file(run: LoadedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    expected = square_pixels(run, image_file(tmp_path, "a:b.jpg").read_bytes())
    assert square_pixels(run, Path("a:b.jpg")).equal(expected)
    assert square_pixels(run, "./a:b.jpg").equal(expected)
    pictures, _ = find_pictures(["."])
    assert [square_pixels(run, picture).equal(expected) for picture in pictures] == [True]
    with pytest.raises(UserError, match="-: No such file or directory"):
        square_pixels(run, "-")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "HSV", "PA", "RGBX"])
def test_pictures_of_any_mode_are_taken(mode: str, run: LoadedRun) -> None:
    image = Image.fromarray(photo(3, 30, 40))
    if mode in ("LAB", "I;16", "PA"):
        image = Image.new(mode, (40, 30))
    assert square_pixels(run, image.convert(mode)).shape == square_pixels(run, photo(3, 30, 40)).shape


def test_numbers_without_a_known_range_are_refused(run: LoadedRun) -> None:
    with pytest.raises(UserError, match="image: floating-point pixels, whose range is unknown; expected"):
        square_pixels(run, Image.fromarray(np.zeros((30, 40), np.float32)))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((30, 40, 3)), r"float64 \(30, 40, 3\)"),
        (np.zeros((3, 30, 40, 3), np.uint8), r"uint8 \(3, 30, 40, 3\)"),
        (np.zeros((30, 40), np.uint8), r"uint8 \(30, 40\)"),
        (torch.zeros(30, 40, 3), "Tensor"),
        (["a.jpg"], "list"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, found: str, run: LoadedRun) -> None:
    with pytest.raises(UserError, match=f"image: found {found}; expected one PIL image, or one array of uint8"):
        square_pixels(run, image)


def test_an_image_from_the_standard_input_and_from_a_server(
    directory: Path, tmp_path: Path, http_server: HttpServer
) -> None:
    path = image_file(tmp_path, "a.jpg")
    names = [str(path), http_server.url(path), "-", http_server.url(tmp_path / "missing.jpg")]
    line = [sys.executable, "-m", "alexnet_dist.predict", str(directory), *names, "--csv"]
    done = subprocess.run(line, input=path.read_bytes(), capture_output=True, timeout=120, check=False)
    assert done.returncode == 2
    rows = list(csv.DictReader(done.stdout.decode().splitlines()))
    by_name = {name: [row for row in rows if row["image"] == name] for name in names}
    assert [[row["index"] for row in by_name[name]] for name in names[:3]] == [
        [row["index"] for row in by_name["-"]]
    ] * 3
    found = [[float(row["probability"]) for row in by_name[name]] for name in names[:3]]
    assert len(found[0]) == 5
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[1] == pytest.approx(found[2], rel=1e-5)
    (missing,) = by_name[names[3]]
    assert "404" in missing["error"]
    assert "packed set" not in missing["error"]
    assert b"1 of 4 images were not classified" in done.stderr


def test_words_are_shown_for_classes(directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, image = tmp_path / "words.txt", image_file(tmp_path, "a.jpg")
    words.write_text("".join(f"class-{label} word {label}, other\n" for label in range(6)))
    command.main([str(directory), str(image), f"--words={words}", "--csv"])
    printed = capsys.readouterr()
    assert {row["name"] for row in csv.DictReader(printed.out.splitlines())} <= {
        "class-6", *(f"word {label}, other" for label in range(6))
    }  # fmt: skip
    assert printed.err == f"{directory}: step 3\n{words}: no words for 1 of 7 classes\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("cat.jpg", "--port=8000"), r"--port: expected with --serve alone"),
        ((), r"expected RUN and IMAGEs, or RUN and --serve"),
        (("cat.jpg", "--serve"), r"expected RUN and IMAGEs, or RUN and --serve"),
        (("--serve", "--csv"), r"--serve: expected without --views, --json and --csv"),
        (("--serve", "--views=10"), r"--serve: expected without --views, --json and --csv"),
    ],
)
def test_what_is_to_be_done_is_said_once(words: tuple[str, ...], expected: str, directory: Path) -> None:
    with pytest.raises(UserError, match=expected):
        command.main([str(directory), *words])
