"""Which uses of private names in tests are counted."""

import pytest

from tools import check_private
from tools.check_private import main, uses

SOURCE = """
_KNOWN = 1


class Store:
    def __init__(self, given):
        self.rows = given
        self._rows = given

    def _read(self):
        return self._rows
"""


@pytest.fixture
def root(tmp_path):
    for name, text in {"src/offramp/store.py": SOURCE, "tests/test_store.py": ""}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("store._rows", ["_rows"]),
        ("store._rows.append(store._read())", ["_read", "_rows"]),
        ("from offramp.store import _KNOWN", ["_KNOWN"]),
        ("monkeypatch.setattr(store, '_read', None)", ["_read"]),
        ("monkeypatch.setattr('offramp.store._KNOWN', 2)", ["_KNOWN"]),
        ("store.rows", []),
        ("subject._unknown", []),
        ("point._replace(x=1)", []),
        ("self._rows = []; self._rows.append(1)", []),
        ("def _read(): return other._read", []),
        ("from elsewhere import _KNOWN", []),
        ("store.__dict__", []),
    ],
)
def test_a_private_name_of_the_source_counts_unless_the_test_defines_it(root, line, expected):
    (root / "tests" / "test_store.py").write_text(line)
    assert uses(root) == [f"tests/test_store.py:1: {name}" for name in expected]


def test_planted_bugs_may(root):
    broken = root / "tests" / "conformance" / "broken" / "store.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("store._rows")
    assert uses(root) == []


@pytest.mark.parametrize(("most", "code", "lines"), [(1, 1, 3), (2, 0, 1)])
def test_more_than_the_bound_are_refused_and_listed(root, monkeypatch, capsys, most, code, lines):
    (root / "tests" / "test_store.py").write_text("store._rows\nstore._read")
    monkeypatch.setattr(check_private, "ROOT", root)
    monkeypatch.setattr(check_private, "USES_MAX", most)
    assert main() == code
    assert len(capsys.readouterr().out.splitlines()) == lines
