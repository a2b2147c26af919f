"""For `switchyard doctor`: whether the servers of the engine `openai` answer, and have the model."""

import ssl
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from app.channels.dingtalk.exchange import Unread, read
from app.finding import Finding
from app.settings import Settings

_PATIENCE_S = 5.0
_LIST_BYTES = 4_000_000
_NAMES_SHOWN = 5
_EXACT = ("vllm", "sglang")  # whose list holds all that they serve; others load a model when it is asked for


def model_servers(settings: Settings) -> Iterator[Finding]:
    """One finding a server."""
    key = settings.openai_api_key.get_secret_value()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        trusted = _trusted(settings)
    except (OSError, ssl.SSLError):
        says, mend = f"{settings.openai_ca_file} holds no certificates in PEM form", "correct SWITCHYARD_OPENAI_CA_FILE"
        yield Finding("model servers", "fault", says, mend)
        return
    with httpx.Client(verify=trusted, trust_env=False, timeout=_PATIENCE_S, headers=headers) as http:
        for url in settings.openai_base_urls:
            yield _looked_at(http, url.rstrip("/"), settings.model)


def _trusted(settings: Settings) -> ssl.SSLContext:
    if settings.openai_ca_file is not None:
        return ssl.create_default_context(cafile=str(settings.openai_ca_file))
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    return context


def _looked_at(http: httpx.Client, url: str, model: str) -> Finding:
    check = f"model server {urlsplit(url).netloc}"
    try:
        with http.stream("GET", f"{url}/models") as response:
            content = read(response, limit_bytes=_LIST_BYTES, ends_at=time.monotonic() + _PATIENCE_S)
    except (httpx.HTTPError, Unread) as exc:
        if "CERTIFICATE_VERIFY_FAILED" in str(exc):
            return Finding(check, "fault", "its certificate is not trusted", "set SWITCHYARD_OPENAI_CA_FILE")
        mend = "start it, or correct SWITCHYARD_OPENAI_BASE_URLS"
        return Finding(check, "fault", f"does not answer ({type(exc).__name__})", mend)
    if response.status_code in (401, 403):
        return Finding(check, "fault", f"refuses the key ({response.status_code})", "set SWITCHYARD_OPENAI_API_KEY")
    if response.status_code != 200:
        mend = "see that SWITCHYARD_OPENAI_BASE_URLS ends as the server says, mostly in /v1"
        return Finding(check, "warning", f"answers, but lists no models ({response.status_code})", mend)
    return _listed(check, _entries(content), model)


def _listed(check: str, entries: list[dict[str, Any]], model: str) -> Finding:
    names = sorted(str(entry.get("id")) for entry in entries)
    if model in names:
        return Finding(check, "ok", f"answers and has {model}")
    has = f"has {', '.join(names[:_NAMES_SHOWN])}" if names else "lists no models"
    exact = bool(entries) and all(entry.get("owned_by") in _EXACT for entry in entries)
    mend = "set SWITCHYARD_MODEL to a name that the server lists"
    return Finding(check, "fault" if exact else "warning", f"answers, but {has}, not {model}", mend)


def _entries(content: bytes) -> list[dict[str, Any]]:
    """The models in an answer; none if it is no list."""
    try:
        body = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError):
        return []
    listed = body.get("data") if isinstance(body, dict) else None
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
