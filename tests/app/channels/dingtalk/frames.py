"""Sample frames of the platform's real shapes (im-protocols, sections 2.3 and 3)."""

import json
import time
from typing import Any

Json = dict[str, Any]
ROBOT_TOPIC = "/v1.0/im/bot/messages/get"


def a_callback(**changes: Any) -> Json:
    """The decoded data of a text message in a group, as it stands in the reference, sent just now."""
    return {
        "conversationId": "cidSAMPLE0001=",
        "conversationType": "2",
        "conversationTitle": "Ops room",
        "atUsers": [{"dingtalkId": "$:LWCP_v1:$botenc=="}, {"dingtalkId": "$:LWCP_v1:$zoe==", "staffId": "staff077"}],
        "isInAtList": True,
        "chatbotCorpId": "dingcorp001",
        "chatbotUserId": "$:LWCP_v1:$botenc==",
        "msgId": "msgSAMPLE0001==",
        "senderId": "$:LWCP_v1:$ann==",
        "senderNick": "Ann",
        "senderStaffId": "staff042",
        "senderCorpId": "dingcorp001",
        "isAdmin": False,
        "senderPlatform": "Mac",
        "createAt": int(time.time() * 1000),
        "sessionWebhook": "https://oapi.dingtalk.com/robot/sendBySession?session=SESS0001",
        "sessionWebhookExpiredTime": 1767005400000,
        "robotCode": "dingsample0001",
        "msgtype": "text",
        "text": {"content": " please summarise the incident"},
        **changes,
    }


def a_frame(
    data: Any = None, *, id: str = "0a1b2c3d_0001_stream", type: str = "CALLBACK", topic: str = ROBOT_TOPIC
) -> str:
    """A downstream frame; `data` becomes a JSON document in a string, as the platform does it."""
    document = data if isinstance(data, str) else json.dumps(a_callback() if data is None else data)
    headers = {"appId": "a1", "contentType": "application/json", "messageId": id, "time": "1767000000123"}
    return json.dumps({"specVersion": "1.0", "type": type, "headers": {**headers, "topic": topic}, "data": document})
