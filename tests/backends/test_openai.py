"""The OpenAI-compatible backend, against streams as many servers send them and a server that misbehaves."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ragchat.backends import openai
from ragchat.backends.contract import Doubt, Finish, Piece, Prompt, Turn
from ragchat.backends.http import Upstream
from ragchat.backends.openai import Completion, OpenAIBackend
from ragchat.errors import BackendBusyError, BackendError
from ragchat.events import Thinking, Token, ToolCall, Usage
from ragchat.settings import load
from tests.fakes.model_server import Act, ModelServer, Step, delta, sse

KEY = "sk-canary-7f3a"
PROMPT = Prompt(question="Why?", turns=(Turn("system", "Be brief."), Turn("user", "Why?")), user="somebody")
HELLO: list[Piece] = [Token("Hello"), Finish()]
THOUGHT_HELLO: list[Piece] = [Thinking("Let me see."), Token("Hello"), Finish()]
FOUND = ToolCall("a", "find", {"q": "x"})
READ = ToolCall("b", "read", {"n": 1})

ANSWERS: dict[str, list[Piece]] = {
    "openai.sse": [
        Token("Grüß 你好 🌍"),
        Finish("stop", Usage(prompt_tokens=9, completion_tokens=2, total_tokens=11)),
    ],
    "azure_first_chunk_without_choices.sse": HELLO,
    "no_usage_only_done.sse": HELLO,
    "words_after_done.sse": HELLO,
    "only_finish_reason.sse": HELLO,
    "usage_after_finish_without_done.sse": [
        Token("Hello"),
        Finish("stop", Usage(prompt_tokens=9, completion_tokens=2, total_tokens=11)),
    ],
    "openrouter_comments.sse": HELLO,
    "deepseek_reasoning_content.sse": THOUGHT_HELLO,
    "vllm_reasoning.sse": THOUGHT_HELLO,
    "think_tag.sse": [Thinking("Let me see </b> it."), Token("Hello <think>!"), Finish()],
    "less_than_is_no_think_tag.sse": [Token(" <th>Hello"), Finish()],
    "null_delta_and_choices.sse": HELLO,
    "no_space_after_data.sse": HELLO,
    "crlf.sse": HELLO,
    "cr.sse": HELLO,
    "byte_order_mark.sse": HELLO,
    "data_over_two_lines.sse": HELLO,
    "line_separators_in_json.sse": [Token("a\u2028b\u2029c\u0085d"), Finish()],
    "no_empty_line_at_the_end.sse": HELLO,
    "length.sse": [Token("Hello"), Finish("length")],
    "surrogate_torn_apart.sse": [Token("a??b"), Finish()],
    "tool_calls.sse": [FOUND, READ, Finish()],
    "tool_calls_interleaved.sse": [FOUND, READ, Finish()],
    "tool_calls_interleaved_by_id.sse": [FOUND, READ, Finish()],
    "tool_calls_without_index.sse": [FOUND, READ, Finish()],
    "tool_calls_all_index_0.sse": [FOUND, READ, Finish()],
    "tool_calls_same_tool_all_index_0.sse": [
        ToolCall("call_0", "find", {"q": "x"}),
        ToolCall("call_1", "find", {"q": "y"}),
        Finish(),
    ],
    "tool_calls_with_objects.sse": [FOUND, ToolCall("b", "read", {}), Finish()],
    "tool_calls_new_id_per_fragment.sse": [FOUND, READ, Finish()],
    "tool_calls_name_repeated.sse": [FOUND, Finish()],
    "tool_call_cut_off_by_length.sse": [Finish("length")],
}
"""Recorded streams that are answers, and what they say."""

GPU = "failed (500): the GPU is gone; look at its log."
CUT_OFF = "broke its answer off; ask again."
NONSENSE = "sent something that is not part of a chat completion."
FAILURES: dict[str, tuple[list[Piece], str]] = {
    "error_vllm.sse": ([Token("Hel")], GPU),
    "error_vllm_old.sse": ([Token("Hel")], GPU),
    "error_llama_cpp_old.sse": ([Token("Hel")], GPU),
    "error_ollama.ndjson": ([Token("Hel")], GPU),
    "error_event.sse": ([Token("Hel")], GPU),
    "error_busy.sse": (
        [Token("Hel")],
        "is overloaded or limits our rate (429): the GPU is gone; try again later.",
    ),
    "cut_off.sse": ([Token("Hello")], CUT_OFF),
    "cut_off_in_a_line.sse": ([Token("Hel")], CUT_OFF),
    "cut_off_in_a_tag.sse": ([Thinking("Hm</thi")], CUT_OFF),
    "not_json.sse": ([Token("Hel")], NONSENSE),
    "not_a_completion.sse": ([Token("Hel")], NONSENSE),
    "content_filter.sse": ([Token("Hel")], "stopped the answer because of its content filter."),
    "finish_reason_error.sse": ([Token("Hel")], "failed (500); look at its log."),
    "tool_call_no_object.sse": ([], "called 'find' with arguments that are no JSON object."),
}
"""Recorded streams that fail: the answer until then, and what the error says after the server's address."""

