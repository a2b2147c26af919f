"""The platform's way out, out of the settings."""

from collections.abc import Callable

from app.channels.dingtalk.api import DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.settings import Settings

READ_S = 5.0  # the platform's own gateway gives up after three
CALL_S = 2 * READ_S + 0.5  # a whole call, with a moment for the mark behind it


def build_outlet(settings: Settings, on_card_call: Callable[[], None] = lambda: None) -> DingTalkOutlet:
    """One for a process. The lease under which a call is made is renewed while it runs."""
    api = DingTalkApi(
        openapi=settings.dingtalk_openapi_endpoint,
        oapi=settings.dingtalk_oapi_endpoint,
        client_id=settings.dingtalk_client_id,
        client_secret=settings.dingtalk_client_secret.get_secret_value(),
        calls_per_s=settings.card_calls_per_s,
        read_s=READ_S,
        on_card_call=on_card_call,
    )
    return DingTalkOutlet(
        api, settings.robot_code, settings.dingtalk_card_template_id, settings.dingtalk_card_content_key
    )
