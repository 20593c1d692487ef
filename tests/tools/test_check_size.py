"""Which files and functions are too long, and which are only warned of."""

import pytest

from tools import check_size
from tools.check_size import FILE_LINES_MAX, FILE_LINES_WARNED, FUNCTION_LINES_MAX, complaints, main


@pytest.fixture
def source(tmp_path, monkeypatch):
    folder = tmp_path / "src"
    folder.mkdir()
    monkeypatch.setattr(check_size, "SRC", folder)
    return folder


@pytest.mark.parametrize(
    ("lines", "message", "code"),
    [
        (FILE_LINES_WARNED, "sizes: fine\n", 0),
        (
            FILE_LINES_WARNED + 1,
            "warning: src/a.py: 401 lines, more than 400: does it hold two ideas?\nsizes: fine\n",
            0,
        ),
        (FILE_LINES_MAX, "warning: src/a.py: 600 lines, more than 400: does it hold two ideas?\nsizes: fine\n", 0),
        (FILE_LINES_MAX + 1, "src/a.py: 601 lines, at most 600: split it by idea\n", 1),
    ],
)
def test_a_long_file_is_warned_of_and_a_longer_one_refused(source, capsys, lines, message, code):
    (source / "a.py").write_text("x = 1\n" * lines)
    assert (main(), capsys.readouterr().out) == (code, message)


@pytest.mark.parametrize(("lines", "refused"), [(FUNCTION_LINES_MAX, False), (FUNCTION_LINES_MAX + 1, True)])
def test_a_long_function_is_refused_and_its_docstring_not_counted(source, lines, refused):
    body = '    """Says.\n\n    Much.\n    """\n' + "    x = 1\n" * (lines - 1)
    (source / "a.py").write_text(f"def long():\n{body}")
    expected = [f"src/a.py:1: long() has {lines} lines, at most {FUNCTION_LINES_MAX}"] if refused else []
    assert list(complaints(source / "a.py")) == expected
