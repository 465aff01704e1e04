"""Counts the user-space instructions of the H2 path with callgrind, for each byte and hop of a bulk stream and for each stream that is
opened: figures that repeat on any machine.

    Benchmarks/Instructions/run.py [--binary BOOTSTRAP] [--work bulk|opens] [--limit N] [--profile]

Two amounts are moved and the difference taken, so that start-up does not count. `--limit` makes it fail above that figure.
callgrind knows no AVX-512: OpenSSL's AES-GCM takes the AES-NI path there, with 2.2 instructions a byte. It counts `rep movsb` as
one instruction for each byte, so libc is told to copy by vectors, as far as instructions are concerned the dearer way.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# MiB and streams; and the hops by which the figure is divided.
WORK = {"bulk": (32, 96, (1 << 20) * 2, "byte and hop"), "opens": (200, 1200, 1, "stream, both hops")}
ENVIRONMENT = dict(os.environ, GLIBC_TUNABLES="glibc.cpu.x86_rep_movsb_threshold=1099511627776")


def count(hops, credential, work, amount, output):
    result = subprocess.run(
        ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", hops, credential, work, str(amount)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=900, env=ENVIRONMENT,
    )
    totals = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or not totals or int(result.stdout) != amount:
        sys.exit(f"hops {work} {amount} failed:\n{result.stdout}{result.stderr}")
    return int(totals.group(1))


def functions(output):
    """Instructions by library and function, the function's own (the format: "Callgrind Format Specification" of Valgrind)."""
    names = {"ob": {}, "fn": {}}
    current = {"ob": "?", "fn": "?"}
    found = {}
    is_call = False
    with open(output) as file:
        for line in file:
            position = re.match(r"(ob|fn)=\((\d+)\)(?: (.*))?$", line)
            if position:
                kind, number, name = position.groups()
                if name:
                    names[kind][number] = name
                current[kind] = names[kind][number]
            elif line.startswith(("cob=", "cfn=")):
                # A name may be told here first.
                callee = re.match(r"c(ob|fn)=\((\d+)\) (.*)$", line)
                if callee:
                    names[callee.group(1)][callee.group(2)] = callee.group(3)
            elif line.startswith("calls="):
                is_call = True
            elif re.match(r"[-+*\d]", line):
                # The line after a call has the callee's cost.
                if not is_call:
                    key = (os.path.basename(current["ob"]), current["fn"])
                    found[key] = found.get(key, 0) + int(line.split()[1])
                is_call = False
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--binary", default=str(HERE.parent.parent / ".build/release/bootstrap"))
    parser.add_argument("--work", choices=list(WORK), default="bulk")
    parser.add_argument("--limit", type=float)
    parser.add_argument("--profile", action="store_true", help="print where they are spent")
    parser.add_argument("--top", type=int, default=25, help="how many functions")
    arguments = parser.parse_args()
    # As the Makefile builds the binary.
    build = ["swift", "build", "-c", "release", "-Xswiftc", "-enforce-exclusivity=unchecked", "--package-path", str(HERE)]
    subprocess.run(build, check=True, stdout=sys.stderr)
    hops = subprocess.run(build + ["--show-bin-path"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip() + "/hops"

    with tempfile.TemporaryDirectory() as directory:
        # Debian's valgrind cannot read what clang writes for C (DWARF 5); names of functions stay.
        subprocess.run(["objcopy", "--strip-debug", hops, directory + "/hops"], check=True)
        hops = directory + "/hops"
        environment = dict(os.environ, BOOTSTRAP_HOME=directory + "/home")
        for command in (
            ["ca", "init", "--trust-domain", "bench.example"],
            ["ca", "issue", "--id", "ns/bench/sa/hops", "--out", directory + "/credential"],
        ):
            subprocess.run([arguments.binary] + command, check=True, env=environment, stdout=subprocess.DEVNULL)
        small, large, divisor, unit = WORK[arguments.work]
        amounts = (small, large)
        outputs = [f"{directory}/{amount}" for amount in amounts]
        totals = [count(hops, directory + "/credential", arguments.work, *pair) for pair in zip(amounts, outputs)]
        divisor *= large - small
        figure = (totals[1] - totals[0]) / divisor
        if arguments.profile:
            small, large = (functions(output) for output in outputs)
            spent = {name: (instructions - small.get(name, 0)) / divisor for name, instructions in large.items()}
            libraries = {}
            for (library, _), each in spent.items():
                libraries[library] = libraries.get(library, 0) + each
            for library, each in sorted(libraries.items(), key=lambda item: -item[1]):
                if each >= figure / 500:
                    print(f"{each:9.3f}  {library}")
            print("of which")
            for (library, name), each in sorted(spent.items(), key=lambda item: -item[1])[:arguments.top]:
                print(f"{each:9.3f}  {library:24} {name[:100]}")
    print(f"{figure:,.2f} user instructions per {unit}")
    if arguments.limit and figure > arguments.limit:
        sys.exit(f"that is above the limit of {arguments.limit}")


main()
