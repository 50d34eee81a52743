# Everything a fresh machine needs: `make demo`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests wait for processes of their own: one more than there are cores.
PYTEST_WORKERS ?= 3
# A test that hangs fails, and says where its threads are: many times what the slowest one takes.
HANGS := -o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true
# What needs nothing large beside the set-up; the rest has targets of its own.
IN_PLACE := not ray and not lerobot and not rerun and not trainers and not gpu

.PHONY: setup ffmpeg demo test test-slow fuzz test-ray test-lerobot test-rerun test-trainers test-gpu test-newest test-oldest test-old-hub test-live lint types bench bench-data gl clean

setup: ffmpeg $(READY)

# torchcodec loads FFmpeg's shared libraries from the system.
ffmpeg:
	@ldconfig -p | grep -q libavcodec || { \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends ffmpeg >/dev/null; }

$(READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test,bench]'
	@touch $@

demo: setup
	$(BIN)/python examples/demo.py

test: setup lint types
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(HANGS) -m 'not slow and $(IN_PLACE)'

test-slow: setup
	$(BIN)/python -m pytest -m '(slow or hypothesis) and $(IN_PLACE)' --hypothesis-profile thorough

# Forged datasets and sources, FUZZ_CASES of each family; `make test` runs a few of them.
FUZZ_CASES ?= 10000
fuzz: setup
	PYTHONPATH=tests nice $(BIN)/python -W ignore -m support.fuzz --cases $(FUZZ_CASES)

# A real local Ray cluster, some of whose workers are killed.
test-ray: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test-ray]'
	$(BIN)/python -m pytest -m ray

# LeRobot itself, in environments of their own below .peers/: its recorder, tools and readers of 0.4.4 and 0.6.1, and
# the policies of 0.4.4 and the trainers of both. A gigabyte, and six for 0.6.1, which needs Python 3.12: as python3.12 or from
# pyenv or uv. Where there is none its tests are skipped, and the summary says so.
test-lerobot: setup
	PYTHONPATH=benchmarks $(BIN)/python -c 'from peer_environments import PEERS, lerobot_python; lerobot_python(PEERS, training=True)'
	$(BIN)/python -m pytest -m lerobot -rs

# Recordings for the Rerun viewer, read back with rerun-sdk.
test-rerun: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test-rerun]'
	$(BIN)/python -m pytest -m rerun

# Lightning, Hugging Face's Trainer, torchdata and FSDP2, as docs/trainers.md has them.
test-trainers: setup
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test-trainers]'
	$(BIN)/python -m pytest -m trainers

# NVDEC, copies and page-locked memory, in an environment of yours with CUDA builds of torch and torchcodec:
# `make test-gpu GPU_PYTHON=...`. Where torch finds no GPU all of it is skipped, and the summary says so.
GPU_PYTHON ?= $(BIN)/python
test-gpu: setup
	$(GPU_PYTHON) -m pytest -m gpu -rs

# What talks to the Hub, with the oldest huggingface_hub that is supported; it calls what hf_xet has deprecated since.
test-old-hub: setup
	PYTHONPATH=tests $(BIN)/python -m support.environments beside .peers/old_hub tests/old_hub_requirements.txt
	.peers/old_hub/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m 'not slow and $(IN_PLACE)' \
	  -W 'ignore:hf_xet:DeprecationWarning' \
	  tests/tools/upload tests/storage tests/converter/test_convert_remote.py tests/converter/test_remote_sources.py tests/loader/test_remote.py

# What loads, converts, reads and uploads, with the newest releases of everything on the newest Python, and with the lowest
# release of every range in pyproject.toml on the lowest: environments of six gigabytes each, below .peers/.
BY_VERSIONS := tests/cases tests/cli tests/common tests/converter tests/fuzz tests/loader tests/shards tests/storage \
  tests/tools tests/trust tests/test_support_servers.py tests/test_support_sources.py
test-newest: setup
	PYTHONPATH=tests $(BIN)/python -m support.environments 3.13 .peers/newest tests/newest_requirements.txt
	.peers/newest/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m 'not slow and $(IN_PLACE)' $(BY_VERSIONS)

test-oldest: setup
	PYTHONPATH=tests $(BIN)/python -m support.environments 3.11 .peers/oldest tests/oldest_requirements.txt
	.peers/oldest/bin/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile -m 'not slow and $(IN_PLACE)' \
	  -W 'ignore:hf_xet:DeprecationWarning' $(BY_VERSIONS)

# Needs HF_TOKEN with write access; makes private repositories in your account and removes them.
test-live: setup
	ROBOSHARD_LIVE=1 $(BIN)/python -m pytest tests/test_live_hub.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# Records the datasets of the benchmarks below bench_data/: simulators and LeRobot's recorder in an environment of their
# own, six gigabytes, which needs Python 3.12. BENCH=--quick for small ones, on which `make bench` takes minutes.
BENCH ?=
bench-data: setup gl
	$(BIN)/python benchmarks/data.py $(BENCH)

# MuJoCo draws without a display by EGL.
gl:
	@ldconfig -p | grep -q libEGL_mesa || { \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && $$SUDO apt-get install -y -qq --no-install-recommends libegl1 libegl-mesa0 libgl1-mesa-dri >/dev/null; }

# All benchmarks, for hours, with the other loaders in environments of their own below .peers/.
bench: bench-data
	$(BIN)/python benchmarks/run_all.py $(BENCH)

clean:
	rm -rf $(VENV) build demo_output *.egg-info
