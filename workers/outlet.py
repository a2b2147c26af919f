"""The platform's way out, out of the settings."""

from collections.abc import Callable

from app.channels.dingtalk.api import DingTalkApi
from app.channels.dingtalk.outlet import DingTalkOutlet
from app.settings import Settings

LONGEST_CALL_S = 5.0
SHARE_OF_LEASE = 0.8


def build_outlet(settings: Settings, on_card_call: Callable[[], None] = lambda: None) -> DingTalkOutlet:
    """One for a process. A call is given up before the lease that it is made under would expire unrenewed."""
    api = DingTalkApi(
        openapi=settings.dingtalk_openapi_endpoint,
        oapi=settings.dingtalk_oapi_endpoint,
        client_id=settings.dingtalk_client_id,
        client_secret=settings.dingtalk_client_secret.get_secret_value(),
        calls_per_s=settings.card_calls_per_s,
        read_s=min(LONGEST_CALL_S, SHARE_OF_LEASE * settings.lease_s),
        on_card_call=on_card_call,
    )
    return DingTalkOutlet(
        api, settings.robot_code, settings.dingtalk_card_template_id, settings.dingtalk_card_content_key
    )
