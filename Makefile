# From a fresh clone, `make test` and `make quickstart` first set up .venv, the dependencies and the model files.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LIBRARIES := libEGL.so.1 libGLESv2.so.2 libGL.so.1 libglib-2.0.so.0
# build llama.cpp without image input, which is not used here; a GPU needs CMAKE_ARGS=-DGGML_CUDA=on
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export RAY_USAGE_STATS_ENABLED = 0
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: test test-slow damage lint format docs site demo quickstart mini-models mini-benchmark setup constraints clean

test: setup
	$(BIN)/python -m pytest -n 2

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow -rs

# attack both programs with 3,000 damaged files, answers and inputs; TRIES, SEED and FAMILY change that
TRIES ?= 3000
SEED  ?= 0
damage: setup
	$(BIN)/python -m tests.damage --tries $(TRIES) --seed $(SEED) $(if $(FAMILY),--only "$(FAMILY)")

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/hadolint Dockerfile
	$(SITE) --quiet

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/make_cli.py

# the documentation as a site, in site/; a link that leads nowhere is an error
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
site: setup
	$(SITE)

# a small model with and without a LoRA, in an environment without llama.cpp and Ray
DEMO := .venv-demo
demo: $(DEMO)/.installed
	DIFFUSERS_VERBOSITY=error TRANSFORMERS_VERBOSITY=error \
		$(DEMO)/bin/python docs/examples/demo.py --out demo $(if $(BROWSER),--open)

$(DEMO)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[generate,judge]'
	$(DEMO)/bin/handdata assets hand-landmarker
	@touch $@

quickstart: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" QUICK=$(QUICK) ./quickstart.sh

# train the models of models/ from scratch: more than an hour on two cores; resumes where it stopped
mini-models: setup
	$(BIN)/python -m handtrain.mini --out runs/mini-models

# measure the effect of each part of the method on a mini model; resumes where it stopped
mini-benchmark: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.mini_method --out runs/mini-benchmark

setup: $(VENV)/.installed $(VENV)/.assets

# one stamp file each: a second call does nothing until a dependency changes
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "hand1000 needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'
	@$(BIN)/python -c 'import ctypes; [ctypes.CDLL(name) for name in "$(LIBRARIES)".split()]' \
		|| { echo "MediaPipe and OpenCV need: apt-get install libegl1 libgles2 libgl1 libglib2.0-0"; exit 1; }
	@touch $@

$(VENV)/.assets: $(VENV)/.installed manifests/assets.toml
	$(BIN)/handdata assets
	$(BIN)/handdata assets llama3-tokenizer
	@touch $@

# pin the versions that the tests ran with; run this only to update them
constraints: setup
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) $(DEMO) dist site demo .pytest_cache .mypy_cache .ruff_cache
