"""Parsing of configuration files and key=value arguments, and the messages for those that are rejected."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet_dist.config import keys, load, to_yaml
from support.config_files import problems, write


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Values.


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("optim.learning_rate=1e-2", 0.01),
        ("optim.learning_rate=1E2", 100.0),
        ("optim.learning_rate=.5", 0.5),
        ("optim.learning_rate=2", 2.0),
        ("optim.drop_epochs=[]", ()),
        ("run.steps=null", None),
        ("run.steps=", None),
        ("run.steps=7", 7),
        ("data.flip=false", False),
        ("data.root=no", "no"),
        ("data.root=007", "007"),
        ("data.root=2026-11-24", "2026-11-24"),
        ("data.root='1e-2'", "1e-2"),
        ("data.root=s3://bucket/a=b", "s3://bucket/a=b"),
        ("metrics.port=0", 0),
        ("model.layers.conv1.pool=[2, 2]", (2, 2)),
        ("model.layers.conv1.init_std=he", "he"),
        ("model.norm.k=1", 1.0),
    ],
)
def test_what_a_word_of_the_command_line_gives(argument: str, value: object) -> None:
    result = keys.flat(load([], [argument]).config)[argument.partition("=")[0]]
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("data.global_batch", "many", "an integer of at least 1"),
        ("data.global_batch", "'64'", "an integer of at least 1"),
        ("data.global_batch", "true", "an integer of at least 1"),
        ("data.global_batch", "64.0", "an integer of at least 1"),
        ("data.global_batch", "0", "an integer of at least 1"),
        ("data.global_batch", "null", "an integer of at least 1"),
        ("data.max_bad_fraction", "1.5", "a number of at least 0 and at most 1"),
        ("data.root", "''", "text (not empty; a number in quotes)"),
        ("data.flip", "1", "true or false"),
        ("optim.momentum", "1", "a number of at least 0 and below 1"),
        ("optim.momentum", "'0.9'", "a number of at least 0 and below 1"),
        ("optim.learning_rate", ".inf", "a number above 0"),
        ("optim.learning_rate", ".nan", "a number above 0"),
        ("optim.learning_rate", "1" + "0" * 400, "a number above 0"),
        ("optim.learning_rate", "1" + "0" * 5000, "a number above 0"),
        ("optim.learning_rate", "true", "a number above 0"),
        ("optim.learning_rate", "{a: 1}", "a number above 0"),
        ("optim.drop_epochs", "[1, 0]", "a list of numbers above 0"),
        ("optim.drop_epochs", "3", "a list of numbers above 0"),
        ("optim.drop_factor", "1", "a number above 1"),
        ("optim.rule", "adam", "sgd or lars"),
        ("optim.trust_coefficient", "0", "a number above 0"),
        ("optim.warmup_epochs", "-1", "a number of at least 0"),
        ("optim.reference_batch", "128.0", "an integer of at least 1, or null"),
        ("run.steps", "0", "an integer of at least 1, or null"),
        ("metrics.port", "65536", "an integer of at least 0 and at most 65535, or null"),
        ("train.dtype", "float16", "float32 or bfloat16 or float64"),
        ("model.norm.k", "0", "a number above 0"),
        ("model.norm.size", "5.0", "an integer of at least 1"),
        ("model.layers.conv1.stride", "0", "an integer of at least 1 and at most 4096"),
        ("model.layers.conv1.padding", "1" + "0" * 400, "an integer of at least 0 and at most 4096"),
        ("model.layers.conv1.pool", "[3]", "a list of 2 integers of at least 1 and at most 4096, or null"),
        ("model.layers.conv1.pool", "[3, 0]", "a list of 2 integers of at least 1 and at most 4096, or null"),
        ("model.layers.conv1.norm", "1", "true or false"),
        ("model.layers.conv1.init_std", "xavier", "a number of at least 0, or he"),
        ("model.layers.conv1.dropout", "1", "a number of at least 0 and below 1"),
        ("model.layers.conv1.reads", "none", "own or both"),
    ],
)
def test_a_value_that_does_not_fit(key: str, value: str, expected: str) -> None:
    *parents, name = key.split(".")
    nested = "".join(f"{'  ' * depth}{part}:\n" for depth, part in enumerate(parents))
    path = write(f"{nested}{'  ' * len(parents)}{name}: {value}\n")
    from_file, from_argument = problems([path], [f"{key}={value}"])
    assert from_file.startswith(f"x.yaml:{len(parents) + 1}: {key} = ")
    assert from_argument.startswith(f"command line: {key} = ")
    assert from_file.endswith(f": expected {expected}")
    assert from_argument.endswith(f": expected {expected}")
    assert len(from_argument) < 250


def test_a_number_in_a_file_is_no_text() -> None:
    assert problems([write("data:\n  root: 3\n")], []) == [
        "x.yaml:2: data.root = 3: expected text (not empty; a number in quotes)"
    ]


# Words of the command line are taken whole.

TEXTS = (
    "/x/run # 1", "a: b", "a:", "# 1", "~", "null", "true", "3", "1e-2", "[a", "{a}", "*a", "&a", "!a", "%a", "@a",
    "- a", "? a", "'a' # 'b'", "'", '"a', "it's", 'a "b"', " a", "a ", "a\nb", "C:\\a", "s3://bucket/a=b # c",
)  # fmt: skip


@pytest.mark.parametrize("key", ["data.root", "data.cache", "run.directory", "metrics.address"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_taken_whole(key: str, text: str) -> None:
    loaded = load([], [f"{key}={text}"])
    assert keys.flat(loaded.config)[key] == text
    assert load([write(to_yaml(loaded.config))], []).config == loaded.config  # as a run directory keeps it


def test_the_keys_of_type_text_are_those_above() -> None:
    assert [key for key in keys.KEY_SPECS if keys.is_text(key)] == [
        "data.root", "data.cache", "run.directory", "metrics.address",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "value"),
    [("data.root='it''s'", "it's"), ('data.root="a # b"', "a # b"), ("data.root = a # b ", "a # b")],
)
def test_quotes_around_a_whole_text_and_spaces_around_an_equals_sign_are_not_part_of_it(
    argument: str, value: str
) -> None:
    assert load([], [argument]).config.data.root == value


@pytest.mark.parametrize(
    ("argument", "rest"),
    [
        ("run.seed=1 # 2", "# 2"),
        ("run.steps=# 7", "# 7"),
        ("data.flip=false # why", "# why"),
        ("optim.rule=lars # or sgd", "# or sgd"),
        ("optim.drop_epochs=[1] # 2", "# 2"),
        ("model.layers.conv1={kernel: 3} # 5", "# 5"),
    ],
)
def test_what_yaml_would_drop_from_another_word_is_refused(argument: str, rest: str) -> None:
    (report,) = problems([], [argument])
    key, _, value = argument.partition("=")
    assert report == f"command line: {key} = {value!r}: found {rest!r} after the value; remove it"


# The report.


def test_all_problems_of_all_sources_in_one_report() -> None:
    first = write("optim:\n  momentun: 0.9\ndata:\n  global_batch: many\n", "first.yaml")
    second = write("data:\n  global_batch: 64\n  crop: -1\n", "second.yaml")
    assert problems([first, Path("none.yaml"), second], ["data.workers=-1", "momentum=0.9", "fast"]) == [
        "first.yaml:2: optim.momentun = 0.9: unknown key; did you mean 'optim.momentum'?",
        "first.yaml:4: data.global_batch = 'many': expected an integer of at least 1",
        "none.yaml: expected a YAML file, but it cannot be read: No such file or directory",
        "second.yaml:3: data.crop = -1: expected an integer of at least 1 and at most 4096",
        "command line: data.workers = -1: expected an integer of at least 0, or auto",
        "command line: momentum = 0.9: unknown key; did you mean 'optim.momentum'?",
        "command line: found 'fast', expected key=value, such as data.global_batch=64; use --config FILE for a file",
    ]


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("data.globl_batch", "did you mean 'data.global_batch'?"),
        ("steps", "did you mean 'run.steps'?"),
        ("lr", "did you mean 'optim.learning_rate'?"),
        ("data.batch_size", "did you mean 'data.global_batch'?"),
        ("train.seed", "did you mean 'run.seed'?"),
        ("optimm.momentum", "did you mean 'optim.momentum'?"),
        ("train.learning_rte", "did you mean 'optim.learning_rate'?"),
        ("model.layers.conv1.chanels", "did you mean 'model.layers.conv1.channels'?"),
        ("model.layers.conv9.chanels", "did you mean 'model.layers.conv9.channels'?"),
        ("model.layers.cov4", "did you mean 'model.layers.conv4'?"),
        ("model.norm.sise", "did you mean 'model.norm.size'?"),
        ("topology.zzz", "topology has layout, timeout_s, share_device"),
        ("zzz", "the configuration has data, model, optim, topology, train, run, metrics"),
        ("zzz.zzz", "no known key is similar"),
        ("optim.momentum.zzz", "no known key is similar"),
    ],
)
def test_an_unknown_key(key: str, hint: str) -> None:
    assert problems([], [f"{key}=1"]) == [f"command line: {key} = 1: unknown key; {hint}"]


@pytest.mark.parametrize(
    ("text", "report"),
    [
        ("run:\n  seed: [1\ndata: {}\n", "x.yaml:3: not YAML: expected ',' or ']', but got ':'"),
        ("run:\n\tseed: 1\n", "x.yaml:2: not YAML: found character '\\t' that cannot start any token"),
        ("run: {}\n---\nrun: {}\n", "x.yaml:2: not YAML: but found another document"),
        ("- 1\n- 2\n", "x.yaml:1: found [1, 2], expected a mapping with keys such as data, model, optim"),
        ("text\n", "x.yaml:1: found 'text', expected a mapping with keys such as data, model, optim"),
        ("\nrun: 3\n", "x.yaml:2: run = 3: expected a mapping with keys such as directory, epochs, steps"),
        ("run:\n", "x.yaml:1: run = null: expected a mapping with keys such as directory, epochs, steps"),
        ("run:\n  seed: 1\n  seed: 1\n", "x.yaml:3: run.seed: given twice, first on line 2; keep one of them"),
        ("run:\n  seed: 1\nrun:\n  keep: 1\n", "x.yaml:3: run: given twice, first on line 1; keep one of them"),
        ("run: {seed: 1}\nrun.seed: 2\n", "x.yaml:2: run.seed: given twice, first on line 1; keep one of them"),
        ("? [a]\n: 1\n", "x.yaml:1: found a list or mapping as a key, expected a name"),
        ("run: &a {seed: 1}\n", "x.yaml:1: found a YAML anchor, alias or tag, expected plain values"),
        ("run:\n  seed: !!python/name:os.x\n", "x.yaml:2: found a YAML anchor, alias or tag, expected plain values"),
        ("model: {layers: {conv7: null}}\n", "x.yaml:1: model.layers.conv7 = null: there is no such layer to remove"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_a_configuration(text: str, report: str) -> None:
    assert problems([write(text)], []) == [report]


def test_files_that_are_not_text(tmp_path: Path) -> None:
    path = write("")
    path.write_bytes(b"\xff\xfe\x00")
    nul = write("run: {directory: a\x00b}", "nul.yaml")
    reports = problems([path, tmp_path, nul], [])
    assert reports[0] == "x.yaml: expected a YAML file, but it cannot be read: it is not UTF-8 text"
    assert reports[1] == f"{tmp_path}: expected a YAML file, but it cannot be read: Is a directory"
    assert reports[2].startswith("nul.yaml:1: not YAML: unacceptable character")


@pytest.mark.parametrize("argument", ["", "=", "=3", "configs/paper.yaml"])
def test_a_word_without_key_and_value(argument: str) -> None:
    (report,) = problems([], [argument])
    assert report.startswith(f"command line: found {argument!r}, expected key=value")


def test_a_word_whose_value_is_not_yaml() -> None:
    (report,) = problems([], ["optim.drop_epochs=[1,"])
    assert report.startswith("command line: optim.drop_epochs = '[1,': not YAML: ")
