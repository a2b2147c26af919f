"""Pictures and files: what people sent, by download code, and what the robot uploaded, by media id."""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from sandbox.bounded import Bounded
from sandbox.journal import Journal
from sandbox.refusal import Refused, bad_param, old_error

Json = dict[str, Any]

UPLOAD_BYTES = {"image": 20 << 20, "voice": 2 << 20, "video": 20 << 20, "file": 20 << 20}
_NAME = re.compile(rb'name="([^"]*)"')


class Files:
    """Bytes behind codes. `base_url` is where the temporary addresses point."""

    def __init__(self, journal: Journal, base_url: str, robot_code: str) -> None:
        self._journal = journal
        self._base_url = base_url
        self._robot_code = robot_code
        self._sent: Bounded[str, bytes] = Bounded(2_000)
        self._links: Bounded[str, str] = Bounded(20_000)
        self.uploads: Bounded[str, bytes] = Bounded(2_000)

    def keep(self, content: bytes) -> str:
        """Keep what a person sent; the download code under which the robot asks for it."""
        code = f"DC-{uuid.uuid4().hex}"
        self._sent[code] = content
        return code

    def link(self, body: Json) -> Json:
        """POST /v1.0/robot/messageFiles/download: a temporary address that needs no token."""
        if body.get("robotCode") != self._robot_code:
            raise bad_param("invalidParameter.robotCode.empty")
        code = str(body.get("downloadCode", "")).removeprefix("P")
        if code not in self._sent:
            raise bad_param("invalidParameter.downloadCode.invalid", "downloadCode")
        link = uuid.uuid4().hex
        self._links[link] = code
        self._journal.add("downloaded", downloadCode=code, stage="link")
        return {"downloadUrl": f"{self._base_url}/files/{link}?sig=1"}

    def fetch(self, link: str) -> bytes:
        """GET of such an address."""
        code = self._links.get(link, "")
        if code not in self._sent:
            raise Refused(404, "NotFound")
        self._journal.add("downloaded", downloadCode=code, stage="file")
        return self._sent[code]

    def upload(self, kind: str, content: bytes | None, clock: Callable[[], float] = time.time) -> Json:
        """POST /media/upload."""
        if kind not in UPLOAD_BYTES:
            raise old_error(40004, "不合法的媒体文件类型")
        if not content or len(content) > UPLOAD_BYTES[kind]:
            raise old_error(40006, "不合法的文件大小")
        media_id = f"@lAL{uuid.uuid4().hex}"
        self.uploads[media_id] = content
        self._journal.add("uploaded", mediaId=media_id, type=kind, bytes=len(content))
        return {"errcode": 0, "errmsg": "ok", "media_id": media_id, "type": kind, "created_at": int(clock())}

    def clear(self) -> None:
        """Forget all files."""
        self._sent.clear()
        self._links.clear()
        self.uploads.clear()


def multipart(content_type: str, body: bytes) -> dict[str, bytes]:
    """The parts of a multipart/form-data body by name; empty if it is none."""
    _, found, boundary = content_type.partition("boundary=")
    if not found:
        return {}
    parts: dict[str, bytes] = {}
    for part in body.split(b"--" + boundary.split(";")[0].strip().strip('"').encode()):
        head, _, content = part.partition(b"\r\n\r\n")
        if name := _NAME.search(head):
            parts[name.group(1).decode("utf-8", "replace")] = content.removesuffix(b"\r\n")
    return parts
