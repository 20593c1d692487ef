"""A circle of imports fails `make check`: of modules or of folders, wherever in a file the import is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
[CONTRACT] = [
    contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    if contract["id"] == "no-circle"
]
LINTED = "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
WALKED = f"""
import sys
sys.path.append({str(ROOT)!r})
from tools.check_circles import circle
found = circle("house")
print(*found)
sys.exit(bool(found))
"""
PLAIN = "from {} import x\n"
INSIDE = "def f():\n    from {} import x\n"
TYPES = "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from {} import x\n"


@pytest.fixture
def checked(tmp_path):
    """Makes a package of these modules: what the contract and the tool say of it, None where they pass."""

    def check(modules):
        for name, imports in {"house/__init__": "", **modules}.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text("x = 1\n" + imports)
        ancestors = [name.replace("offramp", "house") for name in CONTRACT["ancestors"]]
        (tmp_path / ".importlinter").write_text(
            "[importlinter]\nroot_package = house\n\n[importlinter:contract:no-circle]\n"
            f"name = {CONTRACT['name']}\ntype = {CONTRACT['type']}\nancestors =\n    {' '.join(ancestors)}\n"
        )
        return problems_of(LINTED), problems_of(WALKED)

    def problems_of(code):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert not done.stderr, done.stderr
        return done.stdout if done.returncode else None

    return check


def test_imports_that_all_point_down_pass(checked):
    assert (
        checked({"house/a": PLAIN.format("house.b"), "house/b": PLAIN.format("house.c"), "house/c": ""}) == (None,) * 2
    )


@pytest.mark.parametrize("back", [PLAIN, INSIDE, TYPES])
def test_a_circle_of_modules_fails_wherever_the_import_is(checked, back):
    house = {"house/a": PLAIN.format("house.b"), "house/b": PLAIN.format("house.c"), "house/c": back.format("house.a")}
    linted, circle = checked(house)
    assert "No cycles are allowed in house." in linted
    assert "house.a house.b" in circle
    assert set(circle.split()) == {"house.a", "house.b", "house.c"}


@pytest.mark.parametrize("back", [PLAIN, INSIDE, TYPES])
def test_a_circle_inside_a_folder_fails(checked, back):
    linted, circle = checked({"house/up/a": PLAIN.format("house.up.b"), "house/up/b": back.format("house.up.a")})
    assert "No cycles are allowed in house.up." in linted
    assert "house.up.a house.up.b" in circle


def test_folders_that_need_each_other_fail_though_their_modules_do_not(checked):
    house = {"house/up/a": PLAIN.format("house.down.a"), "house/down/a": "", "house/down/b": PLAIN.format("house.up.a")}
    linted, circle = checked(house)
    assert "No cycles are allowed in house." in linted
    assert circle is None


def test_a_circle_through_a_package_itself_fails(checked):
    _, circle = checked({"house/up/__init__": PLAIN.format("house.up.a"), "house/up/a": PLAIN.format("house.up")})
    assert set(circle.split()) == {"house.up", "house.up.a"}
