#!/usr/bin/env python3
"""Reads the symbol graphs of one module, and says what of it is public and how it is documented.

    api_surface.py surface FOLDER         the public declarations, sorted, one a line
    api_surface.py undocumented FOLDER    the public declarations without a documentation comment, one a line
    api_surface.py parameters FOLDER      comments that name parameters which are not there, or in another order, one a line

FOLDER has what swift-symbolgraph-extract wrote for the module: MODULE.symbols.json, and MODULE@OTHER.symbols.json for what the module
adds to types of others. `surface` and `undocumented` want a graph of what is public; `parameters` takes one with everything in it.
"""

import json
import pathlib
import re
import sys

# What every type has by itself, or gets with another protocol that is listed.
IMPLIED = {"Copyable", "Escapable", "SendableMetatype", "BitwiseCopyable"}


def graphs(folder):
    for file in sorted(pathlib.Path(folder).glob("*.symbols.json")):
        yield json.loads(file.read_text())


def path(symbol):
    return ".".join(symbol["pathComponents"])


def declaration(symbol):
    text = "".join(fragment["spelling"] for fragment in symbol["declarationFragments"])
    text = re.sub(r"\s+", " ", text).strip()
    constraints = symbol.get("swiftExtension", {}).get("constraints", [])
    words = {"conformance": ":", "superclass": ":", "sameType": "=="}
    conditions = [f"{c['lhs']} {words[c['kind']]} {c['rhs']}" for c in constraints if c["lhs"] != "Self"]
    if conditions and " where " not in text:
        text += " where " + ", ".join(conditions)
    return ("open " if symbol["accessLevel"] == "open" else "") + text


def surface(folder):
    lines = set()
    for graph in graphs(folder):
        names = {}
        for symbol in graph["symbols"]:
            names[symbol["identifier"]["precise"]] = path(symbol)
            lines.add(f"{path(symbol)}: {declaration(symbol)}")
        for relation in graph["relationships"]:
            if relation["kind"] not in ("conformsTo", "inheritsFrom") or relation["source"] not in names:
                continue
            target = names.get(relation["target"]) or relation.get("targetFallback", "?").split(".")[-1]
            if target not in IMPLIED:
                verb = "conforms to" if relation["kind"] == "conformsTo" else "inherits from"
                lines.add(f"{names[relation['source']]}: {verb} {target}")
    return sorted(lines)


def undocumented(folder):
    found = set()
    for graph in graphs(folder):
        for symbol in graph["symbols"]:
            if "docComment" not in symbol:
                found.add(f"{place(symbol)}{path(symbol)}: {declaration(symbol)}")
    return sorted(found)


def place(symbol):
    location = symbol.get("location")
    if not location:
        return ""
    return f"{re.sub('^.*/(?=Sources/)', '', location['uri'])}:{location['position']['line'] + 1}: "


def parameters(folder):
    found = set()
    for graph in graphs(folder):
        for symbol in graph["symbols"]:
            signature = symbol.get("functionSignature", {}).get("parameters")
            comment = symbol.get("docComment", {})
            # A comment that was inherited is judged where it stands.
            if signature is None or comment.get("uri", "") != symbol.get("location", {}).get("uri"):
                continue
            names = documented([line["text"] for line in comment["lines"]])
            left = iter(signature)
            for name in names:
                if not any(name in (parameter["name"], parameter.get("internalName")) for parameter in left):
                    known = any(name in (p["name"], p.get("internalName")) for p in signature)
                    what = "is out of order" if known else "does not exist"
                    found.add(f"{place(symbol)}the documentation of {path(symbol)}: parameter '{name}' {what}")
                    break
    return sorted(found)


def documented(lines):
    """The names of the parameters in a comment, as it has them."""
    names, nested = [], None
    for line in lines:
        if match := re.match(r"\s*- [Pp]arameter +([^:]+):", line):
            names.append(match[1].strip())
            nested = None
        elif match := re.match(r"(\s*)- [Pp]arameters:\s*$", line):
            nested = len(match[1])
        elif nested is not None and (match := re.match(r"(\s*)- ([^:]+):", line)):
            if len(match[1]) <= nested:
                nested = None
            elif len(match[1]) <= nested + 4:
                names.append(match[2].strip().strip("`"))
    return names


if __name__ == "__main__":
    commands = {"surface": surface, "undocumented": undocumented, "parameters": parameters}
    print("".join(line + "\n" for line in commands[sys.argv[1]](sys.argv[2])), end="")
