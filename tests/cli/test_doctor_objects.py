"""What `offramp doctor` says about the place for large values."""

from __future__ import annotations

import pytest

from offramp.cli.check_objects import check_objects
from offramp.settings import Settings
from tests import s3
from tests.cli.harness import offramp

SOURCE = """
from offramp import App

app = App("a")


@app.pipeline
async def p() -> str:
    return "x" * 300_000
"""
TEMPORAL = "temporal://127.0.0.1:1/none"


def findings(objects, **settings):
    return [(finding.level, finding.says) for finding in check_objects(Settings(objects=objects, **settings))]


def test_without_one_there_is_nothing_to_say_but_of_temporal():
    assert findings("") == []
    [(level, says)] = findings("", engine=TEMPORAL)
    assert level == "note"
    assert "256 KiB" in says


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    path = tmp_path / "objects"
    assert findings(str(path)) == [("ok", f"{path}: an object was written, read and removed")]
    assert list(path.iterdir()) == []


def test_a_folder_is_a_risk_where_workers_may_be_elsewhere(tmp_path):
    assert [level for level, _ in findings(str(tmp_path), engine=TEMPORAL)] == ["ok", "risk"]


def test_a_place_that_does_not_work_is_broken(tmp_path):
    (tmp_path / "file").touch()
    [(level, says)] = findings(str(tmp_path / "file"))
    assert level == "broken"
    assert "cannot be written" in says
    [(level, says)] = findings("s3://bucket?regoin=x")
    assert (level, says) == ("broken", "objects s3://bucket: no option 'regoin'; did you mean 'region'?")


@pytest.mark.skipif(s3.missing() is not None, reason=str(s3.missing()))
def test_a_bucket_is_tried_with_the_credentials_there_are(monkeypatch):
    url = s3.server().url("doctor")
    assert findings(url) == [("ok", "s3://offramp-tests/doctor: an object was written, read and removed")]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    [(level, says)] = findings(url)
    assert level == "broken"
    assert "access is denied" in says
    assert "check AWS_ACCESS_KEY_ID" in says


def test_the_command_takes_the_option(tmp_path):
    (tmp_path / "app.py").write_text(
        "from offramp import App\napp = App('a')\n@app.pipeline\nasync def p() -> int:\n    return 1\n"
    )
    done = offramp("doctor", "app.py", "--objects", str(tmp_path / "objects"), cwd=tmp_path)
    assert f"ok     objects: {tmp_path / 'objects'}: an object was written" in " ".join(done.stdout.split("\n")), (
        done.stdout
    )


def test_one_run_keeps_large_values_where_it_keeps_its_data(tmp_path):
    (tmp_path / "app.py").write_text(SOURCE)
    for data in ([], ["--data", "kept"]):
        done = offramp("run", "app.py", "p", "--objects", str(tmp_path / "objects"), *data, cwd=tmp_path)
        assert done.stdout == '"' + "x" * 300_000 + '"\n', done.stderr
        runs = [path.name for path in (tmp_path / "objects").glob("run_*")]
        assert bool(runs) is bool(data), "what is removed with its folder leaves no objects behind"
