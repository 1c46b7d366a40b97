# Each target sets up .venv by itself, from the exact versions in constraints.txt. Nothing is installed elsewhere.
#
# On Linux, pip takes the build of torch for NVIDIA cards, of several GB. Where pip is told of an index with the smaller
# build for processors (PIP_EXTRA_INDEX_URL, or pip's own configuration), that one is taken; both give the same version.

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$python && break; done)
UPGRADE ?=

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport PYTHONPATH PYTHONHOME

title = @printf '\n== %s\n' "$(1)"

write_binder = .venv/bin/mlops-nb image prepare
# A link in the notebook starts at nbs/, and one in README.md at the root.
write_readme = .venv/bin/jupyter nbconvert --log-level WARN --to markdown --stdout nbs/index.ipynb | sed -E 's!(\]\(|src=")\.\./!\1!g' > README.md

.PHONY: help run publish test test-long test-image test-podman lab bench lock generate binder readme check-generated clean
.DEFAULT_GOAL := help

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{ printf "make %-16s %s\n", $$1, $$2 }'

run: .venv/.installed  ## run the worked study and print its results
	@.venv/bin/mlops-nb run
	@.venv/bin/mlops-nb results

publish: .venv/.installed  ## run what is stale of the worked study and publish its results, to be committed
	@.venv/bin/mlops-nb run
	@.venv/bin/mlops-nb publish

lab: .venv/.installed  ## open JupyterLab at the templates
	.venv/bin/jupyter lab --LabApp.default_url=/lab/tree/nbs/pipelines

test: .venv/.installed-test  ## check everything: generated files, style, types, notebooks, tutorials, tests
	$(call title,Generated files agree with what they are generated from)
	@.venv/bin/pytest --quiet tests/test_generated.py
	$(call title,Style)
	@.venv/bin/ruff check .
	$(call title,Types)
	@.venv/bin/mypy
	$(call title,Library notebooks)
	@.venv/bin/nbdev-test --n-workers 2
	$(call title,Tutorials give the outputs that they show)
	@.venv/bin/pytest --quiet --nbval --nbval-current-env nbs/tutorials
	$(call title,Tests)
	@.venv/bin/pytest --quiet --numprocesses logical --dist loadfile --ignore tests/test_generated.py

test-long: .venv/.installed-test  ## check what takes minutes: the study and a sweep of 200 trials, on a cluster as on this machine
	.venv/bin/pytest -m long -s

test-image: .venv/.installed-test  ## build the image for real, try it, push it, open it, launch it by a hub; needs Debian 12, root and minutes
	.venv/bin/pytest -m image --capture no --exitfirst tests/image

test-podman: .venv/.installed-test  ## do with podman what test-image does with docker, as far as it differs; minutes more
	.venv/bin/pytest -m podman --capture no --exitfirst tests/image

bench: .venv/.installed-test  ## compare with the peers, side by side
	.venv/bin/python benchmarks

lock:  ## resolve constraints.txt anew; UPGRADE="numpy torch" lets those versions move, UPGRADE=all every one
	@UPGRADE="$(UPGRADE)" .ci/lock "$(PYTHON)"

generate: .venv/.installed-test  ## write again all that is generated: mlops_nb/, binder/, README.md
	@.venv/bin/nbdev-export
	@.venv/bin/nbdev-clean
	@$(write_binder)
	@$(write_readme)

binder: .venv/.installed-test  ## write binder/ from the lock
	@$(write_binder)

readme: .venv/.installed-test  ## write README.md from nbs/index.ipynb
	@$(write_readme)

check-generated: .venv/.installed-test  ## check that generating again changes nothing
	@.venv/bin/pytest --quiet tests/test_generated.py

clean:  ## delete .venv and caches; runs, data and models stay
	rm -rf .venv build dist mlops_nb.egg-info _proc .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

.venv/.installed: EXTRAS = study,lab
.venv/.installed-test: EXTRAS = study,lab,test
.venv/.installed-test: .venv/.installed
.venv/.installed .venv/.installed-test: constraints.txt pyproject.toml | .venv/bin/pip
	@asked=$$(cat constraints.txt pyproject.toml | cksum); test "$$asked" = "$$(cat $@ 2>/dev/null)" || { \
		echo "Installing into .venv what the lock names for $(EXTRAS) (some minutes the first time) …"; \
		.venv/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'; }; echo "$$asked" > $@

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "There is no Python 3.11 or later here. Install one, or say where it is: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is not Python 3.11 or later." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
