# Each target sets up .venv by itself. PYTHON=python3.12 make test  uses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STUDY ?= digits
# Processes that run tests, of one thread each: twice two cores, since tests that wait for Ray leave a core idle.
LANES ?= 4
# The lanes, and the commands that tests start, share compiled files, also where an image turns them off. Ray's workers
# have no lower priority than the other lanes' work, beside which they would hardly run.
TEST = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= RAY_worker_niceness=0 $(BIN)/python -m pytest -n $(LANES)
STARTS_NOTHING := not (ray or cluster or server or browser or exhaustive)

.PHONY: sweep ui test test-fast exhaustive test-bare test-lowest test-newest constraints check bench torture test-hosts gpu-check test-slurm studies-smoke results results-long clean
.DELETE_ON_ERROR:

sweep: $(VENV)/installed  ## run the built-in study digits (STUDY=... runs another)
	$(BIN)/python -m sweep run $(STUDY)

ui: $(VENV)/installed  ## serve the MLflow UI of what was run
	$(BIN)/python -m sweep ui $(STUDY)

test: $(VENV)/installed-dev  ## the test suite: some 10 minutes on two cores
	$(TEST) -m "not exhaustive"

test-fast: $(VENV)/installed-dev  ## the tests that start no Ray, server or browser: under two minutes
	$(TEST) -m "$(STARTS_NOTHING) and not slow"

exhaustive: LANES := 2
exhaustive: $(VENV)/installed-dev  ## what repeats a test over all storages and moments; last, what wants the machine for itself
	$(TEST) -m "exhaustive and not hosts and not alone"
	$(TEST) -n 0 -m "alone"

test-hosts: $(VENV)/installed-dev  ## separate hosts on this machine, whose network falls silent; root, Linux, nftables, iproute2, PostgreSQL
	$(BIN)/python -m pytest -m "hosts and not slow"

test-bare: $(VENV)/installed-dev  ## the tests that start nothing, on a machine that has nothing
	empty=$$(mktemp -d) && env -i HOME="$$empty" PATH="$$PATH" SWEEP_DATA="$$empty" $(TEST) -m "$(STARTS_NOTHING)"

test-lowest: RESOLUTION := lowest-direct
test-newest: RESOLUTION := highest
test-lowest test-newest: $(VENV)/installed-dev  ## the suite with the lowest, or the newest, versions that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/$@
	$(BIN)/uv pip install --quiet --python $(VENV)/$@ --resolution $(RESOLUTION) --editable '.[test]'
	OMP_NUM_THREADS=1 $(VENV)/$@/bin/python -m pytest -n $(LANES) -m "not exhaustive"

constraints: $(VENV)/installed-dev  ## write cluster/constraints.txt anew: the versions of the image, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --python-version 3.11 --python-platform linux \
		--extra cluster --extra postgres --extra s3 --custom-compile-command "make constraints" \
		--output-file cluster/constraints.txt pyproject.toml

check: $(VENV)/installed-dev  ## lint, format, types, imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/installed-dev  ## what is measured rather than asserted; wants a quiet machine
	$(BIN)/python -m tests.benchmarks

studies-smoke: $(VENV)/installed  ## six short trials of each study on real images; SWEEP_DATA holds CIFAR-10, camvid, hymenoptera_data
	rm -rf results/smoke
	for study in hymenoptera-resnet camvid-unet cifar10-resnet; do \
		$(BIN)/python -m sweep run $$study --workspace results/smoke --trials 6 \
			--set training.max_epochs=3 --set search.finalists.top=0 || exit 1; \
	done

results: $(VENV)/installed  ## what losses/RESULTS.md lacks: does guidance help; hours on two cores, goes on where it was; SWEEP_DATA holds MNIST, CIFAR-10
	$(BIN)/python -m tests.evidence

results-long: $(VENV)/installed  ## the same on all of the data with more pairs; for a machine with a GPU
	$(BIN)/python -m tests.evidence --long

torture: $(VENV)/installed-dev  ## kill drivers, workers, nodes and the tracking server 200 times; 30,000 inputs; cut hosts off: hours
	$(BIN)/python -m tests.torture.half_made
	$(BIN)/python -m tests.torture
	for kind in generator callback script; do $(BIN)/python -m tests.torture --kind $$kind --kills 40 || exit 1; done
	FUNCTION_KILLS=20 $(BIN)/python -m pytest tests/service/test_killed_functions.py -m exhaustive --timeout 7200
	FUZZ_INPUTS=7500 DAMAGE_ROUNDS=3000 $(BIN)/python -m pytest tests/config/test_fuzz.py tests/service/maintenance/test_damaged.py --timeout 7200
	$(BIN)/python -m pytest -m hosts
	$(BIN)/python -m tests.torture.partitions

gpu-check: $(VENV)/installed-dev  ## what only a GPU shows: placement, bfloat16, shares of memory, DDP, steps per second; below 8 minutes
	$(BIN)/python -m tests.gpu_check

test-slurm: $(VENV)/installed-dev  ## the Slurm recipe on a real Slurm of one node; root, Debian's slurmctld slurmd slurm-client munge
	tests/slurm.sh

clean:  ## remove what the other targets installed, results stay
	rm -rf $(VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/installed
