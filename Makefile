# make demo | make test | make lint: everything is installed into .venv by the targets themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DATA := $(or $(EDGELM_DATA),../shared/data)
STAMP := $(VENV)/.edgelm-installed
REFERENCE := $(VENV)/.reference-installed

.PHONY: demo test test-fast lint format quality quality-quick bench bench-quick bench-latency android android-apk setup-arm64 clean

demo: $(STAMP)
	$(BIN)/edgelm convert keyboard-lstm --target android-arm64 -o build/keyboard-lstm

test: $(REFERENCE)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(STAMP)
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

quality: $(STAMP)
	$(BIN)/python benchmarks/reference_models.py keyboard-lstm --data $(DATA)/corpora/sgd_dialogues
	$(BIN)/python benchmarks/reference_models.py chat-transformer --tokens 100000 --data $(DATA)/corpora/sgd_dialogues
	$(BIN)/python benchmarks/quality.py --data $(DATA)/corpora/sgd_dialogues

# The same path on a slice, in minutes: every technique trains a few steps, is lowered and measured; the figures mean nothing.
quality-quick: $(STAMP)
	$(BIN)/python benchmarks/quality.py keyboard-lstm --quick --cache build/quality-quick --data $(DATA)/corpora/sgd_dialogues

# Emulated arm64 cores for the proof: 100 MB of Debian packages into edgelm's cache folder, nothing is installed.
setup-arm64: $(STAMP)
	$(BIN)/edgelm doctor --setup-arm64

# The demo app without Gradle and Android Studio: engine and app logic tested on the JVM, project files checked, a signed APK built and checked.
android: $(STAMP)
	$(BIN)/python android_demo/tools/build_apk.py --fetch-only
	$(BIN)/python -m pytest tests/android
	$(MAKE) android-apk

android-apk: $(STAMP)
	$(BIN)/edgelm convert keyboard-lstm --target android-arm64 -o build/android/keyboard-lstm
	$(BIN)/python android_demo/tools/build_apk.py --fetch-only
	$(BIN)/python android_demo/tools/build_apk.py --artifact build/android/keyboard-lstm

# Against other runtimes on the same weights, each in an environment of its own under build/peers (8 GB); wants a quiet machine.
bench: $(STAMP)
	$(BIN)/python benchmarks/bench.py all

# The same in minutes, without peers that need compiling.
bench-quick: $(STAMP)
	$(BIN)/python benchmarks/bench.py all --quick

# Fits a profile of this machine, then holds its predictions of 26 models against their measured times; wants a quiet machine.
bench-latency: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/latency.py

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(STAMP): pyproject.toml
	@found=$$(command -v $(PYTHON) || command -v python3); \
	if [ -z "$$found" ] || ! "$$found" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
	  echo "edgelm needs Python 3.11 (tflite-runtime 2.14 and onnx2tf 1.29 meet only there)."; \
	  echo "Get it by one of:  uv python install 3.11  |  pyenv install 3.11  |  apt-get install python3.11 python3.11-venv"; \
	  echo "then:  make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; \
	fi; \
	"$$found" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all,dev]"
	touch $@

# PyTorch, transformers and others that the tests compare with: without them those tests are skipped.
$(REFERENCE): $(STAMP)
	$(BIN)/python -m pip install --quiet -e ".[all,dev,reference]"
	touch $@

clean:
	rm -rf build $(VENV)
