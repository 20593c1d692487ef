from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.failure import ARGUMENTS_BYTES_MAX, CAUSES_MAX, MESSAGE_LENGTH_MAX, Failure, exception_of, failure_of
from offramp.errors import RunExpired, StepFailed, StepTimeout

_encode = msgspec.msgpack.encode


def stored(failure):
    return msgspec.msgpack.decode(_encode(failure), type=Failure)


class Refused(ValueError):
    pass


class Demanding(Exception):
    def __new__(cls, one, two):
        return super().__new__(cls, one, two)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    reason: str


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from([ValueError, KeyError, Refused, RuntimeError, LookupError]),
    st.lists(json_values, max_size=3),
)
def test_an_exception_is_raised_again_with_its_class_and_arguments(kind, arguments):
    again = exception_of(stored(failure_of(kind(*arguments), "search", 2)))
    assert type(again) is kind
    assert list(again.args) == arguments
    assert failure_of(again) == failure_of(kind(*arguments), "search", 2)


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=50))
def test_whatever_an_exception_says_can_be_stored_and_shown(text):
    failure = failure_of(ValueError(text), "search", 1)
    assert stored(failure) == failure
    msgspec.json.encode(failure.public())


def test_arguments_that_are_no_json_leave_the_message():
    again = exception_of(stored(failure_of(Refused(object()))))
    assert type(again).__name__ == "Refused"
    assert isinstance(again, Refused)  # as `except Refused` finds it
    assert isinstance(again, StepFailed)
    assert str(again).startswith("<object object")
    assert failure_of(again) == failure_of(again)


@pytest.mark.parametrize("error", [Demanding(1, 2), Unspeakable("x"), Frozen("late")])
def test_awkward_exception_classes_still_make_a_failure_and_an_exception(error):
    failure = stored(failure_of(error, "search", 1))
    assert isinstance(exception_of(failure), Exception)
    assert type(error).__name__ in failure.message


class Busy(Exception):
    def __init__(self, status, headers, request):
        super().__init__(f"{status}")
        self.status, self.headers, self.request = status, headers, request
        self.seen_at = (1, 2)
        self.__secret = "mangled"


def test_attributes_that_are_plain_json_are_there_again():
    error = Busy(503, {"retry-after": ["3", 4.5, None, True]}, request=object())
    error.add_note("of the moment")
    again = exception_of(stored(failure_of(error, "search", 1)))
    assert (type(again), again.args, again.status) == (Busy, ("503",), 503)
    assert again.headers == {"retry-after": ["3", 4.5, None, True]}
    assert not hasattr(again, "request")
    assert again.seen_at == (1, 2)
    assert again.__notes__ == ["of the moment"]


def test_attributes_that_take_too_much_room_are_left_out():
    error = Refused("x")
    error.page = "y" * (ARGUMENTS_BYTES_MAX - len('{"page":""}'))
    assert exception_of(stored(failure_of(error))).page == error.page
    error.page += "y"
    assert not hasattr(exception_of(stored(failure_of(error))), "page")


@given(json_values)
def test_an_attribute_comes_back_as_it_was_or_not_at_all(value):
    error = Refused("x")
    error.value = value
    again = exception_of(stored(failure_of(error)))
    assert not hasattr(again, "value") or again.value == value


def test_journaled_data_imports_no_module():
    failure = Failure("step-failed", "x", type="antigravity:Error", args=b"[]")
    assert type(exception_of(failure)) is StepFailed


@pytest.mark.parametrize("kind", ["builtins:print", "builtins:SystemExit", "os:system", "builtins:nothing"])
def test_only_exception_classes_are_made_of_journaled_data(kind):
    made = exception_of(Failure("step-failed", "x", type=kind, args=b"[]"))
    assert isinstance(made, StepFailed)
    assert str(made) == "x"


def test_a_group_keeps_its_causes_each_with_its_class():
    group = ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [KeyError("k")])])
    failure = stored(failure_of(group))
    assert [cause["message"] for cause in failure.public()["causes"]] == [
        "ValueError: 1",
        "ExceptionGroup: inner (1 sub-exception); KeyError: 'k'",
    ]
    again = exception_of(failure)
    assert isinstance(again, ExceptionGroup)
    assert isinstance(again.exceptions[0], ValueError)
    assert isinstance(again.exceptions[1].exceptions[0], KeyError)


def test_size_is_bounded():
    failure = failure_of(ExceptionGroup("many", [ValueError("x" * 10_000) for _ in range(100)]))
    assert len(failure.causes) == CAUSES_MAX
    assert len(failure.message) <= MESSAGE_LENGTH_MAX
    assert len(_encode(failure)) < 20 * 3 * MESSAGE_LENGTH_MAX


def test_codes_say_where_it_failed_or_what_offramp_said():
    assert failure_of(ValueError()).code == "pipeline-failed"
    assert failure_of(ValueError(), "search", 1).code == "step-failed"
    assert failure_of(RunExpired("late")).code == "deadline"
    assert failure_of(StepTimeout("slow"), "search", 1).code == "step-timeout"


def test_an_exception_keeps_the_step_it_failed_with():
    again = exception_of(failure_of(ValueError("x"), "search", 3))
    assert (failure_of(again, "outer", 1).step, failure_of(again, "outer", 1).attempt) == ("search", 3)


def test_what_is_shown_has_the_documented_fields():
    assert failure_of(ValueError("no"), "search", 2).public() == {
        "code": "step-failed",
        "message": "ValueError: no",
        "step": "search",
        "attempt": 2,
    }


def test_operating_system_errors_keep_their_number():
    again = exception_of(stored(failure_of(OSError(28, "No space left on device"))))
    assert (again.errno, str(again)) == (28, "[Errno 28] No space left on device")


def test_half_a_surrogate_pair_in_a_message_is_no_obstacle():
    failure = failure_of(OSError("cannot read \udcff"), "read", 1)
    assert failure.message == "OSError: cannot read ?"
    msgspec.json.encode(failure.public())
