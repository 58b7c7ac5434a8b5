"""Answers from any server that speaks OpenAI's chat completions.

The servers differ in what they add, leave out and get wrong; `Completion` takes it all in and is the only
place that knows. An answer has ended well when the server said why it stopped (``finish_reason``) or that it
is done (``[DONE]``); a stream that merely ends was cut off.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any, Final, Literal, Self

import msgspec

from ragchat.backends.contract import Doubt, Finish, Piece, Prompt
from ragchat.backends.http import Upstream
from ragchat.errors import BackendError
from ragchat.events import FinishReason, Thinking, Token, ToolCall, Usage
from ragchat.settings import Settings
from ragchat.sse import MAX_MESSAGE_BYTES, Message, MessageReader, MessageTooLongError

_USAGE_WAIT: Final = 2.0
"""Seconds that a server may take, once it has said why it stopped, to say what it counted: some never do."""

_END_WAIT: Final = 0.1
"""Seconds from ``[DONE]`` to the end of the response, which is what makes the connection usable again."""

_MAX_BODY_BYTES: Final = 8 * 1024 * 1024

_STATUSES: Final = frozenset(str(status) for status in range(400, 600))


class OpenAIBackend:
    """Streams answers from ``{base_url}/chat/completions``."""

    name = "openai"
    continuation: Literal["none"] = "none"

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str = "",
        max_connections: int = 200,
        connect_timeout: float = 10,
        idle_timeout: float = 120,
    ) -> None:
        self._model = model
        self._idle_timeout = idle_timeout
        self._upstream = Upstream(
            self.name,
            base_url,
            key=api_key,
            max_connections=max_connections,
            connect_timeout=connect_timeout,
            idle_timeout=idle_timeout,
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """The backend that the settings describe."""
        return cls(
            settings.openai_base_url,
            model=settings.openai_model,
            api_key=settings.openai_api_key.get_secret_value(),
            max_connections=settings.max_backend_connections,
            connect_timeout=settings.backend_connect_timeout,
            idle_timeout=settings.backend_idle_timeout,
        )

    async def answer(self, prompt: Prompt) -> AsyncGenerator[Piece, None]:
        """Yield the answer to ``prompt``; all pieces of one network read without a pause in between.

        The server is asked once. Closing the generator, or cancelling the task that iterates it, closes the
        connection to the server.

        Raises:
            BackendError: the server failed; what was yielded before stands.
        """
        completion = Completion(self._upstream)
        try:
            async with self._upstream.request("POST", "/chat/completions", self._question(prompt)) as reply:
                if reply.media_type == "application/json":  # asked for a stream, some gateways send none
                    for piece in completion.whole(await reply.read(_MAX_BODY_BYTES)):
                        yield piece
                elif reply.media_type == "text/html":
                    raise self._upstream.error("answers with a web page", remedy="its address may lack a /v1")
                else:
                    async for data in reply:
                        heard = completion.heard
                        if pieces := completion.feed(data):
                            reply.pause()  # whoever takes them may take their time
                            for piece in pieces:
                                yield piece
                        if completion.failure is not None:
                            break
                        if completion.heard > heard:
                            reply.allow(self._patience(completion))
        except BackendError as error:
            completion.fail(error)
        for piece in completion.end():
            yield piece
        if completion.failure is not None:
            raise completion.failure

    async def check(self) -> str:
        """Ask the server for its models, and say in one line that it answers.

        Raises:
            BackendError: it can't be reached or refuses us.
        """
        where = f"{self.name}: {self._upstream.address} answers"
        async with self._upstream.request("GET", "/models") as reply:
            body = await reply.read(_MAX_BODY_BYTES)
        try:
            models = msgspec.json.decode(body, type=_Models)
        except (ValueError, RecursionError):
            raise self._upstream.error("lists no models", remedy="its address may lack a /v1") from None
        if any(model.id == self._model for model in models.data):
            return f"{where}, model {self._model!r} is there"
        return Doubt(f"{where}, but its list of models has no {self._model!r}; check RAGCHAT_OPENAI_MODEL")

    async def close(self) -> None:
        """Let go of all connections."""
        await self._upstream.close()

    def _patience(self, completion: Completion) -> float:
        if completion.done:
            return _END_WAIT
        return _USAGE_WAIT if completion.finished else self._idle_timeout

    def _question(self, prompt: Prompt) -> bytes:
        question: dict[str, Any] = {
            "model": self._model,
            "messages": prompt.turns,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if prompt.user:
            question["user"] = prompt.user
        return msgspec.json.encode(question)


class Completion:
    """A chat completion while it comes in: bytes in, pieces out. No I/O, and nothing is raised.

    Call `feed` for a stream's bytes, or `whole` once, and `end` however it went. ``heard`` counts the messages
    so far, comments not among them; ``finished`` says that the answer is complete, ``done`` that the server
    will say nothing more, and ``failure`` what it reported or got wrong: the pieces before that stand.
    """

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._reader = MessageReader()
        self._content = _Content()
        self._calls = _ToolCalls()
        self._reason: FinishReason = "stop"
        self._usage: Usage | None = None
        self._ended = False
        self.heard = 0
        self.finished = False
        self.done = False
        self.failure: BackendError | None = None

    def feed(self, data: bytes) -> list[Piece]:
        """What the next bytes of a stream bring."""
        return self._take_all(self._reader.feed(data))

    def whole(self, body: bytes) -> list[Piece]:
        """What an answer brings that came as one JSON document."""
        return self._take_all([Message(body)])

    def fail(self, error: BackendError) -> None:
        """The server failed. That counts unless the answer was complete by then."""
        if not self.finished and self.failure is None:
            self.failure = error

    def end(self) -> list[Piece]:
        """What the end brings: text that was held back, and the tool calls and `Finish` if all went well."""
        self._ended = True
        pieces = self._take_all(self._reader.end()) if self.failure is None else []
        pieces += self._content.held()
        if self.finished and self.failure is None:
            return pieces + self._conclusion()
        self.fail(self._cut_off())
        return pieces

    def _take_all(self, messages: Iterable[Message]) -> list[Piece]:
        pieces: list[Piece] = []
        try:
            for message in messages:
                self._take(message, pieces)
        except MessageTooLongError:
            self.fail(self._upstream.error(f"sent a line of more than {MAX_MESSAGE_BYTES} bytes"))
        except BackendError as error:
            self.fail(error)
        return pieces

    def _take(self, message: Message, pieces: list[Piece]) -> None:
        if self.done:
            return
        self.heard += 1
        if message.data == b"[DONE]":
            self.finished = self.done = True
            return
        if message.event == b"error":
            raise self._reported(_problem(message.data))
        try:
            chunk = _decode_chunk(message.data)
        except (ValueError, RecursionError):
            chunk = self._decode_repaired(message.data)
        if chunk.error is not None or chunk.object == "error":
            raise self._reported(_problem(message.data))
        if chunk.usage is not None:
            self._usage = chunk.usage.counted()
        for choice in chunk.choices or ():
            self._choose(choice, pieces)

    def _choose(self, choice: _Choice, pieces: list[Piece]) -> None:
        delta = choice.delta or choice.message
        if delta is not None:
            if thought := delta.reasoning_content or delta.reasoning:
                pieces.append(Thinking(thought))
            if delta.content:
                pieces += self._content.split(delta.content)
            for fragment in delta.tool_calls or ():
                self._calls.add(fragment)
        if choice.finish_reason or choice.message is not None:
            self._stop(choice.finish_reason or "stop")

    def _stop(self, reason: str) -> None:
        match reason:
            case "content_filter":
                raise self._upstream.error("stopped the answer because of its content filter")
            case "error":
                raise self._upstream.refused(500)
            case "length" | "max_tokens":
                self._reason = "length"
            case _:
                self._reason = "stop"
        self.finished = True

    def _conclusion(self) -> list[Piece]:
        pieces: list[Piece] = []
        for number, call in enumerate(self._calls if self._reason != "length" else ()):
            arguments = call.input()
            if arguments is None:
                self.failure = self._upstream.error(f"called {call.name!r} with arguments that are no JSON object")
                return pieces
            pieces.append(ToolCall(call.id or f"call_{number}", call.name, arguments))
        return [*pieces, Finish(self._reason, self._usage)]

    def _decode_repaired(self, data: bytes) -> _Chunk:
        try:
            return _decode_chunk(_repaired(data))
        except (ValueError, RecursionError):
            nonsense = self._upstream.error("sent something that is not part of a chat completion")
            raise (self._cut_off() if self._ended else nonsense) from None

    def _cut_off(self) -> BackendError:
        return self._upstream.error("broke its answer off", remedy="ask again", retryable=True)

    def _reported(self, problem: object) -> BackendError:
        return self._upstream.refused(_status(problem), problem)


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None


class _Fragment(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Fragment] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


def _count(value: Any) -> int:
    """A number of tokens; whatever can't be one is no reason to lose an answer."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**53 else 0


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None

    def counted(self) -> Usage:
        prompt, completion = _count(self.prompt_tokens), _count(self.completion_tokens)
        return Usage(
            prompt_tokens=prompt,
            completion_tokens=completion,
            total_tokens=_count(self.total_tokens) or prompt + completion,
        )


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    object: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_decode_chunk: Final = msgspec.json.Decoder(_Chunk).decode


