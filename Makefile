# The commands of the project.  Those that need PostgreSQL's build system are handed to src/pg/build.mk; quickstart and check install
# what is missing first, so they work on a machine that has nothing but make and a package manager.
#
#   make && make install && make installcheck      as with any extension; PG_CONFIG=..., DESTDIR=..., FORCE=1, WERROR=1
#   make quickstart                                a private server with real data, an index and a report
#   make check                                     every test; check-unit, check-sql, check-tap, ... for one kind

JOBS ?= $(shell nproc 2>/dev/null || echo 1)
PGXS_TARGETS = all install uninstall installcheck check-clang
CHECKS = unit arm asan tsan fuzz sql tap gpu house quickstart pg16 pg18 assert smith
FORMATTED = $(shell find src test gpu \( -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' \) 2>/dev/null)

.DEFAULT_GOAL := all

$(PGXS_TARGETS):
	@+$(MAKE) --no-print-directory $(if $(findstring jobserver,$(MAKEFLAGS)),,-j$(JOBS)) -f src/pg/build.mk $@

# The extension in a private copy of the PostgreSQL installation, build/pgroot; what the tests use.
private-install:
	@test/setup/pgroot.sh

quickstart:
	@test/setup/quickstart.sh

quickstart-stop:
	@test/setup/cluster.sh stop quickstart

check:
	@test/check.sh all

$(addprefix check-,$(CHECKS)): check-%:
	@test/check.sh $*

format:
	clang-format-14 -i $(FORMATTED)

format-check:
	@clang-format-14 --dry-run -Werror $(FORMATTED)

# For example: make bench BENCH='data.hdf5 --pgvector PREFIX'; test/bench/README.md lists the options.
bench: private-install
	@test/bench/run $(or $(BENCH),--help) --ours build/pgroot

clean:
	@test/setup/cluster.sh stop-all
	rm -rf build results regression.diffs regression.out vector.so

.PHONY: $(PGXS_TARGETS) private-install quickstart quickstart-stop check $(addprefix check-,$(CHECKS)) format format-check bench clean