STREAMS = sorted([*ANSWERS, *FAILURES])
UPSTREAM = Upstream(
    "openai", "http://model.test/v1", key=KEY, max_connections=1, connect_timeout=1, idle_timeout=1
)


def recorded(name: str) -> bytes:
    return (Path(__file__).parent / "streams" / name).read_bytes()


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbouring tokens, and neighbouring thoughts, as one."""
    result: list[Piece] = []
    for piece in pieces:
        match result[-1:], piece:
            case [Token(before)], Token(data):
                result[-1] = Token(before + data)
            case [Thinking(before)], Thinking(content):
                result[-1] = Thinking(before + content)
            case _:
                result.append(piece)
    return result


def understood(*parts: bytes) -> tuple[list[Piece], str | None]:
    completion = Completion(UPSTREAM)
    pieces = [piece for part in parts for piece in completion.feed(part)]
    pieces += completion.end()
    return joined(pieces), str(completion.failure) if completion.failure else None


def expected(name: str, address: str) -> tuple[list[Piece], str | None]:
    if name in ANSWERS:
        return ANSWERS[name], None
    pieces, failure = FAILURES[name]
    return pieces, f"openai at {address} {failure}"


async def ask(backend: OpenAIBackend) -> tuple[list[Piece], BackendError | None]:
    pieces: list[Piece] = []
    try:
        async for piece in backend.answer(PROMPT):
            pieces.append(piece)  # noqa: PERF401 - what came before an error counts
    except BackendError as error:
        return joined(pieces), error
    return joined(pieces), None


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as server:
        yield server


@pytest.fixture
async def backend(server: ModelServer) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(server.base_url, model="m", api_key=KEY)
    yield backend
    await backend.close()


@pytest.fixture
async def impatient(server: ModelServer) -> AsyncIterator[OpenAIBackend]:
    backend = OpenAIBackend(server.base_url, model="m", idle_timeout=0.5)
    yield backend
    await backend.close()


# what the servers send


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_means_the_same_wherever_it_is_cut(name: str) -> None:
    """Whole, cut once anywhere, and byte by byte: the same pieces and the same failure."""
    stream = recorded(name)
    meaning = expected(name, "http://model.test/v1")
    assert understood(stream) == meaning
    assert understood(*(bytes([byte]) for byte in stream)) == meaning
    for cut in range(1, len(stream)):
        assert understood(stream[:cut], stream[cut:]) == meaning, cut


@given(st.sampled_from(STREAMS), st.data())
def test_a_stream_means_the_same_however_often_it_is_cut(name: str, data: st.DataObject) -> None:
    stream = recorded(name)
    positions = data.draw(st.lists(st.integers(0, len(stream))))
    parts = [stream[start:end] for start, end in itertools.pairwise([0, *sorted(positions), len(stream)])]
    assert understood(*parts) == expected(name, "http://model.test/v1")


def test_every_recorded_stream_is_read() -> None:
    names = [path.name for path in (Path(__file__).parent / "streams").iterdir() if path.suffix]
    assert sorted(names) == STREAMS


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_arrives_over_the_network(name: str, server: ModelServer, backend: OpenAIBackend) -> None:
    """Through a real connection, in parts of seven bytes; and the server is asked once."""
    stream = recorded(name)
    server.script(*(stream[start : start + 7] for start in range(0, len(stream), 7)))
    pieces, error = await ask(backend)
    assert (pieces, str(error) if error else None) == expected(name, server.base_url)
    assert len(server.requests) == 1


@pytest.mark.parametrize("media_type", ["application/json", "application/json; charset=utf-8"])
async def test_an_answer_that_is_no_stream(media_type: str, server: ModelServer, backend: OpenAIBackend) -> None:
    """Some gateways answer in one piece, whatever they were asked."""
    message = {"role": "assistant", "content": "Hello", "reasoning_content": "Let me see."}
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    }
    server.script(json.dumps(body, indent=2).encode(), headers={"Content-Type": media_type})
    usage = Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    assert await ask(backend) == ([Thinking("Let me see."), Token("Hello"), Finish("length", usage)], None)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b'{"error": {"message": "the GPU is gone"}}', GPU),
        (b'{"choices": ', NONSENSE),
        (b"[" * 100_000, NONSENSE),
        (b"{}", CUT_OFF),
    ],
)
async def test_json_that_is_no_answer(
    body: bytes, sentence: str, server: ModelServer, backend: OpenAIBackend
) -> None:
    server.script(body, headers={"Content-Type": "application/json"})
    pieces, error = await ask(backend)
    assert (pieces, str(error)) == ([], f"openai at {server.base_url} {sentence}")


async def test_a_burst_is_yielded_without_a_pause(server: ModelServer, backend: OpenAIBackend) -> None:
    """Whoever joins what is there gets all of one network read at once."""
    server.script(sse(*(delta(str(number)) for number in range(50)), "[DONE]"))
    turns: list[int] = []
    async for piece in backend.answer(PROMPT):
        if piece == Token("0"):
            asyncio.get_running_loop().call_soon(turns.append, 1)
        if piece == Token("49"):
            break
    assert turns == []


# what the server is asked


async def test_the_question(server: ModelServer, backend: OpenAIBackend) -> None:
    """The request has what the API asks for, wants usage, and no compression."""
    server.script(sse(delta("Hello"), "[DONE]"))
    await ask(backend)
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert request.json() == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "user": "somebody",
    }


async def test_the_settings_are_used(server: ModelServer) -> None:
    backend = OpenAIBackend.from_settings(
        load(openai_base_url=server.base_url, openai_model="m2", openai_api_key=KEY, max_backend_connections=1)
    )
    server.script(sse(delta("Hello"), "[DONE]"))
    assert await ask(backend) == (HELLO, None)
    assert server.requests[0].json()["model"] == "m2"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    await backend.close()


async def test_a_connection_is_used_again(
    server: ModelServer, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "_END_WAIT", 10)  # the end does come, but this machine may be slow
    server.script(sse(delta("Hello"), "[DONE]"))
    for _ in range(3):
        assert await ask(backend) == (HELLO, None)
    assert [request.connection for request in server.requests] == [0, 0, 0]


# how it ends


@pytest.mark.parametrize("last", [[delta("", finish_reason="stop")], ["[DONE]"]])
async def test_an_answer_is_complete_though_the_response_never_ends(
    last: list[str], server: ModelServer, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Usage that never comes, and a connection that stays open, cost a moment and not the answer."""
    monkeypatch.setattr(openai, "_USAGE_WAIT", 0.05)
    server.script(sse(delta("Hello"), *last), Act.HANG)
    assert await ask(backend) == (HELLO, None)
    await server.closed(0)


