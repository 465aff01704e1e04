# Every target works from a clean clone: what is missing is installed first (scripts/install-dependencies.sh).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

ARCH := $(shell uname -m)
CACHE := $(or $(BOOTSTRAP_TESTS_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/bootstrap-tests)
BINARY := .build/release/bootstrap
STATIC := dist/bootstrap-linux-$(ARCH)
SWIFT ?= swift
# Swift outside of Sources and Tests. Named one by one: each package has a .build that is not ours.
OTHER_SWIFT := Benchmarks/Package.swift Benchmarks/Sources $(addprefix Benchmarks/Instructions/,Package.swift Sources) Examples/Package.swift Examples/Sources Examples/NIO/Package.swift Examples/NIO/Sources $(addprefix Bridges/H2TransportNIO/,Package.swift Sources Tests)
# The binary goes without the run-time check for exclusive access (SE-0176), which was a quarter of the user instructions of a stream
# that opens; every test runs with it. Swift's libraries are linked into it: calls into others cost 2 % of an open's CPU time, and it
# runs where there is no Swift. Not in Package.swift: whoever uses the libraries decides for himself.
RELEASE := -c release --static-swift-stdlib -Xswiftc -enforce-exclusivity=unchecked
# How many tests run at once. Without it all of them start together, and their deadlines run while they wait for a core.
TEST_WIDTH := --experimental-maximum-parallelization-width 4
# Tests that call `python3` get the environment that holds their packages.
export PATH := $(CACHE)/venv/bin:$(PATH)
export BOOTSTRAP_TESTS_CACHE := $(CACHE)

.PHONY: help deps build static test test-sanitizers soak soak-sanitizers demo examples bench bench-fronts bench-fleet bench-directory bench-gateway-restart lab lab-check instructions lint api-check api-update format docs clean

help: ## This list
	@echo "make TARGET, where TARGET is one of"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 20

deps: ## Install what building and testing need (Debian packages, Python packages, Envoy)
	@scripts/install-dependencies.sh build test

build: ## Build the release binary: .build/release/bootstrap
	@scripts/install-dependencies.sh build
	$(SWIFT) build $(RELEASE) --product bootstrap
	@ls -l $(BINARY)

static: ## Build the static, stripped binary that is uploaded to devices: dist/bootstrap-linux-ARCH
	@scripts/install-dependencies.sh build
	@scripts/build-static.sh $(STATIC)

test: deps lint ## Install what is needed, build, and run every test
	$(SWIFT) build --build-tests
	@scripts/check-readme.sh .build/debug/bootstrap
	@scripts/run-tests.sh .build/test.log $(SWIFT) test --skip-build $(TEST_WIDTH)

test-sanitizers: deps ## Run the tests under Thread Sanitizer, then Address Sanitizer (FILTER=regex narrows)
	@scripts/run-tests.sh .build-thread/test.log $(SWIFT) test --sanitize=thread --scratch-path .build-thread $(TEST_WIDTH) $(if $(FILTER),--filter '$(FILTER)')
	@scripts/run-tests.sh .build-address/test.log $(SWIFT) test --sanitize=address --scratch-path .build-address $(TEST_WIDTH) $(if $(FILTER),--filter '$(FILTER)')

soak: build ## Mixed traffic through two nodes for 10 minutes: sums, descriptors, memory (MINUTES=n: for n minutes)
	@scripts/soak.py --binary $(BINARY) --minutes $(or $(MINUTES),10)

soak-sanitizers: ## The same for half a minute under Thread Sanitizer, then Address Sanitizer (MINUTES=n: for n minutes each)
	@scripts/install-dependencies.sh build test
	$(SWIFT) build --sanitize=thread --scratch-path .build-thread --product bootstrap
	@scripts/soak.py --binary .build-thread/debug/bootstrap --minutes $(or $(MINUTES),0.5) --sanitizer
	$(SWIFT) build --sanitize=address --scratch-path .build-address --product bootstrap
	@scripts/soak.py --binary .build-address/debug/bootstrap --minutes $(or $(MINUTES),0.5) --sanitizer

demo: deps static ## Show the main job against a real sshd, start to finish (SHORT=1: with fewer bytes), then capture, ingress and egress
	@scripts/demo.sh $(if $(SHORT),--short) --binary $(STATIC)
	@scripts/demo-fronts.sh --binary $(STATIC)

examples: deps ## Run the programs of Examples against each other, SwiftNIO's too (CORE=1: without those, which take minutes to build)
	$(SWIFT) build --product bootstrap
	@scripts/run-examples.sh .build/debug/bootstrap core $(if $(CORE),,nio)

bench: build ## Measure against ssh -L, Envoy and others; writes docs/benchmarks.md (QUICK=1: fewer rounds)
	@scripts/install-dependencies.sh test bench
	@python3 Benchmarks/run.py $(if $(QUICK),--quick) --binary $(BINARY)

bench-fronts: build ## Measure opens through each kind of listener, ingress beside Envoy and egress beside HAProxy; writes docs/benchmarks.md
	@scripts/install-dependencies.sh test
	@python3 Benchmarks/fronts.py --binary $(BINARY)
	@python3 Benchmarks/gateways.py --binary $(BINARY)

bench-directory: build ## Measure how fast a change of the directory is in force on 50 nodes, with 100 and 10,000 devices; prints (SHORT=1: 10 nodes)
	@scripts/install-dependencies.sh test
	@scripts/measure-directory.py --binary $(BINARY) $(if $(SHORT),--nodes 10 --changes 5 --entries 100 1000)

bench-gateway-restart: build ## Measure how 1,000 devices come back to a gateway that was restarted; prints (SHORT=1: 100 devices)
	@scripts/install-dependencies.sh test
	@scripts/measure-gateway-restart.py --binary $(BINARY) $(if $(SHORT),--devices 100)

bench-fleet: build static ## Measure enrolment and commands on many machines against Ansible and parallel-ssh; writes docs/benchmarks.md
	@scripts/install-dependencies.sh test fleet
	@python3 Benchmarks/fleet.py --binary $(BINARY) --agent $(STATIC)

lab: build ## Faults under live streams, in a network of namespaces: who survives, and how soon bytes flow (SHORT=1: few runs, WRITE=1: into docs/benchmarks.md)
	@scripts/install-dependencies.sh test
	@python3 -B Benchmarks/lab/lab.py --binary $(BINARY) $(if $(SHORT),--short) $(if $(WRITE),--write) $(if $(ONLY),--only '$(ONLY)')

lab-check: build ## The few scenarios of the lab that continuous integration runs, once each; fails when streams are lost that had to live, never for a time
	@python3 -B Benchmarks/lab/lab.py --binary $(BINARY) --ci

instructions: deps build ## Count user instructions: of the H2 path for each byte, of two nodes for each open and round trip; fails above the limits
	@scripts/install-dependencies.sh instructions
	@python3 Benchmarks/Instructions/run.py --binary $(BINARY) --limit 3.6 --profile
	@python3 Benchmarks/Instructions/nodes.py --binary $(BINARY) --limit-open 94000 --limit-round-trip 52000
	@python3 Benchmarks/Instructions/nodes.py --binary $(BINARY) --endpoint "resumable: true" --limit-open 155000 --limit-round-trip 59000
	@python3 Benchmarks/Instructions/nodes.py --binary $(BINARY) --more "accessLog: {file: /dev/null}" --limit-open 105000 --limit-round-trip 52000

lint: ## Check the format and the rules of CONTRIBUTING.md
	@scripts/lint.sh

api-check: deps ## Compare the public API with docs/api, and count what has no documentation comment
	$(SWIFT) build
	@scripts/check-api.sh

api-update: deps ## Write the public API to docs/api, after a change of it that is meant
	$(SWIFT) build
	@scripts/check-api.sh --update

format: ## Format every Swift file in place, and bring comments and documents to 120 columns
	$(SWIFT) format -i -r Package.swift Sources Tests $(OTHER_SWIFT)
	@git ls-files -z '*.swift' '*.md' | xargs -0 python3 scripts/wrap_comments.py

docs: deps ## Build the documentation of the libraries with DocC; a warning is an error
	@scripts/build-docs.sh

clean: ## Remove everything that was built
	rm -rf .build .build-* dist Benchmarks/.build Examples/.build Examples/NIO/.build Bridges/H2TransportNIO/.build
