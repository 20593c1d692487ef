"""Phrases and names that must not come back are listed, and the repository's clean folders have none."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.check_prose import NAMES, PHRASES, ROOT, complaints


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_planted_phrase_is_listed_with_the_better_form(phrase):
    planted = phrase.replace("…", "the class")
    (line,) = complaints("docs/page.md", f"A page.\n\nThen {planted} follows.\n")
    assert line == f"docs/page.md:3: {phrase!r}: {PHRASES[phrase]}"


def test_a_phrase_is_listed_at_any_case_and_over_the_end_of_a_line():
    assert len(list(complaints("page.md", "Goes on\nhere."))) == 1
    assert len(list(complaints("deploy/a.yaml", "# The run goes on\n    # here."))) == 1
    assert list(complaints("page.md", "The run goes on. Here it ends, and be items what they may.")) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "code",
    ["def {}(): ...", "def run({}): ...", "self._{} = 1", "run(lambda *, {}: 1)", "class Held:\n    {}: int"],
)
def test_a_planted_name_is_listed(name, code):
    (line,) = complaints("src/module.py", code.format(name))
    assert NAMES[name] in line


def test_words_in_a_sentence_and_local_variables_are_left_alone():
    code = "def run():\n    '''A key that was found is kept.'''\n    found: int = 1\n    kept = found\n"
    assert list(complaints("src/module.py", code)) == []


def test_the_repository_has_none():
    command = [sys.executable, "tools/check_prose.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "prose: fine\n")
