"""`offramp serve --reload`: real processes, real changes of files."""

import json
import os
import signal

import httpx
import pytest

from offramp.cli import reload
from tests.cli.conftest import DESK, warm
from tests.cli.harness import offramp, running, wait_until_gone


def saved(file, text):
    """As an editor does it: the file is never half written."""
    draft = file.with_suffix(".draft")
    draft.write_text(text)
    draft.replace(file)


def listening(command):
    command.url = command.wait_for(r"at (http://[\d.:]+),")[1]
    return warm(command)


def test_a_change_is_served_and_a_run_goes_on_in_the_new_version(project):
    gates = json.dumps({"gates": ["first", "second"]})
    with running("serve", "desk.py", "--reload", "--port", "0", "--drain-timeout", "1", cwd=project) as serve:
        before = listening(serve).worker
        url = serve.url
        ask = {"OFFRAMP_URL": url}
        run = offramp("submit", "audit", "-i", gates, "--async", "--id", cwd=project, env=ask).stdout.strip()
        with running("follow", run, cwd=project, env=ask) as follower:
            follower.wait_for("▸ wait_for")
            (project / "first").touch()
            follower.wait_for("✓ wait_for")
            saved(project / "desk.py", DESK.replace('"""Say it twice."""', '"""Say it again."""'))
            serve.wait_for("changed: desk.py")
            after = listening(serve).worker
            assert serve.url == url
            (project / "second").touch()
            code, stdout, _ = follower.end()
        assert (code, json.loads(stdout)) == (0, [before, after])
        assert httpx.get(f"{url}/v1/pipelines/explain").json()["doc"] == "Say it again."

        saved(project / "desk.py", DESK + "\nbroken = (\n")
        serve.wait_for(r"cannot import desk.py: SyntaxError: '\(' was never closed \(desk.py:\d+\)")
        serve.wait_for("this version cannot be served: the version before it is still served")
        assert httpx.get(f"{url}/v1/pipelines/explain").json()["doc"] == "Say it again."

        serve.send(signal.SIGKILL)
        wait_until_gone(after)


def test_a_file_that_is_broken_at_first_is_served_once_it_is_mended(project):
    saved(project / "desk.py", "from offramp import App\n")
    with running("serve", "desk.py", "--reload", "--port", "0", cwd=project) as serve:
        serve.wait_for("desk.py has no 'app'")
        serve.wait_for("this version cannot be served: waiting for a change")
        saved(project / "desk.py", DESK)
        worker = listening(serve).worker
        serve.send(signal.SIGINT)
        code, _, stderr = serve.end()
    assert code == 0, stderr
    wait_until_gone(worker)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.py",), "no file missing.py"),
        (("desk.py", "--host", "0.0.0.0"), "there are no API keys"),
        (("desk.py", "--engine", "nonsense:"), "engine"),
    ],
)
def test_what_no_change_of_a_file_can_mend_ends_it(project, arguments, message):
    done = offramp("serve", *arguments, "--reload", "--port", "0", cwd=project)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_environments_hidden_folders_and_other_files_are_not_watched(tmp_path, monkeypatch):
    for name in ("app.py", "offramp.toml", "lib/tools.py", "notes.txt", ".git/hook.py", "node_modules/x/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "env/lib").mkdir(parents=True)
    (tmp_path / "env/pyvenv.cfg").write_text("")
    (tmp_path / "env/lib/deep.py").write_text("")
    (tmp_path / "gone.py").symlink_to("nowhere")
    found = reload.watched(tmp_path)
    assert sorted(os.path.relpath(name, tmp_path) for name in found) == ["app.py", "lib/tools.py", "offramp.toml"]
    (tmp_path / "app.py").write_text("xy")
    assert reload.watched(tmp_path) != found
    monkeypatch.setattr(reload, "FILES_MAX", 2)
    for number in range(20):
        (tmp_path / f"more{number}.py").touch()
    assert len(reload.watched(tmp_path)) == 2
