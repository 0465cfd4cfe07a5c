# Everything from a fresh clone: `make test` and `make quickstart` set up .venv, the dependencies and the model files first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LIBRARIES := libEGL.so.1 libGLESv2.so.2 libGL.so.1 libglib-2.0.so.0
# what llama.cpp's build leaves out: the image input that we do not use. A GPU needs CMAKE_ARGS=-DGGML_CUDA=on.
export CMAKE_ARGS ?= -DLLAVA_BUILD=OFF
export RAY_USAGE_STATS_ENABLED = 0
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: test test-slow lint format docs quickstart mini-models mini-benchmark setup constraints clean

test: setup
	$(BIN)/python -m pytest -n 2

test-slow: setup
	$(BIN)/python -m pytest -n 2 -m slow -rs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/make_cli.py

quickstart: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" QUICK=$(QUICK) ./quickstart.sh

# the models under models/, anew: an hour and more on two cores; goes on where it stopped
mini-models: setup
	$(BIN)/python -m handtrain.mini --out runs/mini-models

# what each part of the method does to a mini model; goes on where it stopped
mini-benchmark: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m benchmarks.mini_method --out runs/mini-benchmark

setup: $(VENV)/.installed $(VENV)/.assets

# a stamp file each, so that a second call costs nothing until what they depend on changes
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

# the versions that the tests ran with; renewed on purpose, never by the way
constraints: setup
	$(BIN)/python -m pip freeze --exclude-editable > constraints.txt

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache
