"""One call without sockets: ids, deadlines, errors; the histogram of reads."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import marketd
from marketd.client.calls import Call, Pause, ask, deadline_after, error_from, pause
from marketd.client.connection import Attempt, allowed, remaining_ms
from marketd.client.histogram import Histogram
from marketd.ipc import protocol, sockets
from marketd.market import errors


def answered(call: Call, message: Any, request_id: int | None = None) -> Any:
    call.packed(time.monotonic() + 5)
    message.id = call.id if request_id is None else request_id
    return call.accept(sockets.pack(message))


def test_an_answer_to_an_older_request_is_thrown_away() -> None:
    call = Call("query", protocol.Health())
    report = protocol.HealthReport(status="ok", report={})
    assert answered(call, report, request_id=1) is None
    assert answered(call, report).message.status == "ok"


def test_ids_are_never_used_twice() -> None:
    calls = [Call("query", protocol.Health()) for _ in range(100)]
    for call in calls:
        call.packed(time.monotonic() + 1)
    assert len({call.id for call in calls}) == 100


def test_a_call_that_is_sent_again_keeps_its_id_and_tells_what_time_is_left() -> None:
    call = Call("query", protocol.Health())
    call.packed(time.monotonic() + 5)
    first, left = call.id, call.message.timeout_ms
    call.packed(time.monotonic() + 1)
    assert call.id == first and call.message.timeout_ms <= 1_000 < left


@pytest.mark.parametrize(
    "error",
    [
        errors.Busy("full"),
        errors.UnknownInstrument("who", field="symbol"),
        errors.PrecisionError("deep"),
        errors.JournalFull(),
        marketd.Unconfirmed("so"),
    ],
)
def test_an_error_of_the_daemon_is_raised_here_as_it_was_there(error: errors.MarketdError) -> None:
    call = Call("query", protocol.Health())
    with pytest.raises(type(error)) as caught:
        answered(call, sockets.failure(error))
    assert str(caught.value) == str(error) and caught.value.field == error.field


def test_a_code_of_a_newer_daemon_is_the_base_class_and_named() -> None:
    error = error_from(protocol.Failure(code="on_fire", message="hot"))
    assert type(error) is errors.MarketdError and str(error) == "hot (on_fire)"


def test_a_failure_that_could_not_read_the_id_counts_for_the_call_under_way() -> None:
    with pytest.raises(errors.ProtocolError):
        answered(Call("query", protocol.Health()), protocol.Failure(code="protocol_error", message="?"), 0)


def test_an_answer_of_another_type_is_a_protocol_error() -> None:
    plan = ask(Call("query", protocol.Health()), protocol.Description)
    call = next(plan)
    assert isinstance(call, Call)
    with pytest.raises(errors.ProtocolError, match="healthreport"):
        plan.send(answered(call, protocol.HealthReport(status="ok", report={})))


@given(st.binary(max_size=64))
def test_garbage_from_a_daemon_is_a_protocol_error(data: bytes) -> None:
    call = Call("query", protocol.Health())
    call.packed(time.monotonic() + 1)
    with pytest.raises(errors.ProtocolError):
        call.accept([data])


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), 10**6])
def test_what_is_no_budget_is_refused(timeout: float) -> None:
    with pytest.raises(errors.InvalidArgument, match="timeout"):
        deadline_after(timeout)


def test_pauses_grow_to_a_second_and_none_reaches_beyond_the_deadline() -> None:
    for attempt in range(20):
        step = next(pause(attempt))
        assert isinstance(step, Pause) and 0 < step.seconds <= 1
    with pytest.raises(errors.Timeout):
        allowed(Pause(5), time.monotonic() + 1)


def test_a_call_with_resending_is_due_again_and_one_without_is_not() -> None:
    deadline = time.monotonic() + 50
    once, again = (Attempt(Call("query", protocol.Health(), resend_seconds=s), deadline) for s in (None, 5.0))
    for attempt in (once, again):
        assert attempt.next_poll()[1] & 2  # wants to send
        attempt.sent()
        assert not attempt.next_poll()[1] & 2
    assert max(once.next_poll()[0], again.next_poll()[0]) <= 1_000  # the daemon is looked after meanwhile


def test_a_poll_never_ends_before_its_time() -> None:
    assert remaining_ms(time.monotonic() - 1) == 0
    assert remaining_ms(time.monotonic() + 0.0004) == 1


@given(st.lists(st.integers(0, 2**40), min_size=1), st.floats(0.01, 1))
def test_a_quantile_is_at_most_a_quarter_too_high_and_never_too_low(values: list[int], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]
    found = histogram.quantile(share)
    assert found is not None and exact <= found <= exact * 1.25


def test_an_empty_histogram_has_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None
