# make demo    a farm on this machine's loopback addresses builds a C tree and shows its status
# make test    the tests; make check: layering, sizes, ruff and mypy where they are installed
# make bench   what the client costs, and makespans on a simulated farm, against real distcc
# make trees   Lua, zlib, Redis and ninja through a farm, every object compared (as root, with Debian's sources)
# make fuzz    100,000 mutated inputs (N=, SEED=); make soak: 20,000 jobs, clients and workers killed meanwhile (N=)
PYTHON ?= python3
TREES ?= lua zlib redis ninja
MYPY_OPTIONS = --no-strict-optional --check-untyped-defs --cache-dir /dev/null $(MYPY_OFF:%=--disable-error-code %)
MYPY_OFF = arg-type assignment import-not-found misc union-attr var-annotated

.PHONY: all demo test check bench trees fuzz soak
all: check test

demo:
	$(PYTHON) test_distcc_lm.py demo

test:
	$(PYTHON) test_distcc_lm.py

check:
	$(PYTHON) test_distcc_lm.py Layering Style
	@if $(PYTHON) -m ruff --version >/dev/null 2>&1; then $(PYTHON) -m ruff check distcc_lm.py test_distcc_lm.py; \
	 else echo "ruff is not installed: skipped"; fi
	@if $(PYTHON) -m mypy --version >/dev/null 2>&1; then $(PYTHON) -m mypy $(MYPY_OPTIONS) distcc_lm.py; \
	 else echo "mypy is not installed: skipped"; fi

bench:
	$(PYTHON) test_distcc_lm.py bench
	$(PYTHON) test_distcc_lm.py farm

trees:
	$(PYTHON) test_distcc_lm.py trees $(TREES)

fuzz soak:
	$(PYTHON) test_distcc_lm.py $@ $(N) $(SEED)
