"""`transformers serve` on localhost: `python -m tests.workers.engine.openai.transformers_serve MODEL PORT`.

It asks `accelerate` for a device; without it, it names none, which is the CPU.
"""

import sys

from transformers.cli.serve import Serve
from transformers.cli.serving.model_manager import ModelManager


def main() -> None:
    ModelManager.device = property(lambda self: None, lambda self, device: None)
    Serve(force_model=sys.argv[1], device="cpu", dtype="float32", host="127.0.0.1", port=int(sys.argv[2]))


if __name__ == "__main__":
    main()
