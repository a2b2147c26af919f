"""The name of this machine in a record that several share. It is kept in the data folder, and so survives restarts."""

import contextlib
import os
import uuid
from pathlib import Path

_FILE = "machine"


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
