"""Walking a tree, measuring its files, merging what was found, and the report."""

from pathlib import Path

import pytest

from examples.reference_desk import sources
from examples.reference_desk.findings import Findings, Totals, duplicates, measure_batch, merge, most_imported
from examples.reference_desk.measures import FileMeasure, Unparsed, measure_file, measure_source
from examples.reference_desk.report import write_report
from examples.reference_desk.sources import BATCH_BYTES_AIM, BATCHES_MAX, in_batches, source_tree

SOURCE = b'''\
"""A module."""
import os, sys
from json import loads  # a comment
from . import sibling

class Walker:
    def walk(self, here, there):
        """Walk."""
        if here:
            return there
        return None

    def _limp(self): pass

def outer():
    # another comment
    def inner(): pass
    return inner
'''

LONG = "def {name}({argument}):\n" + "".join(f"    {{argument}} = {{argument}} + {n}\n" for n in range(9))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a working directory with a small source tree in it."""
    monkeypatch.chdir(tmp_path)
    files = {
        "code/walk.py": SOURCE,
        "code/deep/one.py": LONG.format(name="one", argument="a").encode(),
        "code/deep/two.py": LONG.format(name="two", argument="b").encode() + b"import os\n",
        "code/broken.py": b"def broken(:\n",
        "code/binary.py": b"\0\xff",
        "code/note.txt": b"not Python",
        "code/.hidden/secret.py": b"pass",
        "code/env/pyvenv.cfg": b"",
        "code/env/lib.py": b"pass",
        "code/__pycache__/old.py": b"pass",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def findings_of(tree: Path) -> list[Findings]:
    """Measure the small tree, a batch for each file."""
    return [measure_batch(str(tree / "code"), [file]) for (files) in source_tree("code").batches for file in files]


def test_a_walk_finds_source_and_nothing_else_in_a_fixed_order(tree: Path) -> None:
    found = source_tree("code")
    assert found.root == str(tree / "code")
    assert found.batches == [["binary.py", "broken.py", "walk.py", "deep/one.py", "deep/two.py"]]
    assert found.files == 5


@pytest.mark.parametrize(
    ("path", "complaint"), [("..", "below"), ("/", "below"), ("code/walk.py", "not one"), ("x", "not one")]
)
@pytest.mark.usefixtures("tree")
def test_a_path_that_is_not_ours_to_read_is_refused(path: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        source_tree(path)


@pytest.mark.usefixtures("tree")
def test_a_tree_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FILES_MAX", 5)
    source_tree("code")
    monkeypatch.setattr(sources, "FILES_MAX", 4)
    with pytest.raises(ValueError, match="more than 4"):
        source_tree("code")


def test_the_standard_library_is_the_default_without_its_tests() -> None:
    found = source_tree(None)
    names = {name for batch in found.batches for name in batch}
    assert "json/decoder.py" in names
    assert not [name for name in names if "test" in name.split("/")]
    assert 20 <= len(found.batches) <= BATCHES_MAX


def test_batches_keep_the_order_and_have_about_one_size() -> None:
    sized = [(f"{n}.py", BATCH_BYTES_AIM // 2) for n in range(5)]
    assert in_batches(sized) == [["0.py", "1.py"], ["2.py", "3.py"], ["4.py"]]
    assert in_batches([]) == []


def test_a_large_tree_has_larger_batches_and_not_more_of_them() -> None:
    sized = [(f"{n}.py", BATCH_BYTES_AIM) for n in range(10 * BATCHES_MAX)]
    batches = in_batches(sized)
    assert len(batches) <= BATCHES_MAX
    assert sum(map(len, batches)) == len(sized)


def test_a_file_is_measured() -> None:
    measured = measure_source("walk.py", SOURCE)
    assert (measured.lines, measured.code_lines, measured.comment_lines) == (18, 14, 2)
    assert measured.imports == ["json", "os", "sys"]
    assert [function.name for function in measured.functions] == [
        "Walker.walk",
        "Walker._limp",
        "outer",
        "outer.<locals>.inner",
    ]
    walk, limp, outer, inner = measured.functions
    assert (walk.line, walk.lines, walk.body_lines, walk.complexity) == (7, 5, 3, 2)
    assert (walk.is_public, walk.has_docstring) == (True, True)
    assert [each.is_public for each in (limp, outer, inner)] == [False, True, False]
    assert walk.place == "walk.py:7 Walker.walk"


def test_an_empty_file_is_measured() -> None:
    measured = measure_source("empty.py", b"")
    assert (measured.lines, measured.functions) == (0, [])


@pytest.mark.parametrize("file", ["broken.py", "binary.py", "missing.py"])
def test_what_cannot_be_parsed_is_a_finding(tree: Path, file: str) -> None:
    measured = measure_file(str(tree / "code"), file)
    assert isinstance(measured, Unparsed)
    assert measured.file == file
    assert "Error" in measured.reason


def test_warnings_of_audited_code_are_not_ours(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "old.py").write_bytes(b"pattern = '\\d'\n")
    assert isinstance(measure_file(str(tmp_path), "old.py"), FileMeasure)
    assert not recwarn.list


def test_batches_merge_into_what_one_batch_would_have_found(tree: Path) -> None:
    files = [file for batch in source_tree("code").batches for file in batch]
    assert merge(findings_of(tree)) == measure_batch(str(tree / "code"), files)


def test_findings_count_and_rank(tree: Path) -> None:
    merged = merge(findings_of(tree))
    assert merged.totals.files == 3
    assert merged.totals.functions == 6
    assert (merged.totals.public_functions, merged.totals.documented_functions) == (4, 1)
    assert [function.name for function in merged.longest[:2]] == ["one", "two"]
    assert merged.most_branching[0].name == "Walker.walk"
    assert [function.name for function in merged.undocumented] == ["one", "two", "outer"]
    assert [each.file for each in merged.unparsed] == ["binary.py", "broken.py"]
    assert most_imported(merged)[0] == ("os", 2)


def test_functions_that_differ_only_in_names_are_duplicates(tree: Path) -> None:
    assert duplicates(merge(findings_of(tree))) == [["deep/one.py:1 one", "deep/two.py:1 two"]]


def test_a_report_tells_all_of_it(tree: Path) -> None:
    report = write_report("code", findings_of(tree))
    assert (report.duplicated_shapes, report.duplicated_functions) == (1, 2)
    for told in [
        "# Audit of code",
        "3 files",
        "6 functions",
        "25% of 4 public",
        "`deep/one.py:1 one`",
        "broken.py",
    ]:
        assert told in report.text


def test_a_report_on_nothing_is_a_report() -> None:
    report = write_report("nowhere", [])
    assert report.totals == Totals()
    assert "0 files" in report.text
