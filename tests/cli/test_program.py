import pytest

from tests.cli.harness import offramp

COMMANDS = ["serve", "worker", "run", "doctor", "submit", "follow", "show", "list", "cancel", "signal"]


def usage(*arguments: str, cwd, **options) -> str:
    """The one line of a usage error."""
    done = offramp(*arguments, cwd=cwd, **options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("offramp: ")
    return lines[0].removeprefix("offramp: ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_examples_and_exit_codes_in_its_help(tmp_path, command):
    done = offramp(command, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert f"offramp {command} " in done.stdout
    assert "Exit codes: 0" in done.stdout


def test_help_tells_each_setting_with_its_default_and_variable(tmp_path):
    message = " ".join(offramp("serve", "--help", cwd=tmp_path).stdout.split())
    for setting, default in {"HOST": "127.0.0.1", "PORT": "8000", "DATA": "(.offramp)", "WORKERS": "1",
                             "ENGINE": "(embedded:)", "DRAIN_TIMEOUT": "(25)"}.items():  # fmt: skip
        assert f"[env var: OFFRAMP_{setting}; default: {default}" in message


def test_no_command_shows_them_all(tmp_path):
    done = offramp(cwd=tmp_path)
    assert done.returncode == 2
    assert all(f"\n  {command} " in done.stderr for command in COMMANDS)


def test_version(tmp_path):
    done = offramp("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("offramp ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serv"], "No such command 'serv'. Did you mean 'serve'? See"),
        (["serve"], "Missing argument 'MODULE:APP'"),
        (["serve", "none.py"], "no file none.py"),
        (["serve", "desk.py", "--port", "http"], "'--port'"),
        (["serve", "desk.py", "--port", "70000"], "'--port'"),
        (["serve", "desk.py", "--engine", "restate://localhost:8080"], "this version has embedded:"),
        (["serve", "desk.py", "--engine", "temporal://localhost:7233/default?queue=a"], "no option 'queue'"),
        (["worker", "desk.py", "--engine", "temporal:localhost"], "expected temporal://host:port/namespace"),
        (["serve", "desk.py", "--store", "postgres://me:secret@db"], "no store 'postgres://…@db'"),
        (["serve", "desk.py", "--store", "redis://me:secret@db?prefx=a"], "did you mean 'prefix'?"),
        (["worker", "desk.py", "--store", "memory:"], "no store 'memory:'"),
        (["serve", "desk.py", "--engine", "embedded:a", "--data", "b"], "leave one out"),
        (["serve", "desk.py", "--host", "0.0.0.0"], "--insecure"),
        (["serve", "desk.py", "--drain-timeout", "-1"], "drain_timeout must be from 0"),
        (["worker", "desk.py", "--engine", "what"], "this version has embedded:"),
        (["run", "desk.py", "explian"], "did you mean 'explain'?"),
        (["run", "desk.py", "explain"], "/input: Object missing required field `question`"),
        (["run", "desk.py", "explain", "--input", "{"], "--input is not JSON"),
        (["run", "desk.py", "explain", "--input", "[1]"], "--input is a list"),
        (["run", "desk.py", "explain", "--input", "@none.json"], "No such file"),
        (["run", "desk.py", "explain", "--input", "-"], "stdin is not JSON"),
        (["run", "desk.py", "explain", "-i", '{"question": "x"}', "--budget", "1e9"], "OFFRAMP_MAX_BUDGET"),
        (["submit", "explain", "--metadata", "team"], "write KEY=VALUE"),
        (["submit", "explain", "--url", "localhost"], "not an address"),
        (["list", "--status", "done"], "--status is one of queued, running"),
        (["follow"], "Missing argument 'RUN'"),
        (["signal", "run_x"], "Missing argument 'NAME'"),
        (["signal", "run_x", "not a name"], "signal name 'not a name': use a letter"),
        (["signal", "run_x", "ok", "--data", "yes"], "--data is not JSON"),
        (["signal", "run_x", "ok", "--data", "@none.json"], "--data @none.json: No such file"),
        (["signal", "run_x", "ok", "--data", "-"], "stdin is not JSON"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_that_says_what_to_change(project, arguments, message):
    assert message in usage(*arguments, cwd=project)


def test_a_taken_port_is_told_before_anything_starts(project):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} on 127.0.0.1 is in use" in usage("serve", "desk.py", "--port", port, cwd=project)
    assert not (project / ".offramp").exists()


def test_keys_that_are_no_keys_are_refused_and_not_shown(project):
    said = usage("serve", "desk.py", cwd=project, env={"OFFRAMP_API_KEYS": "alice:short-one"})
    assert "OFFRAMP_API_KEYS, key 1: its secret has 9 characters" in said
    assert "short-one" not in said
    said = usage("serve", "desk.py", cwd=project, env={"OFFRAMP_API_KEYS_FILE": "nowhere.json"})
    assert "OFFRAMP_API_KEYS_FILE: there is no file 'nowhere.json'" in said


def test_a_setting_from_the_file_is_checked_too(project):
    (project / "offramp.toml").write_text("worker_rums = 3\n")
    assert "did you mean 'worker_runs'?" in usage("serve", "desk.py", cwd=project)


def test_a_traceback_never_shows_local_variables(project):
    (project / "desk.py").write_text("secret = 'hunter2'\nraise RuntimeError('no database')\n")
    assert usage("run", "desk.py", "x", cwd=project) == "cannot import desk.py: RuntimeError: no database (desk.py:2)"


def completed(project, *words: str) -> list[str]:
    env = {"_OFFRAMP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return offramp(cwd=project, env=env).stdout.split()


def test_the_shell_completes_commands_targets_and_pipelines(project):
    assert completed(project, "offramp", "ser") == ["serve"]
    assert completed(project, "offramp", "run", "des") == ["desk.py:app"]
    assert completed(project, "offramp", "run", "desk.py", "ex") == ["explain"]
    assert completed(project, "offramp", "submit", "ex", "--url", "http://127.0.0.1:1") == []
