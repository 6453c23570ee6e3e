# Owns what one types in a checkout: build, test, try, install, and what these need on a bare machine.
# Does not know a test or a benchmark: cargo runs them, and .ci/run runs `make test`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Two builds side by side take as long as one after the other, and their output is hard to read.
.NOTPARALLEL:

# What tests need and git does not hold. tests/it/support/mod.rs looks in the same place.
export SECRETFS_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/secretfs-test
# recipes change the directory, and Vault takes no relative folder of plugins
override SECRETFS_CACHE := $(abspath $(SECRETFS_CACHE))
CARGO ?= cargo
PREFIX ?= /usr
SYSTEMD_UNITS ?= $(PREFIX)/lib/systemd/system
TMPFILES ?= $(PREFIX)/lib/tmpfiles.d
SYSUSERS ?= $(PREFIX)/lib/sysusers.d
# where mount(8) looks for what mounts a type, and nowhere else; empty: no link there, for those who may not make one
MOUNT_HELPERS ?= /sbin
BUILT := $(or $(CARGO_TARGET_DIR),target)/release

# A stamp has the sum of its sources in its name, and so needs no prerequisites: every clone has new file times,
# and a Vault takes minutes to build.
sum_of = $(shell cat $(1) | sha256sum | cut -c 1-16)
VAULT_SOURCES := $(addprefix tests/servers/vault/,go.mod go.sum main.go)
VAULT_STAMP := $(SECRETFS_CACHE)/bin/.vault-$(call sum_of,$(VAULT_SOURCES))
VAULT_PLUGINS := $(SECRETFS_CACHE)/bin/plugins
VAULT_PLUGIN_SOURCES := $(addprefix tests/servers/vault/,go.mod go.sum $(addprefix plugins/,postgresql-database-plugin/main.go totp/main.go))
VAULT_PLUGINS_STAMP := $(SECRETFS_CACHE)/bin/.plugins-$(call sum_of,$(VAULT_PLUGIN_SOURCES))
MOTO_REQUIREMENTS := tests/servers/moto/requirements.txt
MOTO_STAMP := $(SECRETFS_CACHE)/venv/.moto-$(call sum_of,$(MOTO_REQUIREMENTS))
TREE_SOURCES := tests/servers/systemd/tree
TREE_STAMP := $(SECRETFS_CACHE)/systemd/.tree-$(call sum_of,$(TREE_SOURCES))
DENY_VERSION := 0.20.2
DENY := $(SECRETFS_CACHE)/deny/bin/cargo-deny
DENY_STAMP := $(SECRETFS_CACHE)/deny/.version-$(DENY_VERSION)

##@ Try it
.PHONY: demo
demo: deps-demo ## build, mount a store made for it, show it, change it, unmount
	$(CARGO) run --locked -- demo

.PHONY: install
install: ## build with optimisation, install program and units to DESTDIR PREFIX (/usr), mount helper to /sbin
	$(CARGO) build --release --locked
	install -D -m 755 $(BUILT)/secretfs $(DESTDIR)$(PREFIX)/bin/secretfs
	install -d $(DESTDIR)$(SYSTEMD_UNITS)
	for unit in secretfs@.service secretfs-clean@.service; do \
	    sed 's|/usr/bin/secretfs|$(PREFIX)/bin/secretfs|' "systemd/$$unit" > "$(DESTDIR)$(SYSTEMD_UNITS)/$$unit" && \
	    chmod 644 "$(DESTDIR)$(SYSTEMD_UNITS)/$$unit" || exit; \
	done
	install -D -m 644 systemd/secretfs.tmpfiles.conf $(DESTDIR)$(TMPFILES)/secretfs.conf
	install -D -m 644 systemd/secretfs.sysusers.conf $(DESTDIR)$(SYSUSERS)/secretfs.conf
	if [ -n "$(MOUNT_HELPERS)" ]; then \
	    install -d $(DESTDIR)$(MOUNT_HELPERS) && \
	    ln -sfn $(PREFIX)/bin/secretfs $(DESTDIR)$(MOUNT_HELPERS)/mount.fuse.secretfs; \
	fi

