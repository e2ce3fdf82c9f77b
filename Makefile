PYTHON ?= python3
BIN = .venv/bin
OUT ?= demo
SEED ?= 0
TASK ?= brats_gli

# Idle threads wait without spinning: where the cores are shared with other programs, that is several times faster.
export OMP_WAIT_POLICY = PASSIVE

.PHONY: demo test lint

demo: .venv/ready
	$(BIN)/python -m dcd_components demo --out $(OUT) --seed $(SEED) --task $(TASK)

test: lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# torch is installed before the rest, which would otherwise bring a build for GPUs.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@
