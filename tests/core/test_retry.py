from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.retry import Retry, delay_s, retry_after_s
from offramp.errors import DeclarationError

NOW = 1_700_000_000.0
seconds = st.floats(0, 1e6)
policies = st.builds(
    Retry,
    attempts=st.integers(1, 100),
    base=seconds,
    factor=st.floats(1, 1e12),
    cap=seconds,
    retry_after_max=seconds,
)
jitters = st.floats(0, 1, exclude_max=True)


@given(policies, st.integers(1, 200), jitters, st.none() | seconds)
def test_a_delay_is_within_its_bounds(policy, attempt, jitter, asked):
    wait = delay_s(policy, attempt, ValueError(), jitter, asked)
    if attempt >= policy.attempts or (asked is not None and asked > policy.retry_after_max):
        assert wait is None
    else:
        assert (asked or 0.0) <= wait <= max(policy.cap, asked or 0.0)


@given(policies, st.integers(1, 99))
def test_jitter_is_full_and_its_ceiling_grows_up_to_the_cap(policy, attempt):
    if attempt + 1 >= policy.attempts:
        return
    assert delay_s(policy, attempt, ValueError(), 0.0, None) == 0.0
    now, after = (delay_s(policy, n, ValueError(), 0.999, None) for n in (attempt, attempt + 1))
    assert now <= after <= policy.cap


def test_delays_double_from_the_base_to_the_cap():
    policy = Retry(attempts=6, base=1.0, factor=2.0, cap=5.0)
    assert [delay_s(policy, n, ValueError(), 0.5, None) for n in range(1, 7)] == [0.5, 1.0, 2.0, 2.5, 2.5, None]


def test_the_longest_wait_a_server_may_ask_for_is_still_waited():
    policy = Retry(retry_after_max=10.0)
    assert delay_s(policy, 1, ValueError(), 0.0, 10.0) == 10.0
    assert delay_s(policy, 1, ValueError(), 0.0, 10.1) is None


def test_only_what_is_worth_it_is_tried_again():
    policy = Retry(on=(OSError,), never=(FileNotFoundError,))
    assert delay_s(policy, 1, ConnectionError(), 0.5, None) is not None
    assert delay_s(policy, 1, FileNotFoundError(), 0.5, None) is None
    assert delay_s(policy, 1, ValueError(), 0.5, None) is None


class Answered(Exception):
    def __init__(self, headers):
        self.response = SimpleNamespace(headers=headers)


class Told(Exception):
    retry_after = 7


def test_retry_after_is_found_where_clients_keep_it():
    httpx = pytest.importorskip("httpx")
    response = httpx.Response(429, headers={"Retry-After": "3"}, request=httpx.Request("GET", "http://x"))
    assert retry_after_s(httpx.HTTPStatusError("", request=response.request, response=response), NOW) == 3.0
    assert retry_after_s(Answered({"retry-after": "4"}), NOW) == 4.0
    assert retry_after_s(Told(), NOW) == 7.0
    assert retry_after_s(Answered(None), NOW) is None
    assert retry_after_s(ValueError(), NOW) is None


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 0},
        {"attempts": 101},
        {"attempts": 2.5},
        {"attempts": "3"},
        {"base": -1},
        {"base": float("nan")},
        {"base": float("inf")},
        {"factor": 0.5},
        {"cap": -0.1},
        {"cap": float("inf")},
        {"retry_after_max": -1},
        {"on": (KeyboardInterrupt,)},
        {"on": [ValueError]},
        {"on": "ValueError"},
        {"never": (ValueError, 3)},
    ],
)
def test_a_policy_that_could_not_work_is_refused_by_name(values):
    with pytest.raises(DeclarationError, match=f"Retry.*{next(iter(values))}"):
        Retry(**values)


def test_one_class_may_stand_without_a_tuple():
    assert delay_s(Retry(on=OSError), 1, ConnectionError(), 0.5, None) is not None


def raised_from(error, cause):
    error.__cause__ = cause
    return error


CONNECTION, MISSING = ConnectionError(), FileNotFoundError()
WORTH_IT = Retry(on=(OSError,), never=(FileNotFoundError,))


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ExceptionGroup("", [CONNECTION, TimeoutError()]), True),
        (ExceptionGroup("", [CONNECTION, ValueError()]), False),
        (ExceptionGroup("", [CONNECTION, MISSING]), False),
        (ExceptionGroup("", [CONNECTION, ExceptionGroup("", [CONNECTION])]), True),
        (ExceptionGroup("", [CONNECTION, ExceptionGroup("", [MISSING])]), False),
        (raised_from(ValueError(), CONNECTION), True),
        (raised_from(ValueError(), raised_from(KeyError(), CONNECTION)), True),
        (raised_from(ValueError(), KeyError()), False),
        (raised_from(ConnectionError(), MISSING), False),
        (raised_from(ConnectionError(), KeyError()), True),
        (ExceptionGroup("", [raised_from(ValueError(), CONNECTION), CONNECTION]), True),
        (ExceptionGroup("", [raised_from(ConnectionError(), MISSING), CONNECTION]), False),
        (raised_from(ValueError(), ExceptionGroup("", [CONNECTION])), True),
        (raised_from(ConnectionError(), BaseExceptionGroup("", [SystemExit(), MISSING])), False),
    ],
)
def test_groups_and_causes_are_looked_into(error, again):
    assert (delay_s(WORTH_IT, 1, error, 0.5, None) is not None) is again


def test_a_group_may_be_named_itself():
    class Busy(ExceptionGroup):
        pass

    assert delay_s(Retry(on=Busy), 1, Busy("", [ValueError()]), 0.5, None) is not None
    assert delay_s(Retry(never=Busy), 1, Busy("", [ValueError()]), 0.5, None) is None
    assert delay_s(Retry(), 1, ExceptionGroup("", [ValueError()]), 0.5, None) is not None


def test_exceptions_that_are_raised_from_one_another_in_a_circle_come_to_an_end():
    error = raised_from(ValueError(), KeyError())
    error.__cause__.__cause__ = error
    assert delay_s(WORTH_IT, 1, error, 0.5, None) is None
    assert retry_after_s(error, NOW) is None


def test_retry_after_is_found_in_groups_and_causes():
    soon, later = Answered({"retry-after": "4"}), Answered({"retry-after": "9"})
    assert retry_after_s(ExceptionGroup("", [soon, ValueError(), later]), NOW) == 9.0
    assert retry_after_s(raised_from(ValueError(), soon), NOW) == 4.0
    assert retry_after_s(raised_from(Told(), soon), NOW) == 7.0
    assert retry_after_s(raised_from(ExceptionGroup("", [ValueError()]), soon), NOW) == 4.0


class Unwilling(Exception):
    @property
    def response(self):
        raise RuntimeError("there is none")


def test_a_property_that_fails_is_no_wait_at_all():
    assert retry_after_s(Unwilling(), NOW) is None
