"""Read the text in a picture: RapidOCR with the models of its own package, nothing is fetched.

PIL, numpy and RapidOCR are imported by what uses them: every pool loads this module, only `image` reads pictures.
"""

import threading
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from skills.sdk import Answer, BadPicture, Forward, Message, SkillPlugin

if TYPE_CHECKING:
    from PIL import Image

LIMIT_BYTES = 20_000_000
LIMIT_PIXELS = 40_000_000  # 160 MB when unpacked
LONGEST_SIDE_PIXELS = 1280  # larger costs time and finds no more
LEAST_SIDE_PIXELS = 8  # no letter is smaller, and the engine would stretch a thin line to a huge picture
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

# Half the time and half the memory of the defaults at the same error rate, on one core.
TUNED: dict[str, Any] = {
    "Global.use_cls": False,
    "Global.log_level": "error",  # it warns of each picture without text
    "Det.limit_type": "max",
    "Det.limit_side_len": 736,
    "Rec.rec_batch_num": 1,
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    "EngineConfig.onnxruntime.enable_cpu_mem_arena": False,
}


class Ocr(SkillPlugin):
    """Answers a picture with its text; a picture with a question goes on to the model, with the text in it."""

    summary: ClassVar = {"en": "read the text in a picture", "zh-CN": "读出图片里的文字"}
    kinds = ("picture",)
    queue = "image"
    remembers = True

    def pre_process(self, message: Message) -> tuple[list[bytes], str]:
        """The pictures' bytes, and the person's question."""
        pictures = [attachment for attachment in message.attachments if attachment.kind == "picture"]
        if not pictures:
            raise BadPicture("a picture message without a picture")
        return [self.context.read(picture) for picture in pictures], message.text.strip()

    def execute(self, processed: tuple[list[bytes], str]) -> Answer | Forward:
        pictures, question = processed
        text = "\n\n".join(filter(None, map(text_of, pictures)))
        if not text:
            return Answer(text=self.context.wording("no_text_in_picture"), remember=False)
        if question:
            return Forward(queue="text", text=self.context.wording("picture_question", text=text, question=question))
        return Answer(text=f"{self.context.wording('picture_text_intro')}\n\n{text}")


class Piece(NamedTuple):
    """A piece of text and where it stands, in pixels from the top left."""

    text: str
    left: float
    top: float
    bottom: float


def text_of(data: bytes) -> str:
    """All text in a picture, in reading order, a line a line; empty if there is none. Raises BadPicture."""
    return "\n".join(lines_of(_recognised(open_picture(data))))


def open_picture(data: bytes) -> "Image.Image":
    """Unpack a picture as RGB, upright, its longest side at most 1280 pixels.

    Raises:
        BadPicture: too many bytes or pixels (from the header, before anything is unpacked), damaged, or of a format
            that we do not read, whatever its name says.
    """
    from PIL import Image

    if len(data) > LIMIT_BYTES:
        raise BadPicture(f"a picture of {len(data)} bytes, at most {LIMIT_BYTES}")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as picture:
            _check_pixels(picture.size)
            picture.verify()
        with Image.open(BytesIO(data), formats=FORMATS) as picture:  # verify() leaves nothing to read
            return _upright_rgb(picture)
    except BadPicture:
        raise
    except Exception as exc:  # hostile bytes make the decoders raise whatever there is
        raise BadPicture(f"a picture that cannot be opened: {type(exc).__name__}") from exc


def _check_pixels(size: tuple[int, int]) -> None:
    width, height = size
    if width * height > LIMIT_PIXELS:
        raise BadPicture(f"a picture of {width} x {height} pixels, at most {LIMIT_PIXELS}")


def _upright_rgb(picture: "Image.Image") -> "Image.Image":
    """Shrink first, where that is exact; then turn as the camera was held, and lay what is transparent on white."""
    from PIL import Image, ImageOps

    if picture.mode not in ("RGB", "RGBA", "L"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    picture.thumbnail((LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS))
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")


def lines_of(pieces: Iterable[Piece]) -> list[str]:
    """Join pieces of text into lines, top to bottom, left to right.

    A piece belongs to the line above it if its middle is no lower than the bottom of that line's first piece.
    """
    lines: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: piece.top + piece.bottom):
        if lines and (piece.top + piece.bottom) / 2 < lines[-1][0].bottom:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    return [" ".join(piece.text for piece in sorted(line, key=lambda piece: piece.left)) for line in lines]


def _recognised(picture: "Image.Image") -> list[Piece]:
    import numpy

    if min(picture.size) < LEAST_SIDE_PIXELS:
        return []
    pixels = numpy.ascontiguousarray(numpy.asarray(picture)[:, :, ::-1])  # it wants blue first
    with _reading:
        found = _engine()(pixels)
    if found.txts is None or found.boxes is None:
        return []
    return [
        Piece(text, float(box[:, 0].min()), float(box[:, 1].min()), float(box[:, 1].max()))
        for text, box in zip(found.txts, found.boxes, strict=True)
    ]


_reading = threading.Lock()  # the engine is made once, and keeps state between its steps


@cache
def _engine() -> Any:
    """The one engine of this process; to be called and used under `_reading`."""
    import cv2
    from rapidocr import RapidOCR

    cv2.setNumThreads(1)
    return RapidOCR(params=TUNED)


def warm() -> None:
    """Load the models, so that the first person does not wait. Raises ImportError if they are not installed."""
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.new("RGB", (320, 96), "white")
    ImageDraw.Draw(picture).text((16, 24), "Switchyard", "black", font=ImageFont.load_default(size=40))
    _recognised(picture)  # with text in it: the second model loads when the first has found some
