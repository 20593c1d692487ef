"""The page on installing: its commands work, and nothing names a package of an index that is not ours."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from offramp.cli import check_host
from offramp.cli.init import TEMPLATES
from offramp.ports.extras import install, packages_by_extra
from tests.cli.commands import typed
from tests.docs.pages import PAGES, ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "install.md"
# What is declared is installed here, so nothing is fetched, and nothing here is replaced.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def test_the_commands_of_the_page_install_what_is_here(tmp_path):
    (tmp_path / "offramp").symlink_to(ROOT)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    variables = {"URL": f"file://localhost{ROOT}", "COMMIT": revision.stdout.strip()}
    commands = [line[2:] for block in blocks(PAGE, "console") for line in block.code.splitlines()]
    assert len(commands) == 4
    for command in commands:
        dry = command.replace("pip install ", "pip install --dry-run --no-deps --ignore-installed ")
        done = typed(f"{sys.executable} -m {dry}", tmp_path, {**OFFLINE, **variables})
        assert done.returncode == 0, done.stderr
        if "install" in command:
            assert "Would install offramp-" in done.stdout
    (wheel,) = (tmp_path / "dist").iterdir()
    packed = zipfile.ZipFile(wheel).namelist()
    assert {part for each in TEMPLATES.values() for part in each.parts} <= {Path(name).parent.name for name in packed}


def test_the_page_lists_every_extra_for_users():
    listed = re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(listed) == packages_by_extra().keys() - check_host.EXTRAS_OF_DEVELOPERS


def test_no_page_or_message_installs_from_an_index_by_our_name():
    sources = [*PAGES, *(ROOT / "src").rglob("*.py"), *(ROOT / "examples").rglob("*.*"), *(ROOT / "deploy").rglob("*")]
    named = [
        (path.name, found[0])
        for path in sources
        if path.is_file() and path.suffix not in {".pyc", ".png"}
        for found in re.finditer(r"pip install[^`\n]*?[\s'\"]offramp\b(?! @)[^`\n]*", path.read_text(encoding="utf-8"))
    ]
    assert named == []


def test_a_missing_extra_is_installed_by_the_names_of_its_packages(monkeypatch):
    assert install("redis") == "pip install 'redis<9,>=8' (Offramp's extra 'redis')"
    assert install("unknown") == "install Offramp's extra 'unknown'"

    def gone(_name):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", gone)
    assert install("redis") == "install Offramp's extra 'redis'"
