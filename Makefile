# make labs   run every notebook in order (LAB_PROFILE=smoke by default on a CPU)
# make test   lint and types, unit tests with a floor of covered lines, and the notebooks through nbval in the profile tiny
# make story  run labs 02 to 05 and 08 in the profile smoke (their minutes: docs/manual.md), and test that their scores
#             tell the story and are those stored
# make canary the tests and the notebooks in the profile tiny with whatever torch PYTHON has: installs nothing, no lint
# make gpu    on a machine with CUDA, in nine minutes, what no other can show, into docs/gpu.md; installs nothing, and of
#             WHEELS=folder only what is missing; LAB_VOC_ROOT=folder of photographs; QUICK=1: a small part, on a CPU too
# make lab    open JupyterLab
# make demo   the demo as a page: click on a picture, see the mask
# make release   student versions, without answers, an index and a ZIP, into build/release
# make colab  run those in a simulated Colab, build/colab (Python 3.12, 8 GB); PACKAGES="torch torchvision": the newest ones
# make site   the site, into build/site: labs, guide, benchmarks, reference; ends with a look at its links and pages
# make grade  points, feedback and marks for what lies in submitted/ (docs/grading.md)
# make install   only the environment; CONSTRAINTS=constraints-oldest.txt or CONSTRAINTS= (the newest), EXTRAS=course,dev
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
EXTRAS ?= course,dev,sam,monai,weights
BIN := .venv/bin
STAMP := .venv/installed

# Threads that wait without spinning: on few cores the default makes a training step much slower.
export OMP_WAIT_POLICY ?= PASSIVE
# Python keeps what it has compiled, also where the shell forbids it: torch alone takes seconds to compile at each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: labs test canary story gpu lint lab demo release colab site grade refresh install clean

labs: $(STAMP)
	$(BIN)/python -m labhelpers.course.run notebooks --out build/labs

test: lint
	$(MAKE) canary PYTHON=$(BIN)/python COVERAGE="--cov --cov-report=term:skip-covered"

canary: export OMP_NUM_THREADS := 1
canary: export LAB_PROFILE := tiny
canary: export LAB_HOME := $(CURDIR)/build/test-home
canary: export WANDB_MODE := disabled
canary:
	rm -rf build/test-home
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10 $(COVERAGE) tests
	$(PYTHON) -m pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env notebooks

story: $(STAMP)
	rm -rf build/story
	LAB_HOME=$(CURDIR)/build/story LAB_PROFILE=smoke WANDB_MODE=disabled \
	  $(BIN)/python -m labhelpers.course.run notebooks/0[23458]*.ipynb --out build/story
	LAB_STORY=$(CURDIR)/build/story $(BIN)/python -m pytest tests/test_story.py

gpu:
	$(PYTHON) benchmarks/gpu.py $(if $(QUICK),--quick) $(WHEELS:%=--wheels %)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir=.

demo: $(STAMP)
	$(BIN)/voila --Voila.ip=127.0.0.1 notebooks/demo_minisam.ipynb

release: $(STAMP)
	$(BIN)/python -m labhelpers.course.release notebooks --out build/release

colab: release
	$(BIN)/python .ci/colab.py $(if $(PACKAGES),--packages $(PACKAGES))

site:
	$(MAKE) install STAMP=.venv/installed-site EXTRAS=$(EXTRAS),site
	rm -rf build/site
	mkdir -p build/site/source
	$(BIN)/sphinx-build -q -W --keep-going -c docs build/site/source build/site/html
	LAB_SITE=$(CURDIR)/build/site/html $(BIN)/python -m pytest tests/test_site.py

grade: $(STAMP)
	$(BIN)/labhelpers grade

# For authors: store the outputs of a smoke run in the notebooks themselves.
refresh: $(STAMP)
	LAB_PROFILE=smoke $(BIN)/python -m labhelpers.course.run notebooks --out build/labs --in-place

install: $(STAMP)

# uv is three times faster than pip, which need not compile what is never imported; the stamp keeps a second call from
# installing again.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv .venv
	if command -v uv >/dev/null; then \
	  uv pip install --python $(BIN)/python $(CONSTRAINTS:%=-c %) -e ".[$(EXTRAS)]"; \
	else \
	  $(BIN)/python -m pip install --disable-pip-version-check --no-compile -q $(CONSTRAINTS:%=-c %) -e ".[$(EXTRAS)]"; \
	fi
	touch $@

clean:
	rm -rf build .venv
