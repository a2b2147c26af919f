"""The app's access token: fetched once for all threads, refreshed early, dropped when the platform refuses it.

Source: im-protocols, section 4.2.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Any

from app.errors import OutcomeUnknown, PlatformBusy

EARLY_S = 300.0  # refreshed so long before it ends, or at half of a short life


class AccessToken:
    """Keeps one token. `fetch` asks the platform for another one and returns its answer."""

    def __init__(self, fetch: Callable[[], Mapping[str, Any]], monotonic: Callable[[], float]) -> None:
        self._fetch = fetch
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._value = ""
        self._good_until = 0.0
        self._failure: PlatformBusy | None = None
        self._failed_at = 0.0

    def get(self) -> str:
        """A token that is good for a while. One thread fetches, the others wait for what it gets.

        Raises:
            PlatformBusy: there is none at present; the call that needs it was not made.
            PlatformRefused: the platform gives us none; the credentials are wrong.
        """
        asked_at = self._monotonic()
        with self._lock:
            if self._value and self._monotonic() < self._good_until:
                return self._value
            if self._failure and self._failed_at >= asked_at:  # it failed while we waited for it
                raise PlatformBusy(str(self._failure), retry_after_s=self._failure.retry_after_s)
            try:
                self._renew()
            except (OutcomeUnknown, PlatformBusy) as exc:
                wait_s = exc.retry_after_s if isinstance(exc, PlatformBusy) else 1.0
                self._failure, self._failed_at = PlatformBusy(f"token: {exc}", retry_after_s=wait_s), self._monotonic()
                raise self._failure from exc
            return self._value

    def drop(self, value: str) -> None:
        """Forget a token that the platform refused, unless another thread has replaced it."""
        with self._lock:
            if self._value == value:
                self._value = ""

    def _renew(self) -> None:
        answer = self._fetch()
        value, life_s = answer.get("accessToken"), answer.get("expireIn")
        if not isinstance(value, str) or not value or not isinstance(life_s, int | float):
            raise OutcomeUnknown("an answer without accessToken and expireIn")
        self._value = value
        self._good_until = self._monotonic() + life_s - min(EARLY_S, life_s / 2)
