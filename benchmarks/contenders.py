"""Ways to answer many requests with one model: each takes tasks, and notes the answer and the times of every one.

What makes batches runs them one after another. What batches continuously has a thread of its own; `_drive` hands it
each task when its time has come.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.requests import Clock, Noted, Task
from workers.engine.interface import Handle, Request, Result

if TYPE_CHECKING:
    from workers.engine.loading import Loaded

COLLECT, COLLECT_S = 8, 0.05  # what a task that gathers its messages into batches does
CB_REQUESTS, CB_TOKENS, CB_PAGE, CB_PAGES = 16, 512, 32, 256  # more requests bring it nothing on a CPU
POLL_S = 0.005

Contender = Callable[["Loaded", Sequence[Task]], list[Noted]]


def contenders(slots: int) -> dict[str, Contender]:
    """All by name; ours first."""
    return {
        "slots": partial(our_engine, make=partial(_our_slots, slots=slots)),
        "paged": partial(our_engine, make=partial(_our_paged, slots=CB_REQUESTS)),
        "transformers' batching": transformers_batching,
        "static 48": partial(in_batches, size=48),
        "static 16": partial(in_batches, size=16),
        "static 8": partial(in_batches, size=8),
        "collect": partial(in_batches, size=COLLECT, wait_s=COLLECT_S),
        "generate()": partial(in_batches, size=1),
    }


def in_batches(loaded: "Loaded", tasks: Sequence[Task], *, size: int, wait_s: float = 0.0) -> list[Noted]:
    """`generate()` on up to `size` tasks in the order of arrival; a smaller batch waits `wait_s` for more.

    A batch runs until its longest answer is done.
    """
    clock, noted = Clock(), [Noted() for _ in tasks]
    begin = 0
    while begin < len(tasks):
        clock.skip_to(tasks[begin].at_s)
        full_s = tasks[begin + size - 1].at_s if begin + size <= len(tasks) else float("inf")
        clock.skip_to(min(full_s, clock.now() + wait_s))
        here = [task for task in tasks[begin : begin + size] if task.at_s <= clock.now()]
        _run_batch(loaded.model, here, noted[begin : begin + len(here)], clock)
        begin += len(here)
    return noted


def _run_batch(model: Any, tasks: Sequence[Task], noted: Sequence[Noted], clock: Clock) -> None:
    """Left-padded, greedy, without an end token; each answer cut to what was asked for."""
    import torch

    width = max(len(task.prompt) for task in tasks)
    ids = torch.tensor([[0] * (width - len(task.prompt)) + task.prompt for task in tasks])
    mask = torch.tensor([[0] * (width - len(task.prompt)) + [1] * len(task.prompt) for task in tasks])
    firsts: list[float] = []

    def note(_: Any, scores: Any) -> Any:
        if not firsts:
            firsts.append(clock.now())
        return scores

    with torch.inference_mode():
        found = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=max(task.new for task in tasks),
            do_sample=False,
            pad_token_id=0,
            logits_processor=[note],
        )
    for row, task, one in zip(found.tolist(), tasks, noted, strict=True):
        one.answer = row[width : width + task.new]
        one.first_s, one.end_s = firsts[0] - task.at_s, clock.now() - task.at_s


def our_engine(loaded: "Loaded", tasks: Sequence[Task], *, make: Callable[["Loaded", int], Any]) -> list[Noted]:
    """One of our engines: a request joins when a slot is free and leaves when it is done."""
    engine = make(loaded, max(len(task.prompt) + task.new for task in tasks) + 1)
    clock = Clock()
    handles = [_Noting(task, clock) for task in tasks]
    running: list[Any] = []

    def submit(number: int) -> None:
        task = tasks[number]
        request = Request(messages=(), max_new_tokens=task.new)
        running.append(engine.start(task.prompt, request, handles[number]))

    def wait() -> int:
        time.sleep(POLL_S)
        return sum(handle.ended for handle in handles)

    try:
        _drive(tasks, clock, submit, wait)
        for handle, sequence in zip(handles, running, strict=True):
            handle.result()  # raises what went wrong
            handle.noted.answer = sequence.new
    finally:
        engine.close()
    return [handle.noted for handle in handles]


def _our_slots(loaded: "Loaded", max_tokens: int, *, slots: int) -> Any:
    from workers.engine.slots import SlotsEngine

    return SlotsEngine(loaded, slots=slots, max_tokens=max_tokens, threads=1)


def _our_paged(loaded: "Loaded", max_tokens: int, *, slots: int) -> Any:
    from workers.engine.paged import PagedEngine

    return PagedEngine(loaded, slots=slots, max_tokens=max_tokens)


class _Noting(Handle):
    """Notes when the first text and the end came."""

    def __init__(self, task: Task, clock: Clock) -> None:
        super().__init__()
        self.noted, self.ended = Noted(), False
        self._task, self._clock = task, clock

    def emit(self, piece: str) -> None:
        self.noted.first_s = self.noted.first_s or self._clock.now() - self._task.at_s
        super().emit(piece)

    def finish(self, result: Result) -> None:
        super().finish(result)
        self._note_end()

    def fail(self, error: Any) -> None:
        super().fail(error)
        self._note_end()

    def _note_end(self) -> None:
        self.noted.end_s = self._clock.now() - self._task.at_s
        self.noted.first_s = self.noted.first_s or self.noted.end_s
        self.ended = True


def transformers_batching(loaded: "Loaded", tasks: Sequence[Task]) -> list[Noted]:
    """The continuous batching of transformers. Raises RuntimeError if it stops on the way."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    manager = loaded.model.init_continuous_batching(
        generation_config=GenerationConfig(max_new_tokens=max(task.new for task in tasks), do_sample=False),
        continuous_batching_config=ContinuousBatchingConfig(
            page_size=CB_PAGE, num_blocks=CB_PAGES, max_batch_tokens=CB_TOKENS, max_requests_per_batch=CB_REQUESTS
        ),
    )
    manager.start()
    clock, noted = Clock(), [Noted() for _ in tasks]
    ended: set[str] = set()

    def submit(number: int) -> None:
        task = tasks[number]
        manager.add_request(
            task.prompt, request_id=str(number), max_new_tokens=task.new, streaming=True, eos_token_id=-1
        )

    def wait() -> int:
        if (output := manager.get_result(timeout=POLL_S)) is not None:
            one, task = noted[int(output.request_id)], tasks[int(output.request_id)]
            one.first_s = one.first_s or clock.now() - task.at_s
            if output.is_finished():
                one.answer, one.end_s = list(output.generated_tokens), clock.now() - task.at_s
                ended.add(output.request_id)
        elif not manager.is_running():
            raise RuntimeError("transformers' continuous batching stopped")
        return len(ended)

    try:
        _drive(tasks, clock, submit, wait)
    finally:
        manager.stop(block=True, timeout=60)
        loaded.model.set_attn_implementation("sdpa")
    return noted


def _drive(tasks: Sequence[Task], clock: Clock, submit: Callable[[int], None], wait: Callable[[], int]) -> None:
    """Submit each task when its time has come; `wait` waits a little and says how many have ended."""
    submitted = ended = 0
    while ended < len(tasks):
        if ended == submitted:  # nothing runs
            clock.skip_to(tasks[submitted].at_s)
        while submitted < len(tasks) and tasks[submitted].at_s <= clock.now():
            submit(submitted)
            submitted += 1
        ended = wait()
