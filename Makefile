PYTHON ?= python3
BIN = .venv/bin
OUT ?= demo
SEED ?= 0
TASK ?= brats_gli

# Idle threads spin for a moment only: alone a step is a fifth faster than without, and on cores that other programs use
# too it is several times faster than with the default. Freed memory is kept: to get it anew costs a tenth of a step.
export GOMP_SPINCOUNT ?= 1000
export GLIBC_TUNABLES ?= glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296:glibc.malloc.top_pad=268435456

.PHONY: demo test test-label lint

demo: .venv/ready
	$(BIN)/python -m dcd_components demo --out $(OUT) --seed $(SEED) --task $(TASK)

# Two workers of one thread each: most tests run one program after another, which leaves a second core idle.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-label: .venv-label/ready
	$(BIN)/python -m pytest tests/label

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

# torch is installed before the rest, which would otherwise bring a build for GPUs.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

# MONAI Label's server sees the project's packages, but not the project itself, which is installed by a link.
SITE = -c "import sysconfig; print(sysconfig.get_path('purelib'))"
.venv-label/ready: .venv/ready tests/label/requirements.txt
	$(PYTHON) -m venv .venv-label
	$(BIN)/python $(SITE) > "$$(.venv-label/bin/python $(SITE))/project.pth"
	.venv-label/bin/pip install --quiet --no-deps --requirement tests/label/requirements.txt
	touch $@