def _repaired(data: bytes) -> bytes:
    """JSON in which a character was torn apart, as some servers do between two tokens, with marks in its place."""
    text = data.decode("utf-8", "replace")
    return json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace")


def _problem(data: bytes) -> object:
    try:
        return msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data.decode("utf-8", "replace")


def _status(problem: object) -> int:
    """The HTTP status that an error in the middle of a stream would have had."""
    match problem:
        case {"error": {} as inner}:
            return _status(inner)
        case {"code": int(status)} | {"status": int(status)} if 400 <= status < 600:
            return status
        case {"code": str(status)} if status in _STATUSES:
            return int(status)
        case _:
            return 500


class _Content:
    """Tells the thoughts from the answer where a server sends both as content: ``<think>…</think>`` first."""

    _OPEN: Final = "<think>"
    _CLOSE: Final = "</think>"
    _MAX_HELD: Final = 64

    def __init__(self) -> None:
        self._held = ""
        self._split: Callable[[str], list[Piece]] | None = self._begin  # None: all that comes is the answer

    def split(self, text: str) -> list[Piece]:
        """``text`` as tokens and thoughts; some of it may be held back."""
        if self._split is None:
            return [Token(text)]
        text, self._held = self._held + text, ""
        return self._split(text)

    def held(self) -> list[Piece]:
        """What was held back: it is the end."""
        text, self._held = self._held, ""
        if not text:
            return []
        return [Token(text) if self._split == self._begin else Thinking(text)]

    def _begin(self, text: str) -> list[Piece]:
        start = text.lstrip()
        if start.startswith(self._OPEN):
            self._split = self._think
            return self._think(start.removeprefix(self._OPEN))
        if self._OPEN.startswith(start) and len(text) <= self._MAX_HELD:
            self._held = text
            return []
        self._split = None
        return [Token(text)]

    def _think(self, text: str) -> list[Piece]:
        thought, closed, rest = text.partition(self._CLOSE)
        if not closed:
            seen = len(thought) - _overlap(thought, self._CLOSE)
            thought, self._held = thought[:seen], thought[seen:]
        pieces: list[Piece] = [Thinking(thought)] if thought else []
        if closed:
            self._split = self._after_thinking
            pieces += self._after_thinking(rest)
        return pieces

    def _after_thinking(self, text: str) -> list[Piece]:
        text = text.lstrip("\n")
        if not text:
            return []
        self._split = None
        return [Token(text)]


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of ``text`` may be the beginning of ``tag``."""
    return next((size for size in range(len(tag) - 1, 0, -1) if text.endswith(tag[:size])), 0)


class _Call:
    """One tool call, put together from what a server sends of it."""

    def __init__(self, fragment: _Fragment, name: str) -> None:
        self.id = fragment.id or ""
        self.index = fragment.index
        self.name = name
        self._text: list[str] = []
        self._object: dict[str, Any] | None = None

    def add(self, arguments: str | dict[str, Any] | None) -> None:
        if isinstance(arguments, dict):
            self._object = arguments
        elif arguments:
            self._text.append(arguments)

    def complete(self) -> bool:
        """Whether nothing can be added to the arguments."""
        return self._object is not None or bool(self._text and self.input() is not None)

    def input(self) -> dict[str, Any] | None:
        """The arguments; None if they are no JSON object."""
        if self._object is not None or not self._text:
            return self._object or {}
        try:
            return msgspec.json.decode("".join(self._text), type=dict[str, Any])
        except (ValueError, RecursionError):
            return None


class _ToolCalls(list[_Call]):
    """The tool calls of an answer.

    Fragments of calls come with ids and indexes, but some servers send no indexes, or 0 in all of them, and
    some a new id with every fragment. So neither decides alone. A fragment belongs to the call with its id,
    else to the last one with its index, else to the last one; and one that names a function begins a call,
    unless it only repeats the name of a call that is not complete.
    """

    def add(self, fragment: _Fragment) -> None:
        function = fragment.function or _Function()
        name = function.name or ""
        call = self._find(fragment, named=bool(name))
        if call is None or (name and (name != call.name or call.complete())):
            call = _Call(fragment, name)
            self.append(call)
        call.add(function.arguments)

    def _find(self, fragment: _Fragment, *, named: bool) -> _Call | None:
        for call in reversed(self):
            if fragment.id and call.id == fragment.id:
                return call
        for call in reversed(self):
            if fragment.index is not None and call.index == fragment.index:
                return call
        return self[-1] if self and not (named and fragment.index is not None) else None
