"""A model that errs or hangs when a test says so, and how its requests end."""

import threading
from typing import Any

from app.errors import SwitchyardError
from workers.engine.interface import Handle, Result


class Breaking:
    """A model whose next forwards raise, as often as it is told, or only those of more than so many tokens."""

    def __init__(self, model: Any, error: BaseException, *, times: int = 10**6, above_tokens: int = 0) -> None:
        self._error, self._left, self._above = error, times, above_tokens
        self._hook = model.base_model.register_forward_pre_hook(self._fail, with_kwargs=True)
        self.raised = 0

    def _fail(self, _: Any, __: Any, given: dict[str, Any]) -> None:
        if self.raised < self._left and given["input_ids"].shape[-1] > self._above:
            self.raised += 1
            raise self._error

    def __enter__(self) -> "Breaking":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()


class Hanging:
    """A model whose forwards do not end before the test lets them."""

    def __init__(self, model: Any) -> None:
        self._hangs, self._free = threading.Event(), threading.Semaphore(0)
        self._hook = model.base_model.register_forward_pre_hook(self._hang)

    def _hang(self, *_: Any) -> None:
        self._hangs.set()
        assert self._free.acquire(timeout=120)

    def wait(self) -> None:
        """Until a step hangs."""
        assert self._hangs.wait(30)

    def next(self) -> None:
        """Let this step end; waits until the one after it hangs."""
        self._hangs.clear()
        self._free.release()
        self.wait()

    def __enter__(self) -> "Hanging":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()
        self._free.release(100)


def outcome(handle: Handle) -> Result | SwitchyardError:
    """How it ended; fails if it does not."""
    try:
        while handle.next_piece(60) is not None:
            pass
        return handle.result()
    except SwitchyardError as exc:
        return exc
