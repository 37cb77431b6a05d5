# make book    the site, in _build/html       make chapter N=5    one chapter, for its author
# make test    every test                     make serve          read it in a browser, on this machine alone
# make lab     the book in JupyterLab         make links          ask every link to another site whether it works
# make student the chapters without their solutions, as notebooks in _build/student
# The first of them also makes .venv and installs everything there. A chapter's parameters: make chapter N=11 P="noun=dog"

PYTHON ?= python3
BIN    := .venv/bin
STAMP  := .venv/installed

.PHONY: book chapter test serve lab links student clean

book: $(STAMP)
	$(BIN)/python book/build.py

chapter: $(STAMP)
	$(BIN)/python book/build.py --chapter "$(N)" $(P:%=-p %)

lab: $(STAMP)
	@$(BIN)/python -c "import jupyterlab" 2>/dev/null || $(BIN)/pip install -q -e ".[lab]" -c .ci/constraints.txt
	cd book && ../$(BIN)/jupyter lab index.ipynb

links: $(STAMP)
	$(BIN)/python book/build.py --links

student: $(STAMP)
	$(BIN)/python book/student.py

# Two processes of one thread each: small networks wait for Python more than for threads. A file's tests share what they
# made, so a file is one process's; the book's, which take longest, come first, as they are collected.
test: $(STAMP)
	$(BIN)/python -m pytest --cov -n 2 --dist loadfile --no-loadscope-reorder

serve: $(if $(wildcard _build/html/index.html),,book)
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html 0  # 0: some port that is free

clean:
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

# On Linux PyPI's torch brings gigabytes of CUDA. Without a GPU we ask PyTorch's CPU index first,
# once and briefly, and take PyPI's where that index cannot be reached.
$(STAMP): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c "import ensurepip, venv" 2>/dev/null || \
	    { echo "Python's venv module is missing: sudo apt install python3-venv"; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "zoti needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv .venv
	@if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	    echo "no GPU: asking for the CPU build of torch"; \
	    $(BIN)/pip install -q --retries 0 --timeout 8 --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 2>/dev/null \
	    || echo "PyTorch's CPU index is out of reach: taking torch from PyPI"; \
	fi
	$(BIN)/pip install -q torch==2.13.0 -c .ci/constraints.txt
	$(BIN)/pip install -q -e ".[book,engine,test,dev]" -c .ci/constraints.txt
	@touch $@