@pytest.mark.parametrize("then", [Act.RESET, Act.CUT, sse('{"error": "too late"}'), b"data: {]\n\n"])
async def test_nothing_can_spoil_a_complete_answer(
    then: Step, server: ModelServer, backend: OpenAIBackend
) -> None:
    server.script(sse(delta("Hello", finish_reason="stop")), then)
    assert await ask(backend) == (HELLO, None)


@pytest.mark.parametrize("steps", [(), (sse(delta("Hel")),)])
@pytest.mark.parametrize(
    ("last", "sentence"),
    [
        (Act.HANG, "sent nothing for 0.5 seconds."),
        (Act.RESET, "broke the connection off; try again."),
        (Act.CUT, "broke the connection off; try again."),
        (b"x" * 1_100_000, "sent a line of more than 1048576 bytes."),
    ],
)
async def test_a_server_that_fails(
    steps: tuple[Step, ...], last: Step, sentence: str, server: ModelServer, impatient: OpenAIBackend
) -> None:
    """Before the headers and in the middle: one error, what came before it stands, and no second call."""
    server.script(*steps, last)
    pieces, error = await ask(impatient)
    assert pieces == [Token("Hel")] * len(steps)
    assert str(error) == f"openai at {server.base_url} {sentence}"
    assert len(server.requests) == 1
    await server.left_alone()


async def test_comments_do_not_keep_a_silent_server_alive(server: ModelServer, impatient: OpenAIBackend) -> None:
    server.script(sse(delta("Hel")), Act.COMMENTS)
    pieces, error = await ask(impatient)
    assert pieces == [Token("Hel")]
    assert str(error) == f"openai at {server.base_url} sent nothing for 0.5 seconds."


async def test_an_endless_line_is_cut(server: ModelServer, backend: OpenAIBackend) -> None:
    """The reader gives up at its limit; it does not wait for the end of the line."""
    server.script(sse(delta("Hel")), b"data: " + b"x" * 1_100_000, Act.HANG)
    pieces, error = await ask(backend)
    assert pieces == [Token("Hel")]
    assert str(error) == f"openai at {server.base_url} sent a line of more than 1048576 bytes."
    await server.closed(0)


