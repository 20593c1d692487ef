from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import pathlib
import sys
import types

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.exact import Inexact, Packer
from offramp.core.failure import (
    ARGUMENTS_BYTES_MAX,
    CAUSES_MAX,
    FAILURE_BYTES_MAX,
    MESSAGE_LENGTH_MAX,
    Failure,
    exception_of,
    failure_of,
    live_of,
    replayable,
)
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
        "where": None,
    }


def test_operating_system_errors_keep_their_number():
    again = exception_of(stored(failure_of(OSError(28, "No space left on device"))))
    assert (again.errno, str(again)) == (28, "[Errno 28] No space left on device")


def test_half_a_surrogate_pair_in_a_message_is_no_obstacle():
    failure = failure_of(OSError("cannot read \udcff"), "read", 1)
    assert failure.message == "OSError: cannot read ?"
    msgspec.json.encode(failure.public())


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Parts(enum.Flag):
    HEAD = 1
    TAIL = 2


class Hostile(Exception):
    """Everything that is asked of it fails, but for what Python itself asks."""

    def __getattr__(self, name):
        raise ZeroDivisionError(name)

    def __repr__(self):
        raise ZeroDivisionError

    def __str__(self):
        raise SystemExit(1)


class Slotted(OSError):
    __slots__ = ("reason",)

    def __init__(self, reason):
        super().__init__(2, "gone", "a", None, "b")
        self.reason = reason


class Unusual(ExceptionGroup):
    def __new__(cls, code, errors):
        made = super().__new__(cls, "unusual", tuple(errors))
        made.code = code
        return made

    def __init__(self, code, errors):
        pass


values = st.recursive(
    st.one_of(
        *(st.none(), st.booleans(), st.integers(), st.floats(), st.binary(max_size=20), st.complex_numbers()),
        st.text(alphabet=st.characters(exclude_categories=()), max_size=20),
        *(
            st.dates(),
            st.datetimes(),
            st.datetimes(timezones=st.just(dt.UTC)),
            st.times(),
            st.timedeltas(),
        ),
        *(
            st.decimals(),
            st.fractions(),
            st.uuids(),
            st.sampled_from(Color),
            st.sampled_from([ValueError, dict, Color]),
        ),
        *(st.just(Parts.HEAD | Parts.TAIL), st.just(pathlib.PurePosixPath("/a/b")), st.ip_addresses()),
    ),
    lambda inner: st.one_of(
        *(st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple)),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(), st.dates()), inner, max_size=3),
        st.dictionaries(st.sampled_from(["offramp:tuple", "offramp:", "x"]), inner, max_size=2),
    ),
    max_leaves=8,
)


@given(st.lists(values, max_size=3))
def test_arguments_of_many_types_come_back_as_they_were(arguments):
    error = Refused(*arguments)
    error.seen = arguments
    failure, given_ = replayable(error)
    again = exception_of(stored(failure))
    assert given_ is error
    assert type(again) is Refused
    assert repr(again.args) == repr(error.args)
    assert repr(again.seen) == repr(arguments)
    assert str(again) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(object()),
        ValueError({"a", "b"}),
        ValueError("x" * ARGUMENTS_BYTES_MAX),
        ValueError(type("Local", (), {})),
        type("Made", (LookupError,), {})("x"),
        ExceptionGroup("many", [ValueError(n) for n in range(CAUSES_MAX + 1)]),
        ExceptionGroup("within", [ValueError(object())]),
        UnicodeDecodeError("utf-8", b"\xff" * ARGUMENTS_BYTES_MAX, 0, 1, "too long"),
    ],
    ids=["client", "set", "long", "local", "made", "many", "within", "undecodable"],
)
def test_what_stands_in_is_caught_alike_says_the_same_and_is_given_at_once(error):
    failure, given_ = replayable(error)
    again = exception_of(stored(failure))
    assert given_ is not error
    for made in (given_, again):
        assert type(made).__name__ == type(error).__name__
        assert type(made).__qualname__ == type(error).__qualname__
        assert isinstance(made, type(error).__mro__[0 if type(error).__name__ != "Made" else 1])
        assert str(made) == str(error)[:ARGUMENTS_BYTES_MAX]
        assert failure_of(made) == failure
    assert type(given_) is type(again)
    assert repr(given_.args) == repr(again.args)
    assert live_of(given_) is error


