# hesscomp: `make help` lists what this file does.
#
# Variables:
#   PYTHON=python3   the Python (3.11 or later) that makes the environment
#   VENV=.venv       where the environment is
#   MPI=wheel        MPICH from PyPI; MPI=system takes the mpiexec in PATH and its library
#   RANKS="2 3 4"    the numbers of ranks that `make test` runs on
#   JOBS=2           processes that share the serial tests of `make test`
#   PEER=            a Python with torch and curvlinops, for `make bench`; VENV's after `make peers`
#   FUZZ_FLAGS=      readers and options for `make fuzz` (see scripts/fuzz.py --help)
#   PYTEST_FLAGS=    further options for pytest, such as -x or -k NAME

PYTHON = python3
VENV = .venv
MPI = wheel
RANKS = 2 3 4
JOBS = 2
PYTEST_FLAGS =
FUZZ_FLAGS =

BIN := $(VENV)/bin
ifeq ($(MPI),system)
MPIEXEC = mpiexec
RUN_EXTRA =
TEST_EXTRA = [test]
BENCH_EXTRA = [bench]
FUZZ_EXTRA = [fuzz]
DOCS_EXTRA = [docs]
else
MPIEXEC = $(BIN)/mpiexec
RUN_EXTRA = [mpich]
TEST_EXTRA = [mpich,test]
BENCH_EXTRA = [mpich,bench]
FUZZ_EXTRA = [mpich,fuzz]
DOCS_EXTRA = [mpich,docs]
endif

# Stamps: an extra is installed again only when setup.cfg changes or MPI is switched.
RUN := $(VENV)/.stamp-run-$(MPI)
TEST := $(VENV)/.stamp-test-$(MPI)
BENCH := $(VENV)/.stamp-bench-$(MPI)
FUZZ := $(VENV)/.stamp-fuzz-$(MPI)
DOCS := $(VENV)/.stamp-docs-$(MPI)
PEERS := $(VENV)/.stamp-peers-$(MPI)
PEER = $(if $(wildcard $(PEERS)),$(BIN)/python)
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --editable

# Open MPI refuses more ranks than cores unless told otherwise; MPICH ignores both.
export OMPI_MCA_rmaps_base_oversubscribe = 1
export PRTE_MCA_rmaps_default_mapping_policy = :oversubscribe

.DEFAULT_GOAL := help
.PHONY: help install demo test test-oldest test-slow test-slurm test-hosts lint docs notebooks bench tables peers fuzz dist clean
.DELETE_ON_ERROR:

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(RUN)  ## make .venv and install hesscomp in it (editable)

demo: $(RUN)  ## Newton on the Adult data on 2 ranks; results and plots in out/
	@mkdir -p out
	$(MPIEXEC) -n 2 $(BIN)/hesscomp newton --data adult --solver pcg --rank 40 \
		--factor-out out/adult-factor.h5 --json out/adult-report.json \
		--plot out/adult-convergence.png
	$(BIN)/hesscomp plot out/adult-factor.h5 --out out/adult-spectrum.png
	$(BIN)/hesscomp inspect out/adult-factor.h5
	@ls out/adult-factor.h5 out/adult-report.json out/adult-convergence.png \
		out/adult-spectrum.png >/dev/null
	@echo
	@echo "out/adult-factor.h5        the Hessian at the optimum as a certified rank-40 factor (HDF5)"
	@echo "out/adult-report.json      the result, every iteration and what it cost"
	@echo "out/adult-convergence.png  objective and gradient norm by iteration"
	@echo "out/adult-spectrum.png     the factor's eigenvalues"

test: $(TEST)  ## all tests but the slow ones, SLURM's and hosts': serial, then on each of RANKS
	$(call run_tests,not slow and not slurm and not hosts,--numprocesses $(JOBS) --dist loadfile)

test-oldest:  ## the serial tests with the lowest versions that setup.cfg allows, in .venv-oldest
	$(PYTHON) -m venv .venv-oldest
	sed -n '/^install_requires/,/^$$/ s/^ *\([A-Za-z0-9_-]*\)>=\(.*\)/\1==\2.*/p' setup.cfg \
		>.venv-oldest/lowest.txt
	.venv-oldest/bin/pip install --quiet --requirement .venv-oldest/lowest.txt --editable '.$(TEST_EXTRA)'
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest --numprocesses $(JOBS) --dist loadfile \
		-m "not slow and not slurm and not hosts" $(PYTEST_FLAGS)