async def test_a_web_page_is_no_answer(server: ModelServer, backend: OpenAIBackend) -> None:
    server.script(b"<html>Welcome", headers={"Content-Type": "text/html; charset=utf-8"})
    _, error = await ask(backend)
    assert str(error) == f"openai at {server.base_url} answers with a web page; its address may lack a /v1."


async def test_a_busy_server_says_when_to_come_back(server: ModelServer, backend: OpenAIBackend) -> None:
    server.script(b"", status=429, headers={"Retry-After": "7"})
    _, error = await ask(backend)
    assert isinstance(error, BackendBusyError)
    assert (error.code, error.retryable, error.retry_after) == (503, True, 7.0)


# stopping


async def test_closing_the_generator_stops_the_model(server: ModelServer, backend: OpenAIBackend) -> None:
    server.script(sse(delta("Hel")), Act.HANG)
    answer = backend.answer(PROMPT)
    assert await anext(answer) == Token("Hel")
    await answer.aclose()
    await server.closed(0)


@pytest.mark.parametrize("steps", [(Act.HANG,), (Act.HEADERS, Act.HANG), (sse(delta("Hel")), Act.HANG)])
async def test_cancelling_the_reader_stops_the_model(
    steps: tuple[Step, ...], server: ModelServer, backend: OpenAIBackend
) -> None:
    """Before the headers, after them, and in the middle of the answer; and once more while it closes."""
    server.script(*steps)
    reader = asyncio.create_task(ask(backend))
    await server.received()
    reader.cancel()
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait({reader})
    assert reader.cancelled()
    await server.closed(0)


async def test_cancelled_at_any_moment_nothing_stays_behind(server: ModelServer) -> None:
    """After 400 cancels at random moments all connections are closed and both slots are free."""
    backend = OpenAIBackend(server.base_url, model="m", max_connections=2)
    server.only(sse(delta("Hel")), Act.HEADERS, sse(delta("lo")), Act.HANG)
    moments = random.Random(1)
    for _ in range(200):
        readers = [asyncio.create_task(ask(backend)) for _ in range(2)]
        for reader in readers:
            for _ in range(moments.randrange(25)):
                await asyncio.sleep(0)
            reader.cancel()
        await asyncio.wait(readers)
    await server.left_alone()
    server.only(sse(delta("Hello"), "[DONE]"))
    for answer in await asyncio.gather(ask(backend), ask(backend)):
        assert answer == (HELLO, None)
    await backend.close()


async def test_requests_beyond_the_limit_wait(server: ModelServer) -> None:
    """The next one is sent when an earlier one ends; one that is cancelled while it waits takes no slot."""
    backend = OpenAIBackend(server.base_url, model="m", max_connections=1)
    server.script(sse(delta("Hel")), Act.HANG)
    server.script(sse(delta("Hello"), "[DONE]"))
    first = backend.answer(PROMPT)
    await anext(first)
    second, third = (asyncio.create_task(ask(backend)) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait({second})
    assert len(server.requests) == 1
    await first.aclose()
    assert await third == (HELLO, None)
    await backend.close()


# the rest of the contract


@pytest.mark.parametrize(
    ("models", "line"),
    [
        (["a", "m"], "answers, model 'm' is there"),
        (["a"], "answers, but its list of models has no 'm'; check RAGCHAT_OPENAI_MODEL"),
    ],
)
async def test_check(models: list[str], line: str, server: ModelServer, backend: OpenAIBackend) -> None:
    body: dict[str, Any] = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
    server.script(json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    checked = await backend.check()
    assert checked == f"openai: {server.base_url} {line}"
    assert isinstance(checked, Doubt) is ("m" not in models)
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")


async def test_check_of_something_else(server: ModelServer, backend: OpenAIBackend) -> None:
    server.script(b"<html>Welcome")
    with pytest.raises(BackendError) as caught:
        await backend.check()
    assert str(caught.value) == f"openai at {server.base_url} lists no models; its address may lack a /v1."


async def test_closing_leaves_nothing_open(server: ModelServer) -> None:
    """Not even the connection of an answer under way, which ends with an error."""
    backend = OpenAIBackend(server.base_url, model="m")
    server.script(sse(delta("Hel")), Act.HANG)
    reader = asyncio.create_task(ask(backend))
    await server.received()
    await backend.close()
    _, error = await reader
    assert str(error) == f"openai at {server.base_url} broke the connection off; try again."
    await server.left_alone()
    gc.collect()  # pytest makes an error of a ResourceWarning
