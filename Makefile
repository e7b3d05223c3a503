# make demo     a farm on this machine's loopback addresses builds a C tree and shows its status
# make test     the tests; make check: layering, sizes, ruff and mypy where they are installed
# make install  and uninstall: PREFIX=/usr/local DESTDIR=; program, launcher, masquerade links, systemd unit
# make bench    what the client costs, and makespans on a simulated farm, against real distcc
# make trees    Lua, zlib, Redis and ninja through a farm, every object compared (as root, with Debian's sources)
# make fuzz     100,000 mutated inputs (N=, SEED=); make soak: 20,000 jobs, clients and workers killed meanwhile (N=)
# make dist     an archive of what is committed
PYTHON ?= python3
PREFIX ?= /usr/local
PLACE = $(DESTDIR)$(PREFIX)
TREES ?= lua zlib redis ninja
MYPY_OPTIONS = --no-strict-optional --check-untyped-defs --cache-dir /dev/null $(MYPY_OFF:%=--disable-error-code %)
MYPY_OFF = arg-type assignment import-not-found misc union-attr var-annotated
.PHONY: all check test bench demo fuzz soak trees install uninstall dist
all: check test
check:
	$(PYTHON) test_distcc_lm.py Layering Style
	@if $(PYTHON) -m ruff --version >/dev/null 2>&1; then $(PYTHON) -m ruff check distcc_lm.py test_distcc_lm.py; \
	 else echo "ruff is not installed: skipped"; fi
	@if $(PYTHON) -m mypy --version >/dev/null 2>&1; then $(PYTHON) -m mypy $(MYPY_OPTIONS) distcc_lm.py; \
	 else echo "mypy is not installed: skipped"; fi
test:
	$(PYTHON) test_distcc_lm.py
bench:
	$(PYTHON) test_distcc_lm.py bench
	$(PYTHON) test_distcc_lm.py farm
demo fuzz soak trees:
	$(PYTHON) test_distcc_lm.py $@ $(if $(filter trees,$@),$(TREES)) $(N) $(SEED)
install:
	install -D -m 755 distcc_lm.py $(PLACE)/lib/distcc_lm/distcc_lm.py
	install -d $(PLACE)/bin $(PLACE)/lib/systemd/system
	ln -sf ../lib/distcc_lm/distcc_lm.py $(PLACE)/bin/distcc_lm.py
	$(PLACE)/bin/distcc_lm.py install $(PLACE)/lib/distcc_lm/bin
	$(PLACE)/bin/distcc_lm.py install --unit | sed 's|"$(DESTDIR)/|"/|' >$(PLACE)/lib/systemd/system/distcc_lm.service
uninstall:
	rm -rf $(PLACE)/lib/distcc_lm $(PLACE)/bin/distcc_lm.py $(PLACE)/lib/systemd/system/distcc_lm.service
dist:
	git archive --prefix=distcc_lm/ -o distcc_lm.tar.gz HEAD
