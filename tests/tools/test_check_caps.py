"""What counts as known from inside, and which bounds are enough."""

import ast

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tools.check_caps import MAJOR, MINOR, bound, complaints, is_capped, taken

TESTED = {"uvicorn": Version("0.54.0"), "websockets": Version("17.4"), "uvloop": Version("0.23.0")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from uvicorn._types import Scope", ("uvicorn._types.Scope", MINOR)),
        ("from uvicorn import _subprocess", ("uvicorn._subprocess", MINOR)),
        ("import uvicorn._types", ("uvicorn._types", MINOR)),
        (
            "from uvicorn.protocols.utils import ClientDisconnected",
            ("uvicorn.protocols.utils.ClientDisconnected", MINOR),
        ),
        ("loop._get_backend_id()", ("uvloop", MINOR)),
        ("self.conn.available_extensions", ("websockets", MINOR)),
        ("import uvicorn\nclass S(uvicorn.Server): ...", ("uvicorn", MAJOR)),
        ("from websockets.server import P\nclass S(P[int]): ...", ("websockets.server.P", MAJOR)),
    ],
)
def test_what_is_taken_is_found(line, expected):
    assert [use[:2] for use in taken(ast.parse(line))] == [expected]


@pytest.mark.parametrize("line", ["import uvicorn", "from uvicorn import Config", "from __future__ import annotations"])
def test_what_is_documented_needs_no_bound(line):
    assert list(taken(ast.parse(line))) == []


@pytest.mark.parametrize(
    ("tested", "fixed", "below"),
    [("0.54.0", MINOR, "0.55"), ("17.4", MAJOR, "18"), ("1.35.0", MINOR, "1.36"), ("17", MINOR, "17.1")],
)
def test_a_bound_is_the_next_version_of_its_kind(tested, fixed, below):
    assert bound(Version(tested), fixed) == Version(below)


@pytest.mark.parametrize(
    ("requirement", "capped"),
    [("a<0.55", True), ("a>=0.3,<0.54.1", True), ("a", False), ("a<1", False), ("a<=0.54", False)],
)
def test_a_bound_has_to_exclude_what_was_not_tested(requirement, capped):
    assert is_capped(Requirement(requirement), Version("0.55")) == capped


def test_an_internal_without_a_bound_is_named_with_its_line(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    (source / "gateway.py").write_text("import os\nfrom uvicorn._types import Scope\n")
    requirements = {"uvicorn": Requirement("uvicorn>=0.35")}
    [complaint] = complaints(source, requirements, TESTED)
    assert complaint.startswith("src/gateway.py:2: uvicorn._types.Scope is an internal of uvicorn")
    assert complaint.endswith("<0.55")
    assert not list(complaints(source, {"uvicorn": Requirement("uvicorn>=0.35,<0.55")}, TESTED))