##@ Work on it
.PHONY: test
test: deps lint ## everything that is checked; REQUIRE=mount,vault,aws,age,postgres,systemd turns a skip into a failure
	@echo '== cargo test'
	@$(CARGO) test --locked --no-fail-fast 2>&1 | awk -f tests/summary.awk

.PHONY: bench
bench: deps ## ratios to an empty FUSE, to tmpfs and to a raw HTTP request, all from one run
	$(CARGO) bench --locked

.PHONY: drill
drill: deps ## kills, upgrades and restarts at full length, on an optimised build; fails where a pause is over its limit
	SECRETFS_DRILL=full $(CARGO) test --release --locked --test it -- --test-threads=1 --nocapture \
	    survive::kills survive::open_files survive::upgrades survive::credentials booted::drills

# The fuzzer is C++: deps-packages has no compiler for it, so the build says by itself what is missing.
FUZZ_SECONDS ?= 600
FUZZ_TARGETS := handover ledger journal
FUZZ_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))-fuzz
.PHONY: fuzz
fuzz: ## fuzz what one worker reads of another, FUZZ_SECONDS=600 for each target; needs a C++ compiler
	cd fuzz && RUSTC_WRAPPER=$(CURDIR)/fuzz/rustc CARGO_TARGET_DIR=$(FUZZ_DIR) RUSTFLAGS='--cfg fuzzing' \
	    $(CARGO) build --locked --target "$$(rustc -vV | sed -n 's/^host: //p')" --bins
	built=$$(echo $(FUZZ_DIR)/*/debug/handover); built=$${built%/handover}; \
	"$$built/seeds" $(FUZZ_DIR)/corpus; \
	for target in $(FUZZ_TARGETS); do \
	    echo "== fuzzing $$target"; \
	    mkdir -p $(FUZZ_DIR)/artifacts/$$target; \
	    "$$built/$$target" $(FUZZ_DIR)/corpus/$$target -artifact_prefix=$(FUZZ_DIR)/artifacts/$$target/ \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=16384 -timeout=20 \
	        -rss_limit_mb=2048 -print_final_stats=1 2>&1 | grep -v '^#'; \
	done

.PHONY: lint
lint: ## formatting, clippy, and cargo-deny where it is installed or built
	$(CARGO) fmt --check
	cd fuzz && $(CARGO) fmt --check
	@$(CARGO) metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml > /dev/null
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@deny=$$(command -v cargo-deny || echo $(DENY)); \
	if [ -x "$$deny" ]; then "$$deny" --log-level error --locked check bans licenses sources; fi

.PHONY: fmt
fmt: ## format the source
	$(CARGO) fmt

##@ What they need
.PHONY: deps
deps: deps-packages deps-servers deps-fuse deps-vault deps-moto deps-systemd deps-deny ## install and build what tests need, once, into SECRETFS_CACHE

# name of a program, and the Debian package it comes in where another name
TEST_PROGRAMS := fusermount3:fuse3 age rsync openssl getfattr:attr setpriv:util-linux unshare:util-linux curl bwrap:bubblewrap podman runc
# the same of servers: tests start their own, so the service that comes with the package stays off
TEST_SERVERS := postgres:postgresql nginx

.PHONY: deps-packages
deps-packages:
	@tests/servers/packages $(TEST_PROGRAMS)
	@# Debian's own python3 comes without the module that puts pip into a venv
	@python3 -c 'import ensurepip' 2> /dev/null || tests/servers/packages --always python3-venv

.PHONY: deps-servers
deps-servers:
	@tests/servers/packages --not-as-service $(TEST_SERVERS)

# A root shell may be all there is (containers, CI), with no udev that would do this. Tests mount as a normal
# user as well: that user must be able to open /dev/fuse, and allow_other asks for a line in /etc/fuse.conf.
.PHONY: deps-fuse
deps-fuse:
	@if [ "$$(id -u)" = 0 ]; then \
	    [ -e /dev/fuse ] || modprobe fuse || true; \
	    [ ! -e /dev/fuse ] || [ "$$(stat -c %a /dev/fuse)" = 666 ] || chmod 666 /dev/fuse; \
	    grep -qs '^user_allow_other' /etc/fuse.conf || echo user_allow_other >> /etc/fuse.conf; \
	fi
	@[ -e /dev/fuse ] || echo 'warning: there is no /dev/fuse here, so nothing can be mounted' >&2
	@grep -qs '^user_allow_other' /etc/fuse.conf || \
	    echo 'note: /etc/fuse.conf lacks user_allow_other, so the test of allow_other for normal users is skipped' >&2

# A server that is installed already is a whole one: it has built in what ours gets as plugins, and plugins of another
# version would not fit it. So ours comes with its plugins, or neither does.
.PHONY: deps-vault
ifeq ($(shell command -v vault || command -v bao),)
deps-vault: $(VAULT_STAMP) $(VAULT_PLUGINS_STAMP)
else
deps-vault: ;
endif

$(VAULT_STAMP):
	@echo '== building a Vault server for the tests (about 8 minutes the first time)'
	mkdir -p $(@D)
	cd tests/servers/vault && go build -mod=readonly -tags minimal -trimpath -ldflags '-s -w' -o $(@D)/vault.new .
	@# renamed into place, so that a server which runs at this moment keeps its own file
	mv $(@D)/vault.new $(@D)/vault
	rm -f $(@D)/.vault-*
	touch $@

# Vault takes every file in the folder for a plugin, so the stamp and what is half built lie elsewhere.
$(VAULT_PLUGINS_STAMP):
	@echo '== building plugins of Vault for the tests'
	mkdir -p $(VAULT_PLUGINS)
	rm -rf $(VAULT_PLUGINS).new
	mkdir $(VAULT_PLUGINS).new
	cd tests/servers/vault && go build -mod=readonly -tags minimal -trimpath -ldflags '-s -w' -o $(VAULT_PLUGINS).new/ ./plugins/...
	@# renamed into place, as the server is; a plugin that is no longer built goes
	rm -f $(VAULT_PLUGINS)/*
	mv $(VAULT_PLUGINS).new/* $(VAULT_PLUGINS)/
	rmdir $(VAULT_PLUGINS).new
	rm -f $(@D)/.plugins-*
	touch $@

.PHONY: deps-moto
deps-moto: $(MOTO_STAMP)

$(MOTO_STAMP):
	@echo '== installing the AWS server for the tests'
	@# a venv dies with the python it was made from; one that still runs is kept and brought up to date
	$(@D)/bin/python -c 'import pip' 2> /dev/null || python3 -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check --requirement $(MOTO_REQUIREMENTS)
	rm -f $(@D)/.moto-*
	touch $@

# Only root can make and boot it: for others the tests that need it are skipped.
.PHONY: deps-systemd
ifeq ($(shell id -u),0)
deps-systemd: $(TREE_STAMP)
else
deps-systemd: ;
endif

$(TREE_STAMP):
	@tests/servers/packages debootstrap systemd-nspawn:systemd-container
	@echo '== making a Debian tree for the tests (about two minutes, 150 MB)'
	tests/servers/systemd/tree $(@D)/tree.new
	rm -rf $(@D)/tree
	mv $(@D)/tree.new $(@D)/tree
	rm -f $(@D)/.tree-*
	touch $@

.PHONY: deps-deny
ifeq ($(shell command -v cargo-deny),)
deps-deny: $(DENY_STAMP)
else
deps-deny: ;
endif

$(DENY_STAMP):
	@echo '== building cargo-deny (about three minutes)'
	$(CARGO) install --quiet --locked --debug --version $(DENY_VERSION) --root $(@D) --target-dir $(@D)/target cargo-deny
	rm -rf $(@D)/target $(@D)/.version-*
	touch $@

# root mounts with mount(2) alone; everybody else goes through fuse3's helper
.PHONY: deps-demo
deps-demo:
	@[ "$$(id -u)" = 0 ] || tests/servers/packages fusermount3:fuse3

.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	    /^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
