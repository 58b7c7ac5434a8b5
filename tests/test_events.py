"""The vocabulary of a run and its legal order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat.events import (
    FOLLOWS,
    AnyEvent,
    Done,
    Error,
    Event,
    Observation,
    Order,
    OutOfOrderError,
    Reference,
    Replace,
    RunStatus,
    Status,
    Thinking,
    Token,
    ToolCall,
    Transcript,
    join,
)

RUNNING = Status(RunStatus.RUNNING)
DONE = Done("stop")

bodies = st.lists(
    st.one_of(
        st.builds(Token, st.text()),
        st.builds(Thinking, st.text()),
        st.builds(Replace, st.text()),
        st.just(Reference()),
        st.just(RUNNING),
    )
)


def walk(*events: Event) -> Order:
    order = Order()
    for event in events:
        order.advance(event)
    return order


def test_a_run_goes_from_its_status_over_its_body_to_done() -> None:
    order = walk(RUNNING, Reference(), Thinking("hm"), Token("a"), Reference(final=True), DONE)
    assert order.ended


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([Token("a")], id="a token before the first status"),
        pytest.param([RUNNING, DONE, Token("a")], id="a token after the end"),
        pytest.param([RUNNING, DONE, DONE], id="a second end"),
        pytest.param([RUNNING, Error(500, "no"), Token("a")], id="a token after an error"),
        pytest.param([RUNNING, Error(500, "no"), Error(500, "no")], id="a second error"),
        pytest.param([RUNNING, Error(500, "no"), Reference(), Token("a")], id="a token after error and reference"),
        pytest.param([RUNNING, Reference(final=True), Token("a")], id="a token after the final reference"),
        pytest.param([RUNNING, Observation("t1", "x")], id="an observation of a tool that nobody called"),
    ],
)
def test_what_is_out_of_order_is_refused(events: list[Event]) -> None:
    with pytest.raises(OutOfOrderError):
        walk(*events)


def test_an_observation_may_follow_its_call_at_a_distance() -> None:
    walk(RUNNING, ToolCall("t1", "search", {}), Token("a"), Observation("t1", "found"), DONE)


def test_every_event_type_has_its_row_in_the_table_of_order() -> None:
    assert set(FOLLOWS) - {None} == set(AnyEvent.__args__)


@given(bodies)
def test_joining_changes_neither_the_text_nor_the_thoughts(events: list[Event]) -> None:
    one_by_one, joined = Transcript(), Transcript()
    one_by_one.extend(events)
    joined.extend([event for _, event in join(events)])
    assert (joined.text, joined.thinking, joined.reference) == (
        one_by_one.text,
        one_by_one.thinking,
        one_by_one.reference,
    )


@given(bodies)
def test_joining_names_the_last_event_that_went_into_each(events: list[Event]) -> None:
    joined = join(events)
    assert [index for index, _ in joined] == sorted({index for index, _ in joined})
    if events:
        assert joined[-1][0] == len(events) - 1


def test_neighbouring_tokens_become_one() -> None:
    assert join([Token("a"), Token("b"), Thinking("c"), Thinking("d"), Token("e")]) == [
        (1, Token("ab")),
        (3, Thinking("cd")),
        (4, Token("e")),
    ]


def test_what_is_joined_stays_small_enough_to_get_through_in_one_piece() -> None:
    joined = join([Token("x" * 1000)] * 5)
    assert [(index, len(event.data)) for index, event in joined if isinstance(event, Token)] == [
        (1, 2000),
        (3, 2000),
        (4, 1000),
    ]


def test_a_transcript_obeys_a_replace() -> None:
    transcript = Transcript()
    transcript.extend([Token("a"), Token("b"), Replace("c"), Token("d")])
    assert transcript.text == "cd"


def test_a_transcript_remembers_how_the_run_ended() -> None:
    transcript = Transcript()
    transcript.extend([Error(500, "no"), Reference(total=3, final=True), Done("error")])
    assert transcript.error == Error(500, "no")
    assert transcript.reference == Reference(total=3, final=True)
    assert transcript.done == Done("error")
