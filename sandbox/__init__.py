"""A DingTalk on localhost: gateway, cards, webhooks, files, quotas and faults, for tests, demos and bot developers.

It speaks the platform's own protocol, listens on 127.0.0.1 only and knows nothing of the system that it serves.
Read `gateway.py` for the WebSocket side, `door.py` for the HTTP side and `control.py` for what a test may ask.
"""
