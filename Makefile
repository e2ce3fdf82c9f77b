PYTHON ?= python3
BIN = .venv/bin
OUT ?= demo
SEED ?= 0
TASK ?= brats_gli
MINUTES ?= 60
QUICK = $(addprefix tests/,losses wavelets networks metrics handlers test_distiller.py test_inferers.py test_distillation_schedules.py)
BOUNDS = $(addprefix tests/,losses wavelets networks handlers test_distiller.py test_inferers.py bundles/test_modes.py)

.PHONY: demo configs test quick-test test-gpu soak test-label test-nnunet test-bounds lint

demo: .venv/ready
	$(BIN)/dcd demo --out $(OUT) --seed $(SEED) --task $(TASK) $(if $(DATA),--dataset_dir "$(DATA)")

# Writes what stands in several configs into each of them.
configs: .venv/ready
	$(BIN)/python -c 'from dcd_components.bundle import assemble; print(*assemble.write_configs(), sep=chr(10))'

# Two workers of one thread each: most tests run one program after another, which leaves a second core idle. One that
# crashes ends the run, which would otherwise wait for its tests for ever. Files are begun in the order of conftest.py,
# not of their number of tests, by which long ones of few tests would be the last.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# About a minute: the mathematics and the handlers, without trainings, networks of real size, and the linters.
quick-test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(QUICK)

# On a machine with an NVIDIA GPU, in whose .venv torch has been exchanged for a build for it.
test-gpu: .venv/ready
	$(BIN)/python -m pytest -m gpu tests/gpu

# Kills and resumes at random moments, hundreds of inferences, memory and open files over time.
soak: .venv/ready
	$(BIN)/python tests/soak/soak.py --out $(or $(filter-out demo,$(OUT)),soak) --minutes $(MINUTES)

test-label: .venv-label/ready
	$(BIN)/python -m pytest tests/label

# From nnU-Net to nnU-Net, with nnU-Net's own programs.
test-nnunet: .venv-nnunet/ready
	OMP_NUM_THREADS=1 .venv-nnunet/bin/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 tests/nnunet

# The oldest versions that pass. Not part of continuous integration: torch's old builds, for GPUs, are 6 GB large.
test-bounds: .venv-bounds/ready
	OMP_NUM_THREADS=1 .venv-bounds/bin/python -m pytest --override-ini filterwarnings=default $(BOUNDS)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/codespell

# torch is installed before the rest, which would otherwise bring a build for GPUs. So would what nnU-Net's networks ask
# for, timm and by it torchvision, without need: they are installed by themselves.
.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet "$$(grep '^torch==' requirements.txt)"
	$(BIN)/pip install --quiet --requirement requirements.txt
	$(BIN)/pip install --quiet --no-deps dynamic-network-architectures==0.4.4
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv-bounds/ready: tests/bounds/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv-bounds
	.venv-bounds/bin/pip install --quiet --requirement tests/bounds/requirements.txt
	.venv-bounds/bin/pip install --quiet --no-deps --editable .
	touch $@

# MONAI Label's server and nnU-Net see the project's packages, but not the project itself, which is installed by a link.
SITE = -c "import sysconfig; print(sysconfig.get_path('purelib'))"
.venv-label/ready: .venv/ready tests/label/requirements.txt
	$(PYTHON) -m venv .venv-label
	$(BIN)/python $(SITE) > "$$(.venv-label/bin/python $(SITE))/project.pth"
	.venv-label/bin/pip install --quiet --no-deps --requirement tests/label/requirements.txt
	touch $@

.venv-nnunet/ready: .venv/ready tests/nnunet/requirements.txt
	$(PYTHON) -m venv .venv-nnunet
	$(BIN)/python $(SITE) > "$$(.venv-nnunet/bin/python $(SITE))/project.pth"
	.venv-nnunet/bin/pip install --quiet --no-deps --requirement tests/nnunet/requirements.txt
	touch $@
