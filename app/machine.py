"""The names of this machine and of its workers in a record that several share. The machine's is kept in the data
folder, and so survives restarts.
"""

import contextlib
import os
import socket
import uuid
from pathlib import Path

_FILE = "machine"
_SHOWN = 8  # of the machine's name, where people read it
_OURS = "switchyard"  # the host in the names that Celery has from the supervisor: it starts them all alike


def machine_name(data_dir: Path) -> str:
    """The name, made at the first call; processes that call at the same time agree on one."""
    file = data_dir / _FILE
    with contextlib.suppress(FileNotFoundError):
        return file.read_text()
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = data_dir / f"{_FILE}.{uuid.uuid4().hex}"
    with draft.open("w") as new:
        new.write(uuid.uuid4().hex)
        new.flush()
        os.fsync(new.fileno())  # a name that a power cut left empty would be everybody's
    with contextlib.suppress(FileExistsError):  # somebody was quicker: theirs is the name
        os.link(draft, file)
    draft.unlink()
    return file.read_text()


def worker_name(node: str, data_dir: Path) -> str:
    """A worker's name, which its successor in the same place has too: text1@1f0c9a7e.

    `node`: Celery's own name for it, as after `-n`. One that nobody's supervisor gave keeps its host.
    """
    place, _, host = node.partition("@")
    if host != _OURS:
        return node
    try:
        return f"{place}@{machine_name(data_dir)[:_SHOWN]}"
    except OSError:  # a name is nothing to fail for: this folder cannot be written, and nothing else needs it here
        return f"{place}@{socket.gethostname()}"
