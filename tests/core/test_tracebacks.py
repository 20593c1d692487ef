from __future__ import annotations

import functools
from pathlib import Path

import msgspec
import pytest

from offramp.core import tracebacks
from offramp.core.failure import Failure, exception_of, failure_of, replayable
from offramp.core.recorded import Frame
from offramp.core.tracebacks import FRAMES_BYTES_MAX, FRAMES_MAX, declared_at, written
from offramp.errors import Divergence, ObjectsUnavailable, StepTimeout

HERE = "tests/core/test_tracebacks.py"
SECRET = "hunter2"


def stored(failure):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(failure), type=Failure)


def helper(word):
    password = SECRET
    return {}[word] if password else None


def deeper(depth):
    return deeper(depth - 1) if depth else helper("x")


def caught(function, *given):
    try:
        function(*given)
    except Exception as error:  # noqa: BLE001 - it is what was asked for
        return error
    raise AssertionError("nothing was raised")


def line_of(function, after=1):
    return function.__code__.co_firstlineno + after


def test_where_is_the_innermost_line_of_the_users_code():
    failure = stored(failure_of(caught(helper, "x"), "search", 2))
    assert failure.public()["where"] == {"file": HERE, "line": line_of(helper, 2), "function": "helper"}
    assert [frame.function for frame in failure.traceback.frames] == ["caught", "helper"]


def test_a_traceback_has_frames_and_no_values_and_no_path_of_the_machine():
    text = written(failure_of(caught(helper, "x")))
    assert text.splitlines() == [
        "Traceback (most recent call last):",
        f'  File "{HERE}", line {line_of(caught, 2)}, in caught',
        f'  File "{HERE}", line {line_of(helper, 2)}, in helper',
        "KeyError: 'x'",
    ]
    assert SECRET not in text
    assert str(Path.cwd()) not in repr(failure_of(caught(helper, "x")))


def chained():
    try:
        helper("inner")
    except KeyError as error:
        raise ValueError("outer") from error


def in_handling():
    try:
        chained()
    except ValueError:
        raise TypeError("third")  # noqa: B904 - the chain that Python makes by itself


def grouped():
    raise ExceptionGroup("several", [caught(in_handling), OSError("no frames")])


def test_causes_contexts_and_members_of_groups_are_in_it():
    text = written(stored(failure_of(caught(grouped))))
    lines = [line.strip(" |") for line in text.splitlines()]
    order = ["KeyError: 'inner'", tracebacks.ABOVE, "ValueError: outer", tracebacks.DURING, "TypeError: third"]
    assert [line for line in lines if line in {*order, "OSError: no frames"}] == [*order, "OSError: no frames"]
    without = written(failure_of(caught(grouped)), messages=False)
    for message in ("several", "inner", "outer", "third", "no frames"):
        assert message not in without
    assert "in helper" in without
    assert "KeyError" in without


def test_a_chain_that_is_hidden_or_replaced_is_not_shown():
    def hidden():
        try:
            helper("x")
        except KeyError:
            raise ValueError("plain") from None

    assert "KeyError" not in written(failure_of(caught(hidden)))


def test_what_was_recorded_is_there_again_behind_the_frames_of_the_body():
    failure = failure_of(caught(helper, "x"), "search", 1)
    again = exception_of(stored(failure))

    def body():
        raise again

    told = failure_of(caught(body))
    assert told.where == failure.where
    assert [frame.function for frame in told.traceback.frames] == ["caught", "body", "caught", "helper"]
    live = caught(helper, "x")
    assert failure_of(caught(lambda: (_ for _ in ()).throw(live))).where.function == "helper"


def test_a_chain_that_was_recorded_is_there_again():
    again = exception_of(stored(failure_of(caught(in_handling))))
    assert written(failure_of(again)) == written(failure_of(caught(in_handling)))


def test_the_first_and_the_last_frames_of_a_deep_recursion_are_kept():
    failure = failure_of(caught(deeper, 800))
    frames = failure.traceback.frames
    assert len(frames) == FRAMES_MAX
    assert failure.traceback.left_out == 803 - FRAMES_MAX
    assert (frames[0].function, frames[-1].function) == ("caught", "helper")
    assert f"  [{803 - FRAMES_MAX} more frames]" in written(failure)


