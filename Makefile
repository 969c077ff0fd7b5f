# make search: set-up, then the main job on built-in data. make test: set-up, then lint, types and all tests.
# Both need Python >= 3.11 and make, nothing else.
PYTHON ?= python3
VENV   ?= .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

# Two torch processes that spin on the same cores slow each other down many times over.
export OMP_WAIT_POLICY ?= PASSIVE
# tests run in parallel processes of one thread each; `make test JOBS=0` runs them in one process
JOBS ?= auto

.PHONY: search test lint types setup clean

setup: $(READY)

$(READY): pyproject.toml setup.cfg
	$(PYTHON) -c 'import sys; sys.exit("conet-fx needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

search: $(READY)
	$(VENV)/bin/conet-fx search --arch resnet18_cifar --data digits

test: lint types
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadgroup $(PYTEST_ARGS)

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# passes/ is conet_fx.passes once installed; mypy sees the same through a folder of links
types: $(READY)
	rm -rf build/types && mkdir -p build/types/conet_fx
	ln -s $(CURDIR)/conet_fx/* build/types/conet_fx/
	ln -s $(CURDIR)/passes build/types/conet_fx/passes
	cd build/types && ../../$(PY) -m mypy --config-file ../../pyproject.toml conet_fx

clean:
	rm -rf $(VENV) build dist *.egg-info