def test_a_class_that_is_not_loaded_here_keeps_its_name_its_words_and_its_ancestors():
    failure = failure_of(Refused("no", 3), "search", 2)
    elsewhere = msgspec.structs.replace(failure, type="far.away:Refused")
    again = exception_of(elsewhere)
    assert (type(again).__module__, type(again).__name__) == ("far.away", "Refused")
    assert isinstance(again, ValueError)
    assert isinstance(again, StepFailed)
    assert (str(again), again.args) == (str(Refused("no", 3)), ("no", 3))
    assert failure_of(again) == elsewhere


class Based(Refused, KeyError):
    pass


def test_what_stands_in_derives_from_all_ancestors_that_are_loaded():
    local = type("Local", (Based, ConnectionError), {"__qualname__": "f.<locals>.Local"})
    failure = failure_of(local("x"))
    again = exception_of(failure)
    assert str(again) == str(local("x"))
    for kind in (StepFailed, Based, Refused, KeyError, ConnectionError):
        assert isinstance(again, kind)
    bases = [base for base in failure.bases if "Based" not in base]
    assert isinstance(exception_of(msgspec.structs.replace(failure, bases=bases)), (Refused, KeyError))


def test_a_module_is_asked_for_no_class_by_its_own_getattr(monkeypatch):
    module = types.ModuleType("eager")
    module.__getattr__ = lambda name: pytest.fail(f"asked for {name}")
    monkeypatch.setitem(sys.modules, "eager", module)
    assert isinstance(exception_of(Failure("step-failed", "Odd: x", type="eager:Odd", args=b'["x"]')), StepFailed)


def test_failures_of_earlier_versions_are_made_as_those_made_them():
    assert str(exception_of(Failure("step-failed", "Odd: no", type="gone:Odd", args=b'["no"]'))) == "Odd: no"
    assert str(exception_of(Failure("step-failed", "ValueError: <x>", type="builtins:ValueError"))) == "ValueError: <x>"
    members = [Failure("step-failed", "KeyError: 'k'", "a", 1, "builtins:KeyError", b'["k"]')]
    group = exception_of(
        Failure("step-failed", "ExceptionGroup: g; KeyError: 'k'", type="builtins:ExceptionGroup", causes=members)
    )
    assert (group.message, repr(group.exceptions)) == ("ExceptionGroup: g; KeyError: 'k'", "(KeyError('k'),)")


def test_a_hostile_class_hides_no_failure():
    failure, given_ = replayable(Hostile("x"))
    assert failure.message == "Hostile: <the exception's own __str__ failed>"
    assert type(given_) is type(exception_of(stored(failure))) is Hostile


def test_members_and_slots_outside_the_dictionary_come_back():
    again = exception_of(stored(failure_of(Slotted("why"))))
    assert (type(again), again.errno, again.filename, again.filename2, again.reason) == (Slotted, 2, "a", "b", "why")
    assert str(again) == str(Slotted("why"))


def test_a_group_whose_class_takes_other_arguments_is_made_again():
    error = Unusual(7, [ValueError(1), KeyError(2)])
    again = exception_of(stored(failure_of(error)))
    assert (type(again), again.code, repr(again.exceptions)) == (Unusual, 7, "(ValueError(1), KeyError(2))")
    assert str(again) == str(error)


