"""Pictures are drawn here and read for real; what is no picture costs nothing but a sentence."""

import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageFont

from app.errors import BadPicture
from skills.ocr import LIMIT_BYTES, Ocr, Piece, lines_of, open_picture, text_of
from skills.sdk import Answer, Forward
from tests.machine import lacking
from tests.skills.standin import StandInContext, a_message
from workers.skills import load_skills

LINES = ["Error 504: Gateway Timeout", "Total 42.50 EUR"]
CHINESE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSansSC-Regular.otf", "wqy-microhei.ttc", "wqy-zenhei.ttc")


def drawn(lines: list[str], *, font: ImageFont.FreeTypeFont | None = None) -> Image.Image:
    """Black lines of text on white, 36 pixels high."""
    picture = Image.new("RGB", (900, 80 + 70 * len(lines)), "white")
    drawing = ImageDraw.Draw(picture)
    for number, line in enumerate(lines):
        drawing.text((40, 40 + 70 * number), line, "black", font=font or ImageFont.load_default(size=36))
    return picture


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    into = BytesIO()
    picture.save(into, kind, **options)
    return into.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header promises that many pixels, one bit each."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_the_text_in_a_picture_is_read_line_by_line(kind: str) -> None:
    assert text_of(encoded(drawn(LINES), kind)).splitlines() == LINES


def test_chinese_is_read() -> None:
    font = next(filter(None, map(chinese_font, CHINESE_FONTS)), None)
    if font is None:
        lacking("a Chinese font", "apt-get install fonts-noto-cjk")

    assert text_of(encoded(drawn(["服务器错误"], font=font))) == "服务器错误"


def chinese_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name, 36)
    except OSError:
        return None


def test_a_photo_is_turned_as_the_camera_was_held() -> None:
    """Telephones store the picture lying and say so in a tag."""
    tag = Image.Exif()
    tag[0x0112] = 6
    lying = drawn(LINES).transpose(Image.Transpose.ROTATE_90)

    assert text_of(encoded(lying, "JPEG", exif=tag)).splitlines() == LINES


def test_black_text_on_nothing_is_read() -> None:
    """What is transparent would turn black, and the text with it vanish."""
    picture = Image.new("RGBA", (600, 120), (0, 0, 0, 0))
    ImageDraw.Draw(picture).text((40, 40), "Gateway", "black", font=ImageFont.load_default(size=36))

    assert text_of(encoded(picture)) == "Gateway"


def test_a_large_picture_is_shrunk_before_it_is_read() -> None:
    assert open_picture(encoded(Image.new("L", (4000, 1000)), "JPEG")).size == (1280, 320)


@pytest.mark.parametrize("size", [(300, 300), (1, 1), (30_000, 1)])
def test_a_picture_without_text_has_none(size: tuple[int, int]) -> None:
    assert text_of(encoded(Image.new("RGB", size, "white"))) == ""


@pytest.mark.parametrize("size", [(40_000, 40_000), (2_000_000_000, 2), (7_000, 7_000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    """A few bytes may promise gigabytes; nothing of it may be unpacked."""
    with pytest.raises(BadPicture):
        open_picture(bomb(*size))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"just words in a file called picture.png",
        encoded(drawn(LINES), "JPEG")[:2000],
        encoded(drawn(LINES))[:-200],
        encoded(drawn(LINES), "TIFF"),
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(LIMIT_BYTES + 1),
    ],
    ids=["empty", "text", "cut JPEG", "cut PNG", "TIFF", "only a signature", "too many bytes"],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(BadPicture):
        open_picture(data)


def test_pieces_of_one_line_are_joined_from_left_to_right() -> None:
    """The pieces come in no order, and none stands quite as high as its neighbour."""
    pieces = [Piece("below", 0, 30, 50), Piece("right", 90, 2, 22), Piece("left", 0, 0, 20), Piece("far", 200, 4, 18)]

    assert lines_of(pieces) == ["left right far", "below"]


def test_a_picture_is_answered_with_its_text() -> None:
    context = StandInContext(files={"c1": encoded(drawn(LINES[:1])), "c2": encoded(drawn(LINES[1:]))})

    result = answer(context, "", "c1", "c2")

    assert result == Answer(text=f"This is the text in the picture:\n\n{LINES[0]}\n\n{LINES[1]}")


def test_a_picture_with_a_question_goes_on_to_the_model() -> None:
    context = StandInContext(files={"c1": encoded(drawn(LINES[:1]))})

    result = answer(context, "what is wrong?", "c1")

    assert result == Forward(queue="text", text=f"A picture holds this text:\n{LINES[0]}\n\nwhat is wrong?")


def test_a_picture_without_text_gets_an_honest_sentence() -> None:
    context = StandInContext(files={"c1": encoded(Image.new("RGB", (100, 100), "white"))})

    assert answer(context, "", "c1") == Answer(text=context.wording("no_text_in_picture"), remember=False)


def test_a_bad_picture_reaches_the_turn_as_such() -> None:
    """The turn has a sentence for it; a broken skill it is not."""
    with pytest.raises(BadPicture):
        answer(StandInContext(files={"c1": b"no picture"}), "", "c1")


def answer(context: StandInContext, text: str, *pictures: str) -> Answer | Forward:
    message, skills = a_message(text, "picture", pictures=pictures), load_skills()
    skill = skills.choose(message)
    assert skill is not None
    assert skill.make is Ocr
    return skills.run(skill, message, context)


def test_reading_loads_no_torch_and_loading_the_skills_loads_no_reader() -> None:
    """Only the pool `text` may pay for torch, and only `image` for the reader."""
    program = (
        "import sys; from workers.skills import load_skills; load_skills(); print('rapidocr' in sys.modules);"
        "from skills.ocr import warm; warm(); print('rapidocr' in sys.modules, 'torch' in sys.modules)"
    )

    printed = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert printed.stdout.split() == ["False", "True", "False"]
