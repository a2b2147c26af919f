"""Which adapters there are, which of them are in memory, and who has them. Safe from any thread.

A request that asks for one keeps it until it ends, whatever becomes of the name meanwhile. Files are read and fitted in
the thread that asks, one adapter at a time, while the engine goes on with everybody else.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.errors import BadAdapter, EngineStopped, EngineUnavailable, RequestRejected
from workers.engine.adapted import AdaptedModel, Adapter
from workers.engine.adapter_files import CONFIG, AdapterFile, read_adapter
from workers.engine.adapter_rules import AdapterRules, AdapterStatus, is_adapter_name
from workers.engine.sequence import Sequence

log = logging.getLogger(__name__)

FILE_SHARE = 2  # a file is at most so many times the memory for adapters: float32 for a model in half precision
FULL_PAUSE_S = 1.0


class Adapters:
    """The adapters of one engine. `served` and `trial`: see `AdaptedModel`."""

    def __init__(self, served: Any, trial: Callable[[Any], object], rules: AdapterRules | None = None) -> None:
        self._served, self._trial = served, trial
        self._rules = rules or AdapterRules()
        self._loading = threading.Lock()  # held while a file is read, before the next one; guards the next two
        self._host: AdaptedModel | None = None  # made for the first adapter
        self._dropped: set[str] = set()  # names in the folder that were dropped
        self._state = threading.Lock()  # held for moments; guards all below
        self._folders: dict[str, Path] = {}  # of those that were loaded: one that was let go of is loaded again
        self._ready: dict[str, Adapter] = {}  # in memory, the one that was asked for last is last
        self._retired: set[Adapter] = set()  # without a name, but somebody has them
        self._closed = False

    def load(self, name: str, folder: Path) -> None:
        """Read an adapter; it takes the place of one of the same name for new requests.

        Raises:
            BadAdapter: the name is none, or the folder's files are not run with this model.
            EngineUnavailable: there is no room: all that are in memory are in use.
        """
        if not is_adapter_name(name):
            raise BadAdapter("an adapter's name is of letters, digits, _, - and ., at most 64")
        with self._loading:
            self._load(name, folder)
            self._dropped.discard(name)

    def load_all(self) -> None:
        """Read those of the rules' folder, by name, until the memory is full. A bad one is logged and left out."""
        for folder in self._in_folder():
            if not self._may_fit(folder):
                return
            try:
                self.load(folder.name, folder)
            except BadAdapter as exc:
                log.error("adapter left out", extra={"adapter": folder.name, "reason": str(exc)})

    def drop(self, name: str) -> None:
        """No new request gets it; who has it keeps it. Raises BadAdapter if there is none of this name."""
        with self._loading:
            if self._folder_of(name) is None:
                raise BadAdapter("there is no adapter of this name")
            self._dropped.add(name)
            with self._state:
                self._folders.pop(name, None)
                self._retire(name)

    def status(self) -> tuple[AdapterStatus, ...]:
        """Those that a request may name, by name."""
        with self._loading:
            there = {folder.name for folder in self._in_folder()} - self._dropped
            with self._state:
                ready = dict(self._ready)
                names = sorted(there | set(self._folders))
        return tuple(
            AdapterStatus(
                name=name, loaded=one is not None, bytes=one.bytes if one else 0, running=one.users if one else 0
            )
            for name, one in ((name, ready.get(name)) for name in names)
        )

    def lend(self, sequence: Sequence) -> None:
        """Give a new sequence the adapter that its request names, if any; it is loaded if it is not in memory.

        Raises:
            RequestRejected: there is none of this name, or it is not run with this model.
            EngineUnavailable: there is no room to load it now.
            EngineStopped: the engine was closed.
        """
        name = sequence.request.adapter
        if name is None or self._lend(name, sequence):
            return
        with self._loading:
            if self._lend(name, sequence):  # somebody else asked for it a moment before
                return
            folder = self._folder_of(name)
            if folder is None:
                raise RequestRejected("adapter: there is none of this name")
            try:
                self._load(name, folder)
            except BadAdapter as exc:
                log.error("adapter cannot be loaded", extra={"adapter": name, "reason": str(exc)})
                raise RequestRejected("adapter: it cannot be loaded; the log says why") from exc
            self._lend(name, sequence)

    def give_back(self, sequence: Sequence) -> None:
        """The sequence has ended. Nothing happens if it has none, or gave it back."""
        adapter, sequence.adapter = sequence.adapter, None
        if adapter is not None:
            with self._state:
                adapter.users -= 1
                if not adapter.users:
                    self._retired.discard(adapter)

    def close(self) -> None:
        """Let go of everything; nothing is lent from now on."""
        with self._state:
            self._closed = True
            self._ready, self._folders, self._retired = {}, {}, set()
        with self._loading:
            self._host = self._served = None

    def _lend(self, name: str, sequence: Sequence) -> bool:
        with self._state:
            if self._closed:
                raise EngineStopped("the engine was closed")
            adapter = self._ready.pop(name, None)
            if adapter is None:
                return False
            self._ready[name] = adapter  # the last one now
            adapter.users += 1
        sequence.adapter, sequence.kind = adapter, adapter.kind
        return True

    def _load(self, name: str, folder: Path) -> None:
        """Only with `_loading`."""
        file = read_adapter(folder, most_bytes=FILE_SHARE * self._rules.most_bytes)
        host = self._host = self._host or self._new_host()
        host.check(file)
        with self._state:
            self._make_room(name, host.bytes_of(file))
        adapter = _fitted(host, name, file)
        with self._state:
            if not self._closed:
                self._retire(name)
                self._ready[name], self._folders[name] = adapter, folder

    def _new_host(self) -> AdaptedModel:
        if self._served is None:
            raise EngineStopped("the engine was closed")
        try:
            return AdaptedModel(self._served, self._trial)
        except (TypeError, ValueError, AttributeError, RuntimeError) as exc:
            raise BadAdapter(f"the engine cannot run this model with adapters: {exc}") from exc

    def _make_room(self, name: str, wanted_bytes: int) -> None:
        """Let go of adapters without requests, first one of this name, then those that nobody asked for the longest.

        Only with `_state`. Raises BadAdapter, EngineUnavailable.
        """
        if wanted_bytes > self._rules.most_bytes:
            raise BadAdapter(f"it takes {wanted_bytes} bytes, adapters may have {self._rules.most_bytes}")
        idle = sorted((one for one in self._ready.values() if not one.users), key=lambda one: one.name != name)
        if not self._has_room(wanted_bytes, without=idle):
            raise EngineUnavailable("adapters: all that are in memory are in use", retry_after_s=FULL_PAUSE_S)
        for one in idle:
            if self._has_room(wanted_bytes):
                return
            del self._ready[one.name]

    def _has_room(self, wanted_bytes: int, *, without: "list[Adapter] | None" = None) -> bool:
        held = [one for one in (*self._ready.values(), *self._retired) if one not in (without or ())]
        return len(held) < self._rules.most and sum(one.bytes for one in held) + wanted_bytes <= self._rules.most_bytes

    def _retire(self, name: str) -> None:
        """Take away its name, if it is in memory. Only with `_state`."""
        adapter = self._ready.pop(name, None)
        if adapter is not None and adapter.users:
            self._retired.add(adapter)

    def _may_fit(self, folder: Path) -> bool:
        with self._state:
            try:
                size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
            except OSError:
                return True  # reading it says what is wrong
            return self._has_room(size)

    def _folder_of(self, name: str) -> Path | None:
        """Where it can be read from. Only with `_loading`."""
        with self._state:
            known = self._folders.get(name)
        if known is not None or name in self._dropped or not is_adapter_name(name):
            return known
        return next((folder for folder in self._in_folder() if folder.name == name), None)

    def _in_folder(self) -> Iterator[Path]:
        """The adapters of the rules' folder, by name. Raises nothing: the folder may be gone for a moment."""
        root = self._rules.folder
        try:
            folders = sorted(root.iterdir()) if root else []
        except OSError as exc:
            log.error("adapters' folder cannot be read", extra={"error": type(exc).__name__})
            return
        yield from (each for each in folders if is_adapter_name(each.name) and (each / CONFIG).is_file())


def _fitted(host: AdaptedModel, name: str, file: AdapterFile) -> Adapter:
    try:
        return host.fit(name, file)
    except RuntimeError as exc:  # such as a device without memory
        raise BadAdapter(f"it cannot be put on the device: {type(exc).__name__}") from exc