test-slow: $(TEST)  ## the slow tests: serial, then on each of RANKS
	$(call run_tests,slow and not slurm and not hosts)

test-slurm: $(TEST)  ## the job scripts on a SLURM of two nodes here (root; slurm-wlm, munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm $(PYTEST_FLAGS)

test-hosts: $(TEST)  ## jobs across hosts of network namespaces, and their failures (root; iproute2)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m hosts $(PYTEST_FLAGS)

# The first run that fails ends the target, so the last line of pytest is the verdict.
# 5 is "no test selected": allowed for slow tests, of which some kinds may not exist.
define run_tests
	@set -e; export OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1}; \
	run() { \
		status=0; "$$@" || status=$$?; \
		if [ $$status = 5 ] && [ "$(firstword $(1))" = slow ]; then status=0; fi; \
		return $$status; \
	}; \
	echo "== tests, serial"; \
	run $(BIN)/python -m pytest -m "$(1)" $(2) $(PYTEST_FLAGS); \
	for ranks in $(RANKS); do \
		echo "== tests on $$ranks ranks"; \
		run $(MPIEXEC) -n $$ranks $(BIN)/python -m pytest -p no:cacheprovider tests \
			-m "ranks and not serial and $(1)" $(PYTEST_FLAGS); \
	done
endef

lint: $(TEST)  ## style, format, the walls between subpackages, types, shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/shellcheck .ci/run jobs/*.sh jobs/*.sbatch scripts/slurm-sandbox scripts/hosts-sandbox

docs: $(DOCS)  ## build the documentation site into out/docs; open out/docs/index.html
	rm -rf docs/made docs/reference/generated
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build --fail-on-warning --fresh-env --quiet docs out/docs
	@echo "out/docs/index.html"

notebooks: $(RUN)  ## make examples/*.ipynb from their pages in docs/examples/
	$(BIN)/python scripts/pages.py

bench: $(BENCH)  ## run the benchmarks one after another (hours), then make the tables of the pages
	@set -e; for script in $(filter-out %/record.py %/tables.py %/finite_elements.py,$(wildcard scripts/bench/*.py)); do \
		case $$script in */engine.py | */mnist_factor.py) peer="$(addprefix --peer ,$(PEER))";; *) peer=;; esac; \
		echo "== $$script $$peer"; PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python "$$script" $$peer; \
	done
	$(BIN)/python scripts/bench/tables.py

tables: $(RUN)  ## make the measured tables of README.md and docs/ from docs/measured.json
	$(BIN)/python scripts/bench/tables.py

peers: $(PEERS)  ## install torch (CPU) and curvlinops, which `make bench` then compares with

fuzz: $(FUZZ)  ## feed damaged files to every reader: FUZZ_FLAGS="--inputs 100000 csv hdf5"
	OMP_NUM_THREADS=1 $(BIN)/python scripts/fuzz.py $(FUZZ_FLAGS)

dist: $(TEST)  ## build the sdist and the wheel in dist/
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:  ## remove the environment, results and caches
	rm -rf docs/made docs/reference/generated $(VENV) .venv-oldest out build dist *.egg-info .ruff_cache .pytest_cache .import_linter_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "hesscomp needs Python 3.11 or later, and $(PYTHON) is" \
			"$$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) cannot make environments; on Debian: apt-get install python3-venv" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN): setup.cfg pyproject.toml | $(BIN)/python
	@echo "Installing hesscomp and what it needs into $(VENV) (some minutes, 2.5 GB)"
ifeq ($(MPI),system)
	@command -v mpiexec >/dev/null || { echo "MPI=system, but there is no mpiexec in PATH" >&2; exit 1; }
	@$(BIN)/python -m pip uninstall --quiet --yes mpich
endif
	$(PIP) '.$(RUN_EXTRA)'
	@rm -f $(VENV)/.stamp-* && touch $@

$(TEST): $(RUN)
	$(PIP) '.$(TEST_EXTRA)'
	@touch $@

$(BENCH): $(RUN)
	$(PIP) '.$(BENCH_EXTRA)'
	@touch $@

$(PEERS): $(RUN)
	$(PIP) '.[peers]' --extra-index-url https://download.pytorch.org/whl/cpu
	@touch $@

$(FUZZ): $(RUN)
	$(PIP) '.$(FUZZ_EXTRA)'
	@touch $@

$(DOCS): $(RUN)
	$(PIP) '.$(DOCS_EXTRA)'
	@touch $@
