"""Every adapter of the table of venues keeps the same promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import adapter_conformance as conformance
import pytest
from adapter_conformance import Case
from adapter_samples import SAMPLES
from hypothesis import given
from hypothesis import strategies as st

from marketd.daemon.feeds.venues import VENUES

CASES = [pytest.param(case, id=case.name) for case in conformance.cases()]
PROMISES = (
    conformance.names_go_both_ways,
    conformance.what_is_no_symbol_is_refused,
    conformance.streams_are_named_once,
    conformance.every_stream_is_asked_for,
    conformance.a_book_alone_can_be_asked_for_anew,
    conformance.each_example_gives_what_it_should,
    conformance.frames_together_say_what_they_say_alone,
    conformance.symbols_that_are_not_adopted_are_ignored,
    conformance.without_books_their_messages_are_ignored,
    conformance.texts_of_recordings_are_told,
    conformance.a_book_rule_is_there,
    conformance.limits_are_sane,
    conformance.rest_calls_fit_the_budget,
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
VALUES = JSON | st.sampled_from(["", "0", "-1", "1e400", "nan", "9" * 30, "0.000000001", "²", "\u0000", "2021-04-17"])


def test_every_venue_has_a_sample() -> None:
    assert set(VENUES) <= set(SAMPLES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_a_promise_is_kept(promise: Callable[[Case], None], case: Case) -> None:
    promise(case)


@pytest.mark.parametrize("case", CASES)
@given(frames=st.lists(st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()), max_size=8))
def test_whatever_the_bytes_are_each_message_is_accounted_for(case: Case, frames: list[bytes]) -> None:
    conformance.every_message_is_accounted_for(case, frames)


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
def test_a_damaged_message_is_accounted_for(case: Case, data: st.DataObject) -> None:
    if not case.sample.frames:
        pytest.skip("the venue has no examples")
    frames = [frame for _, frame in case.sample.frames]
    frame = data.draw(st.sampled_from(frames))
    cut = data.draw(st.integers(0, len(frame)))
    value = data.draw(VALUES)
    replaced = json.dumps(_replace(data, json.loads(frame), value)).encode()
    conformance.every_message_is_accounted_for(case, [*frames, frame[:cut], frame[cut:], replaced, *frames])


def _replace(data: st.DataObject, message: Any, value: Any) -> Any:
    """The message with one value, anywhere in it, replaced or taken away."""
    if isinstance(message, dict) and message and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(sorted(message)))
        if data.draw(st.integers(0, 4)) == 0:
            return {name: inner for name, inner in message.items() if name != key}
        return {**message, key: _replace(data, message[key], value)}
    if isinstance(message, list) and message and data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(message) - 1))
        if data.draw(st.integers(0, 4)) == 0:
            return message[:place] + message[place + 1 :]
        return [*message[:place], _replace(data, message[place], value), *message[place + 1 :]]
    return value


@pytest.mark.parametrize("case", CASES)
@given(body=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_a_rest_answer_that_is_none_is_refused(case: Case, body: bytes) -> None:
    conformance.an_answer_that_is_none_is_refused(case, body)
