from pathlib import Path

import pytest

from offramp.cli.completion import declared
from offramp.cli.output import CommandError
from offramp.cli.target import load_app, module_of, split_target

pytestmark = pytest.mark.usefixtures("own_imports")
APP = "from offramp import App\napp = App('shop')\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def complaint(target: str) -> str:
    with pytest.raises(CommandError) as caught:
        load_app(target)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "parts"),
    [
        ("desk.app:app", ("desk.app", "app")),
        ("desk/app.py:shop.inner", ("desk/app.py", "shop.inner")),
        ("desk.app", ("desk.app", "app")),
        (r"C:\desk\app.py", (r"C:\desk\app.py", "app")),
    ],
)
def test_a_target_is_a_module_and_an_attribute(target, parts):
    assert split_target(target) == parts


def test_a_colon_at_the_end_is_completed():
    with pytest.raises(CommandError, match=r"desk\.py:app"):
        split_target("desk.py:")


@pytest.mark.parametrize("target", ["t_shop.py", "./t_shop.py:app", "t_shop", "t_shop:app"])
def test_an_app_is_found_by_file_and_by_module(folder, target):
    (folder / "t_shop.py").write_text(APP)
    assert load_app(target).name == "shop"


def test_a_file_in_a_package_is_imported_under_its_full_name(folder):
    package = folder / "src" / "t_outer" / "t_inner"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("NAME = 'shop'\n")
    (package / "main.py").write_text("from offramp import App\nfrom . import NAME\napp = App(NAME)\nwhere = __name__\n")
    assert module_of(package / "main.py") == (folder / "src", "t_outer.t_inner.main")
    assert load_app("src/t_outer/t_inner/main.py").name == "shop"


def test_a_missing_file_names_the_near_one(folder):
    (folder / "t_shop.py").write_text(APP)
    assert "did you mean t_shop.py?" in complaint("t_shpo.py:app")
    assert "does not exist" in complaint("nowhere/t_shop.py")


def test_a_folder_is_no_module(folder):
    (folder / "t_pkg").mkdir()
    assert "is a folder" in complaint("./t_pkg:app")


def test_a_missing_module_says_what_to_give(folder):
    (folder / "t_shop.py").write_text(APP)
    assert "did you mean t_shop:app?" in complaint("t_shpo:app")
    assert "give a path" in complaint("t_nothing_like_it.sub:app")


def test_a_missing_attribute_names_the_app(folder):
    (folder / "t_shop.py").write_text(APP.replace("app =", "store ="))
    assert complaint("t_shop.py") == "t_shop.py has no 'app'; its App is 'store'"


def test_what_is_not_an_app_says_what_it_is(folder):
    (folder / "t_shop.py").write_text("app = 3\n")
    assert complaint("t_shop.py").startswith("t_shop.py:app is a int, not an offramp.App")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1\nraise ValueError('no\\nway')\n", "ValueError: no way (t_bad.py:2)"),
        ("import t_not_there\n", "ModuleNotFoundError: No module named 't_not_there' (t_bad.py:1)"),
        ("x = (\n", "(t_bad.py:1)"),
        ("raise SystemExit(1)\n", "exit(1)"),
    ],
)
def test_an_import_error_is_told_with_its_place(folder, source, expected):
    (folder / "t_bad.py").write_text(source)
    with pytest.raises(CommandError) as caught:
        load_app("t_bad.py")
    message = " ".join(str(caught.value).split())
    assert message.startswith("cannot import t_bad.py: ")
    assert expected in message


def test_a_wrong_declaration_is_shown_as_it_is(folder):
    (folder / "t_wrong.py").write_text(f"{APP}@app.pipeline\ndef p(x: int) -> int: ...\n")
    assert (
        complaint("t_wrong.py") == "pipeline 'p': declare it with 'async def'; steps are awaited in it (t_wrong.py:3)"
    )


def test_a_file_with_the_name_of_another_module_is_refused(folder):
    (folder / "json.py").write_text(APP)
    assert "rename the file" in complaint("json.py")


def test_completion_reads_names_without_running_anything(folder):
    file = folder / "t_shop.py"
    file.write_text(
        "raise RuntimeError\nshop = offramp.App('shop')\n@shop.pipeline\nasync def a(): ...\n"
        "@shop.pipeline(name='other')\nasync def b(): ...\n@shop.step\nasync def c(): ...\n"
    )
    assert declared(file) == (["shop"], ["a", "other"])
    assert declared(folder / "none.py") == ([], [])
