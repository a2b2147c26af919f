"""Events and chunks out of bytes, cut anywhere; and what is none is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.openai.chunks import Chunk, Halves, Usage, read_chunk
from workers.engine.openai.events import Events, Unreadable

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), min_size=1, max_size=12)


def cut(content: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(content) + 1) for place in at})
    return [content[start:end] for start, end in zip([0, *places], [*places, len(content)], strict=True)]


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(TEXT, max_size=6), at=st.lists(st.integers(0, 999)), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_are_the_same_wherever_their_bytes_are_cut(texts: list[str], at: list[int], end: str) -> None:
    content = "".join(f": note{end}data: {text}{end}id: 1{end}data:{text}{end}{end}" for text in texts).encode()
    events = Events()

    found = [data for chunk in cut(content + b": end\n", at) for data in events.feed(chunk)]

    assert found == [f"{text}\n{text.removeprefix(' ')}" for text in texts]


@pytest.mark.parametrize("bad", [b"hello\n", b"<html>\n", b"Data: x\n", b"data: \xc3\n", b"x" * 99, b"data: x\n" * 70])
def test_what_is_no_stream_of_events_is_refused(bad: bytes) -> None:
    with pytest.raises(Unreadable):
        Events(limit_bytes=64).feed(bad)


def test_a_mark_of_byte_order_is_no_part_of_the_first_line() -> None:
    assert Events().feed(b"\xef\xbb\xbfdata: x\n\n") == ["x"]


@pytest.mark.parametrize(
    ("body", "chunk"),
    [
        ({"choices": [{"delta": {"role": "assistant", "content": None}, "finish_reason": None}]}, Chunk()),
        ({"choices": [{"delta": {"content": "a"}}]}, Chunk(text="a")),
        ({"choices": [{"delta": {"reasoning": "a"}}]}, Chunk(thinks=True)),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": None}, Chunk(finish="stop")),
        (
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}},
            Chunk(usage=Usage(prompt_tokens=3, new_tokens=4)),
        ),
    ],
)
def test_a_chunk(body: object, chunk: Chunk) -> None:
    assert read_chunk(json.dumps(body)) == chunk


@pytest.mark.parametrize("usage", ['{"prompt_tokens": "3"}', '{"prompt_tokens": true, "completion_tokens": -1}'])
def test_a_good_answer_is_not_lost_over_its_count(usage: str) -> None:
    chunk = read_chunk(f'{{"choices": [{{"delta": {{"content": "x"}}}}], "usage": {usage}}}')

    assert (chunk.text, chunk.usage) == ("x", None)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "7",
        "[]",
        "{",
        '{"choices": {}}',
        '{"choices": [7]}',
        '{"choices": [{"delta": "x"}]}',
        '{"choices": [{"delta": {"content": ["x"]}}]}',
        '{"choices": [{"delta": {}, "finish_reason": 1}]}',
        '{"choices": [], "usage": [1]}',
    ],
)
def test_what_is_no_chunk_is_refused(bad: str) -> None:
    with pytest.raises(Unreadable):
        read_chunk(bad)


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=20))
def test_halves_of_characters_are_joined(text: str) -> None:
    """As of a server that cuts text between the two units of UTF-16."""
    encoded = text.encode("utf-16-le")
    units = [encoded[at : at + 2] for at in range(0, len(encoded), 2)]
    halves = Halves()

    joined = "".join(halves.add(unit.decode("utf-16-le", "surrogatepass")) for unit in units)

    assert joined == text


def test_what_stays_a_half_is_left_out() -> None:
    halves = Halves()

    assert [halves.add(text) for text in ("a\ud83d", "b", "\ude00c", "", "d")] == ["a", "b", "c", "", "d"]
