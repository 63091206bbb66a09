"""Words for classes from a file, in each of its forms, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.data.manifest import Class
from alexnet_dist.errors import UserError
from alexnet_dist.runs.words import named_by

CLASSES = (Class("n01440764"), Class("n01443537", "goldfish, Carassius auratus"), Class("n01484850"))
FORMS = {
    "lines": "n01440764 tench, Tinca tinca\n\nn01484850 great white shark\n",
    "tabs": "n01440764\ttench, Tinca tinca\nn01484850\tgreat white shark\n",
    "a byte order mark": "\ufeffn01440764 tench, Tinca tinca\r\nn01484850 great white shark\r\n",
    "by id": '{"n01440764": "tench, Tinca tinca", "n01484850": "great white shark"}',
    "by index": '{"0": ["n01440764", "tench, Tinca tinca"], "2": ["n01484850", "great white shark"]}',
}


@pytest.mark.parametrize("form", FORMS)
def test_words_in_each_form(form: str, tmp_path: Path) -> None:
    path = tmp_path / "words"
    path.write_bytes(FORMS[form].encode())
    names, missing = named_by(path, CLASSES)
    assert names == ["tench, Tinca tinca", "goldfish, Carassius auratus", "great white shark"]
    assert missing == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"n01440764\n", r"line 1 is 'n01440764'; expected lines of an id and its words"),
        (b"other thing\n", r"has words for none of the 3 classes, such as n01440764"),
        (b"\xff\xfe", r"not UTF-8 text"),
        (b"{", r"not such a JSON object"),
        (b'{"n01440764": 5}', r"not such a JSON object"),
        (b'{"n01440764": []}', r"not such a JSON object"),
        (None, r"No such file or directory"),
    ],
)
def test_other_files_are_refused(content: bytes | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "words"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: {problem}"):
        named_by(path, CLASSES)
