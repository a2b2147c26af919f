"""Celery's settings. A message is a hint, the mailbox is the record: early ack, no results, nothing prefetched.

The broker's address is set by app/queue.py. Reasons and measurements: `docs/delivery.md`.
"""

from kombu import Queue

QUEUES = ("text", "image", "default", "send")

task_queues = [Queue(name, routing_key=name, durable=True) for name in QUEUES]
task_default_queue = "default"
task_create_missing_queues = False  # after a reconnect a worker must not consume what it was not asked to
task_serializer = "json"
accept_content = ["json"]
result_backend = None
result_backend_thread_safe = True  # else each new thread looks for one in every package, longer than a short turn takes
task_ignore_result = True
task_store_errors_even_if_ignored = False
task_acks_late = False  # late acks ran every task in flight again after a connection reset
task_reject_on_worker_lost = False
worker_prefetch_multiplier = 1
worker_disable_prefetch = True  # a worker that is killed takes no waiting wake-ups with it (Redis protocol only)
worker_send_task_events = False
task_send_sent_event = False
worker_enable_remote_control = True
worker_hijack_root_logger = False
worker_redirect_stdouts = False
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
task_publish_retry = False  # the sweeper is the retry
broker_transport_options = {
    "socket_timeout": 5,
    "socket_connect_timeout": 2,
    "socket_keepalive": True,
    "health_check_interval": 25,
    "visibility_timeout": 3600,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
}
