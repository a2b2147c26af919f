"""Text comes in whole characters, and a stop string never shows, not even its beginning."""

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.engine.text import Characters, StopStrings

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

TEXTS = ["The capital is Paris.", "北京是中国的首都。", "😀👩‍👩‍👧 ok", "naïve café\n\n  x", "数字 12345 和 emoji 🚂🇨🇳"]


def pieces_of(tokens: list[int], loaded: "Loaded") -> list[str]:
    characters = Characters(loaded.prompts.decode)
    return [characters.add(token) for token in tokens] + [characters.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_characters_that_span_tokens_come_out_whole(text: str, loaded: "Loaded") -> None:
    """One Chinese character is up to three tokens here, an emoji up to four: nobody may see a half."""
    tokens = loaded.prompts._tokenizer(text)["input_ids"]

    pieces = pieces_of(tokens, loaded)

    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
def test_an_answer_cut_in_mid_character_has_no_half_character(text: str, loaded: "Loaded") -> None:
    """The token limit may fall inside an emoji."""
    tokens = loaded.prompts._tokenizer(text)["input_ids"]

    for length in range(len(tokens)):
        shown = "".join(pieces_of(tokens[:length], loaded))

        assert text.startswith(shown)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_pieces_joined_are_the_decoded_whole(loaded: "Loaded", data: st.DataObject) -> None:
    """Also for tokens that make no sense together, such as bytes that are no character."""
    tokens = data.draw(st.lists(st.integers(0, loaded.vocabulary - 1), max_size=30))

    pieces = pieces_of(tokens, loaded)

    assert "".join(pieces) == loaded.prompts.decode(tokens).replace("\ufffd", "")


def test_a_stop_string_split_over_pieces_never_shows() -> None:
    stops = StopStrings(["\nUser:", "END"])

    shown = [stops.add(piece) for piece in ["Hi", "\nUs", "e", "r", ": more"]]

    assert shown == ["Hi", "", "", "", ""]
    assert stops.stopped
    assert stops.flush() == ""


def test_the_beginning_of_a_stop_string_that_is_none_comes_out_later() -> None:
    stops = StopStrings(["STOP"])

    assert [stops.add("a S"), stops.add("TO"), stops.add("RE"), stops.add("ST")] == ["a ", "", "STORE", ""]
    assert stops.flush() == "ST"


@settings(deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3),
)
def test_what_shows_is_the_text_before_the_first_stop_string(pieces: list[str], stops: list[str]) -> None:
    """However the text is cut into pieces."""
    text = "".join(pieces)
    filter_ = StopStrings(stops)

    shown = "".join(filter_.add(piece) for piece in pieces) + filter_.flush()

    assert filter_.stopped == any(stop in text for stop in stops)
    assert text.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert filter_.stopped or shown == text
