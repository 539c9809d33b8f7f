# make demo    train a small model with a CVXPY layer inside, on real data; writes examples/figures/quickstart.png
# make test    the tests
# make swap    train one classifier in PyTorch, JAX and TensorFlow; writes examples/figures/swap_frameworks.png
# make distributed    the same batch on several workers, by torch.distributed and Ray, to the same numbers
# make gradients    gradients where the exact one says nothing; writes examples/figures/degenerate_gradients.png
# make examples    the gallery: nine small examples, in two minutes or so; each writes its figure to examples/figures
# make talk    Brandon Amos' talk on such layers as scripts that check what it says; a minute
# make fuzz    thousands of random problems; make soak: 20 000 calls, whose memory must stay flat. Minutes each
# make bench-layers    the layers against their peers, which `make peers` installs into .venv-peers; ARGS=--docs writes docs/benchmarks.md
# make bench-native    the native engine against its peers; make bench-ready: the ready-made layers against theirs
# make bench-scaling   times against batch, size and threads; make bench-quick: ratios against raw solver calls, under a minute
# make sanitize    the native engine, all builds, under AddressSanitizer and UndefinedBehaviorSanitizer; a minute or two
# make docs    the site, into build/site; make docs-test: looks at it in headless Chromium
# All others set up .venv first, once, with the versions of constraints.txt.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SETUP := setup.py pyproject.toml constraints.txt $(wildcard cvxlayers/native/src/*)
JOBS ?= 2
GALLERY := closed_forms sudoku denoising polytope learn_to_sort digits_transport topk few_shot_svm sensitivity

.PHONY: demo swap gradients distributed examples talk test fuzz soak sanitize lint types bench bench-layers bench-native bench-ready bench-quick bench-scaling peers docs docs-test clean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo
	@$(BIN)/python examples/quickstart.py

swap: $(VENV)/.test
	@$(BIN)/python examples/swap_frameworks.py

distributed: $(VENV)/.test
	$(BIN)/python examples/distributed.py

gradients: $(VENV)/.demo
	$(BIN)/python examples/degenerate_gradients.py

examples: $(VENV)/.demo
	for name in $(GALLERY); do echo; echo $$name; $(BIN)/python examples/$$name.py || exit; done

talk: $(VENV)/.demo
	for part in examples/talk/[1-9]*.py; do echo; echo $$part; MPLBACKEND=agg $(BIN)/python $$part || exit; done

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(JOBS)

fuzz: $(VENV)/.test
	$(BIN)/python -m pytest -m slow tests/test_fuzz.py

soak: $(VENV)/.test
	$(BIN)/python -m pytest -m slow -s tests/test_soak.py

# The extension as setup.py makes it, but with the sanitizers in it, and a program that calls it from C++.
CHECKS := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g1
sanitize: $(VENV)/.venv
	rm -rf build/sanitize
	$(INSTALL) 'setuptools>=77'
	CVXLAYERS_CXXFLAGS="-O1 $(CHECKS)" LDFLAGS="-fsanitize=address,undefined" \
	  $(BIN)/python setup.py -q build_ext --build-lib build/sanitize --build-temp build/sanitize/objects
	$(CXX) -std=c++17 -O1 $(CHECKS) tests/native/driver.cpp build/sanitize/cvxlayers/native/_engine*.so -pthread -o build/sanitize/driver
	build/sanitize/driver

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -n -q -d build/doctrees docs build/site

docs-test: docs
	$(BIN)/python -m pytest -q docs/test_site.py

bench: $(VENV)/.test
	$(BIN)/python benchmarks/single_call.py
	$(BIN)/python benchmarks/frameworks.py
	$(BIN)/python benchmarks/warm_start.py

bench-quick: $(VENV)/.test
	$(BIN)/python benchmarks/quick.py $(ARGS)

bench-scaling: $(VENV)/.test
	$(BIN)/python benchmarks/scaling.py $(ARGS)

peers: $(PEERS)/.peers

bench-layers: $(PEERS)/.peers
	$(PEERS)/bin/python benchmarks/layers.py $(ARGS)

bench-ready: $(PEERS)/.peers
	$(PEERS)/bin/python benchmarks/ready_made.py $(ARGS)

bench-native: $(PEERS)/.peers
	$(PEERS)/bin/python benchmarks/native.py $(ARGS)

clean:
	rm -rf $(VENV) $(PEERS) build dist *.egg-info

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; found " + sys.version)'
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.venv $(SETUP)
	@echo "Installing into $(VENV), once: a minute or two"
	@$(INSTALL) -e '.[torch,examples]'
	@touch $@

# tensorflow-cpu stands in for the user's tensorflow: the same library without a gigabyte of GPU code.
$(VENV)/.test: $(VENV)/.venv $(SETUP)
	@echo "Installing into $(VENV), once: a minute or two"
	@$(INSTALL) -e '.[torch,jax,test]' tensorflow-cpu keras ruff mypy
	@touch $@

$(VENV)/.docs: $(VENV)/.test
	@echo "Installing into $(VENV), once: a minute or two"
	@$(INSTALL) furo ipykernel jupytext myst-nb playwright sphinx sphinx-copybutton sphinx-design sphinx-mathjax-offline
	@touch $@

$(PEERS)/.peers: benchmarks/peers.txt $(SETUP)
	@echo "Installing into $(PEERS), once: some minutes"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt -e '.[torch]'
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -r benchmarks/peers-old.txt
	@touch $@
