# Builds and installs the extensions vector and vectorkv, which share vector.so, with PGXS; the Makefile calls it from the top folder.
# src/pg is compiled here and linked with the archive of src/core, which cmake builds into build/core.  Objects and generated files stay
# in build/; only vector.so lies in the top folder, where PGXS wants it.

VECTOR_VERSION = 0.8.6.1
VECTORKV_VERSION = 0.1.0
PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(wildcard $(PGXS)),)
$(info error: $(PG_CONFIG) finds no PostgreSQL server headers (15 to 18))
$(error set PG_CONFIG, or on Debian run test/setup/packages.sh build)
endif

MODULE_big = vector
EXTENSION = extension/vector extension/vectorkv
INSTALL_SQL = build/sql/vector--$(VECTOR_VERSION).sql build/sql/vectorkv--$(VECTORKV_VERSION).sql
# From pgvector, whose versions 0.8.0 to 0.8.7 differ in comments only: what this extension has beyond them.
UPGRADE_SQL = $(patsubst %,build/sql/vector--0.8.%--$(VECTOR_VERSION).sql,0 1 2 3 4 5 6 7)
DATA_built = $(INSTALL_SQL) $(UPGRADE_SQL)

CORE_DIR = build/core
CORE_LIB ?= $(CORE_DIR)/libvkvcore.a
HELPER = $(if $(wildcard gpu/CMakeLists.txt),$(CORE_DIR)/gpu/vectorkv_helper)
SCRIPTS_built = $(HELPER)

REGRESS = $(sort $(patsubst sql/%.sql,%,$(wildcard sql/*.sql)))
REGRESS_OPTS = --load-extension=vector

# Bitcode of C++ templates gives nothing to the JIT, and the flags of the two compilers differ.
override with_llvm := no
# PGXS takes the folder of the makefile for the sources otherwise.
override srcdir := .

SOURCES := $(wildcard src/pg/*/*.cpp)
OBJDIR = build/pg/$(MAJORVERSION)
OBJS = $(patsubst src/pg/%.cpp,$(OBJDIR)/%.o,$(SOURCES))
EXPORTS = $(OBJDIR)/exports.map

include $(PGXS)

# Our own compile rule: PostgreSQL's headers as system headers, so that warnings are about our code only, and none of the warning
# flags of the compiler that PostgreSQL was built with.
# Optimization and code generation as PostgreSQL was built; some builds list flags that C++ compilers lack.
PG_FLAGS = $(filter-out -W% -std=% -fexcess-precision=% -fvisibility% -fno-strict-aliasing -fwrapv -fPIC,$(CXXFLAGS))
VKV_CPPFLAGS = -Isrc -isystem $(includedir_server) $(filter -D%,$(CPPFLAGS))
VKV_CXXFLAGS = $(PG_FLAGS) -std=c++20 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden \
	-fno-strict-aliasing -fwrapv -Wall -Wextra $(if $(WERROR),-Werror)
VKV_COMPILE = $(CXX) $(strip $(VKV_CXXFLAGS)) $(strip $(VKV_CPPFLAGS))

# The library brings its C++ runtime and shows only what PostgreSQL looks up: the version script lists each SQL function found.
override COMPILER = $(CXX) $(PG_FLAGS) -fPIC
SHLIB_LINK += $(CORE_LIB) -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL -Wl,--version-script=$(EXPORTS) -lpthread -lm

$(OBJDIR)/%.o: src/pg/%.cpp $(OBJDIR)/flags
	@mkdir -p $(@D)
	$(VKV_COMPILE) -MMD -MP -c -o $@ $<

$(EXPORTS): $(OBJS)
	@{ echo '{ global: Pg_magic_func; _PG_init;'; \
	  nm -g --defined-only $(OBJS) | awk '$$3 ~ /^pg_finfo_/ {print $$3 ";"; sub(/^pg_finfo_/, "", $$3); print $$3 ";"} $$3 ~ /^vkv_worker_/ {print $$3 ";"}' | sort -u; \
	  echo 'local: *; };'; } > $@.tmp && mv $@.tmp $@

# Another compiler, server or set of flags makes every object anew.
$(OBJDIR)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION) $(VKV_COMPILE)' > $@.tmp; if cmp -s $@.tmp $@; then rm $@.tmp; else mv $@.tmp $@; fi

# The library of another server version or compiler is not this one.
build/pg/linked: $(OBJDIR)/flags FORCE
	@if ! cmp -s $< $@; then cp $< $@; fi

$(shlib): $(CORE_LIB) $(EXPORTS) build/pg/linked

-include $(patsubst %.o,%.d,$(OBJS))

$(CORE_DIR)/libvkvcore.a: FORCE
	@[ -f $(CORE_DIR)/Makefile ] || cmake -S . -B $(CORE_DIR) -G 'Unix Makefiles' -DVKV_TESTS=OFF > /dev/null
	@+$(MAKE) -s --no-print-directory -C $(CORE_DIR) vkvcore > /dev/null

# The GPU helper is a program of its own, beside the server's.
$(CORE_DIR)/gpu/vectorkv_helper: $(CORE_DIR)/libvkvcore.a FORCE
	@+$(MAKE) -s --no-print-directory -C $(CORE_DIR) vectorkv_helper > /dev/null

$(UPGRADE_SQL): extension/vector/60_hnsw_tools.sql extension/vector/70_knn_exact.sql
	@mkdir -p $(@D)
	{ printf '%s\n' '-- The objects of pgvector stay as they are, and serve.' \
	  '\echo Use "ALTER EXTENSION vector UPDATE" to load this file. \quit' ''; cat $^; } > $@.tmp && mv $@.tmp $@

# The SQL of an extension by topic, in load order.
build/sql/vector--$(VECTOR_VERSION).sql: $(sort $(wildcard extension/vector/*.sql))
build/sql/vectorkv--$(VECTORKV_VERSION).sql: $(sort $(wildcard extension/vectorkv/*.sql))
$(INSTALL_SQL):
	@mkdir -p $(@D)
	cat $^ < /dev/null > $@.tmp && mv $@.tmp $@

# PGXS knows it by the path of its build folder only.
uninstall: uninstall-helper
uninstall-helper: refuse-foreign
	rm -f '$(DESTDIR)$(bindir)/vectorkv_helper'

# Before anything is copied: never replace a library that another project installed under the same name.
installdirs installdirs-lib uninstall uninstall-lib: refuse-foreign

refuse-foreign:
	@lib='$(DESTDIR)$(pkglibdir)/vector$(DLSUFFIX)'; \
	if [ -z '$(FORCE)' ] && [ -e "$$lib" ] && ! grep -q vectorkv "$$lib"; then \
	  echo "error: $$lib belongs to another project (pgvector?)" >&2; \
	  echo "hint: FORCE=1 replaces it; its tables work with this library, its indexes need REINDEX" >&2; exit 1; \
	fi

# What a second compiler has to say.
check-clang: CXX = clang++
check-clang: $(patsubst src/pg/%,syntax/%,$(SOURCES))

syntax/%: src/pg/%
	@$(VKV_COMPILE) -fsyntax-only $<

FORCE:
.PHONY: FORCE refuse-foreign uninstall-helper check-clang