def test_all_frames_of_a_failure_are_bounded_together():
    namespace = {}
    name = "f" * 300
    exec(f"def {name}(n):\n    return {name}(n - 1) if n else {{}}['x']", namespace)
    members = [caught(namespace[name], 60) for _ in range(20)]
    encoded = msgspec.msgpack.encode(failure_of(ExceptionGroup("g", members)))
    plain = msgspec.msgpack.encode(failure_of(ExceptionGroup("g", [KeyError("x") for _ in range(20)])))
    assert FRAMES_BYTES_MAX / 2 < len(encoded) - len(plain) < 2 * FRAMES_BYTES_MAX


def test_a_long_chain_of_contexts_ends():
    def chain(depth):
        try:
            raise ValueError(depth)
        except ValueError:
            if depth:
                chain(depth - 1)
            raise

    msgspec.msgpack.encode(failure_of(caught(chain, 200)))


def failing_in(file, module):
    namespace = {"__name__": module}
    exec(compile("def run(inner=None):\n    return inner() if inner else {}['x']", file, "exec"), namespace)
    return namespace["run"]


@pytest.mark.parametrize(
    ("file", "module", "shown"),
    [
        ("/srv/secret/shop/prices.py", "shop.prices", "shop/prices.py"),
        ("/srv/secret/shop/__init__.py", "shop", "shop/__init__.py"),
        ("/srv/secret/app.py", "__main__", "app.py"),
        ("/srv/secret/app.py", "__mp_main__", "app.py"),
        ("C:\\secret\\shop\\prices.py", "shop.prices", "shop/prices.py"),
        ("/srv/secret/loaded.py", "by.another.name", "loaded.py"),
        ("<stdin>", "__main__", "<stdin>"),
    ],
)
def test_a_file_is_shown_below_the_folder_that_it_is_imported_from(file, module, shown):
    assert failure_of(caught(failing_in(file, module))).where.file == shown


def test_installed_code_counts_as_the_users_only_if_it_was_called_first():
    mine = failing_in("/srv/app.py", "app")
    pipeline = failing_in("/venv/site-packages/shop/app.py", "shop.app")
    library = failing_in("/venv/site-packages/httpx/client.py", "httpx.client")
    assert failure_of(caught(mine, library)).where.file == "app.py"
    error = caught(pipeline, library)
    assert failure_of(error.with_traceback(error.__traceback__.tb_next)).where.file == "shop/app.py"


def test_without_a_frame_of_the_users_the_function_stands_for_it():
    error = StepTimeout("too late")
    failure, given = replayable(error, helper)
    assert given is error
    assert failure.where == Frame(HERE, line_of(helper, 0), "helper", is_user=True)
    assert failure_of(error).where == failure.where
    for without in (Divergence("differs"), ObjectsUnavailable("down")):
        assert failure_of(without, function=helper).where is None
    assert failure_of(ValueError("x"), function=print).where is None
    assert declared_at(print) is None


def test_a_declaration_is_found_behind_decorators_and_partials():
    wrapped = functools.wraps(helper)(lambda *given: [helper(*given)])
    assert declared_at(functools.partial(wrapped, "x")) == declared_at(helper)


def test_a_failure_of_an_earlier_version_has_no_traceback():
    failure = Failure("step-failed", "ValueError: x")
    assert failure.public()["where"] is None
    assert written(failure) == ""
    assert b"traceback" not in msgspec.json.encode(failure)


def test_a_timeout_is_where_the_code_waited():
    error = StepTimeout("too late")
    error.__cause__ = caught(helper, "x")
    assert failure_of(error, function=caught).where.function == "helper"


def test_only_offramps_own_frames_are_shown_if_there_are_no_others():
    error = caught(tracebacks.size_of, None)
    error.__traceback__ = error.__traceback__.tb_next
    assert failure_of(error).traceback.frames[-1].file == "offramp/core/tracebacks.py"
    assert failure_of(error).where is None