def test_the_exception_itself_is_given_where_a_replay_is_given_all_of_it():
    whole, part = Refused("x"), Refused("x")
    part.response = object()
    whole.status = part.status = 503
    assert replayable(whole)[1] is whole
    given_ = replayable(part)[1]
    assert (type(given_), given_.status, hasattr(given_, "response")) == (Refused, 503, False)


def test_a_chain_and_its_cycles_are_followed_so_far():
    first, second = ValueError("first"), KeyError("second")
    first.__cause__, second.__cause__ = second, first
    failure = failure_of(first)
    again = exception_of(stored(failure))
    assert [type(again), type(again.__cause__), type(again.__cause__.__cause__)] == [ValueError, KeyError, ValueError]
    assert len(_encode(failure)) < FAILURE_BYTES_MAX


def test_the_size_of_what_is_within_is_bounded():
    def wide(depth):
        return ExceptionGroup("x" * 500, [wide(depth - 1) if depth else ValueError("y" * 5_000) for _ in range(20)])

    error = wide(2)
    error.add_note("n" * ARGUMENTS_BYTES_MAX)
    error.__cause__ = wide(1)
    assert len(_encode(failure_of(error))) < 3 * FAILURE_BYTES_MAX
    assert str(exception_of(failure_of(error))) == str(error)


def test_an_input_that_cannot_come_back_leaves_a_models_error_what_it_was():
    class Client:
        def __repr__(self):
            return "<a client>"

    class Model(pydantic.BaseModel):
        number: int

    try:
        Model(number=Client())
    except pydantic.ValidationError as error:
        live = error
    again = exception_of(stored(failure_of(live)))
    assert type(again) is pydantic.ValidationError
    assert str(again) == str(live)
    assert repr(again.errors()) == repr(live.errors())


def test_a_large_argument_is_refused_before_it_is_looked_through():
    looked_at = []

    def packed(error):
        looked_at.append(error)
        return {}

    with pytest.raises(Inexact):
        Packer(packed, 100).pack([ValueError()] * 10_000)
    assert len(looked_at) == 99
    assert replayable(Quiet([[1] * 100] * 10_000))[0].stands_in


class Quiet(ValueError):
    def __str__(self):
        return "quiet"


def test_a_set_in_a_models_input_is_shown_as_it_was():
    class Model(pydantic.BaseModel):
        number: int

    try:
        Model(number={"a", "b", "c"})
    except pydantic.ValidationError as error:
        live = error
    failure = failure_of(live)
    assert b"offramp:set" not in failure.args  # which another process may write in another order
    again = exception_of(stored(failure))
    assert type(again) is pydantic.ValidationError
    assert str(again) == str(live)


class Lying(Exception):
    @property
    def __class__(self):
        raise ZeroDivisionError


def test_a_class_that_defeats_its_description_hides_no_failure():
    failure, given_ = replayable(Lying("x"))
    assert failure.message == "Lying: x"
    assert str(given_) == "x"


class Choosing(ValueError):
    def __init__(self, allowed):
        super().__init__()
        self.allowed = allowed

    def __str__(self):
        return f"none of {self.allowed}"


@pytest.mark.parametrize(
    "error",
    [
        ValueError({"a", "b"}),
        ValueError([("x", {"a", "b"})]),
        Choosing({"a", "b"}),
        ValueError("x", KeyError({"a", "b"})),
    ],
    ids=["argument", "within", "attribute", "nested"],
)
def test_what_shows_a_set_shows_it_in_the_recorded_order(error):
    failure, given_ = replayable(error)
    assert failure.stands_in
    assert failure.args is None or isinstance(error, Choosing)
    assert str(given_) == str(error)
    assert isinstance(given_, type(error))


def test_a_set_of_one_has_one_order():
    error = Choosing({"a"})
    assert replayable(error)[1] is error


def test_a_set_that_nothing_shows_is_an_attribute_as_any():
    error = ValueError("x")
    error.allowed = {"a", "b"}
    assert replayable(error)[1] is error
    assert exception_of(failure_of(error)).allowed == {"a", "b"}
