#!/usr/bin/env python3
"""Checks that the folders inside a module point one way: no file names a type or a function of a folder above its own.

    scripts/check-rooms.py [--table FILE]       from anywhere; exits with 1 where an arrow points up

The order is in scripts/rooms.txt. A file is read as text: what counts is an identifier in code (string interpolations too, comments
not) that exactly one folder of the module declares at the top level. Members of extensions are not seen: put those of a lower
folder's type where they belong, and the compiler does the rest.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "scripts" / "rooms.txt"

MODIFIERS = r"(?:(?:public|package|internal|open|final|indirect|nonisolated(?:\(\w+\))?|distributed)\s+)*"
ATTRIBUTES = r"(?:@\w+(?:\([^)\n]*\))?\s+)*"
KINDS = r"(?:class|struct|enum|actor|protocol|typealias|func)"
# Top level is the first column; what is private there is nobody else's.
DECLARED = re.compile(rf"^{ATTRIBUTES}{MODIFIERS}{KINDS}\s+(\w+)", re.MULTILINE)
# Any level: a file that has the name itself means its own.
NESTED = re.compile(rf"\b(?:{KINDS}|case|let|var)\s+(\w+)")
# After a dot stands a member, never a name of the top level.
NAME = re.compile(r"(?<![\w.`$])[A-Za-z_]\w*")
OPENING = re.compile(r'//|/\*|#*"""|#*"')


def code(text):
    """The text without comments and without what strings say, but with what they interpolate; every line stays where it is."""
    out = []

    def blank(start, end):
        out.append("\n" * text.count("\n", start, end) or " ")

    def comment(at):
        if text.startswith("//", at):
            end = text.find("\n", at)
            return len(text) if end < 0 else end
        depth, at = 1, at + 2
        while depth and at < len(text):
            opening, closing = text.find("/*", at), text.find("*/", at)
            if closing < 0:
                return len(text)
            if 0 <= opening < closing:
                depth, at = depth + 1, opening + 2
            else:
                depth, at = depth - 1, closing + 2
        return at

    def string(at, quote):
        hashes = quote.count("#")
        closing = quote[hashes:] + "#" * hashes
        escape = "\\" + "#" * hashes
        while at < len(text):
            if text.startswith(closing, at):
                return at + len(closing)
            if text.startswith(escape + "(", at):
                at = interpolation(at + len(escape) + 1)
            elif text.startswith(escape, at):
                at += len(escape) + 1
            else:
                if text[at] == "\n":
                    out.append("\n")
                at += 1
        return at

    def interpolation(at):
        depth = 1
        out.append(" ")
        while depth and at < len(text):
            found = OPENING.match(text, at)
            if found:
                at = skip(found)
                continue
            depth += {"(": 1, ")": -1}.get(text[at], 0)
            out.append(text[at] if depth else " ")
            at += 1
        return at

    def skip(found):
        if found.group().startswith("/"):
            end = comment(found.start())
            blank(found.start(), end)
            return end
        out.append(" ")
        return string(found.end(), found.group())

    at = 0
    while found := OPENING.search(text, at):
        out.append(text[at : found.start()])
        at = skip(found)
    out.append(text[at:])
    return "".join(out)


def table(path):
    """Module → folder → its floor (0 for the highest) and its place there, which folders that are one room share."""
    floors, module, mistakes = {}, None, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        line = line.split("#")[0].rstrip()
        if not line:
            continue
        if not line[0].isspace():
            module, floor = line, -1
            floors[module] = {}
        elif module is None:
            mistakes.append(f"{path}:{number}: a line of folders before any module")
        else:
            floor += 1
            for place, room in enumerate(line.split()):
                for folder in room.split("+"):
                    floors[module][folder] = (floor, place)
    return floors, mistakes


def check(module, floors):
    base = ROOT / "Sources" / module
    files = {}
    for path in sorted(base.rglob("*.swift")):
        inside = path.relative_to(base).parts
        files[path] = (inside[0] if len(inside) > 1 else ".", code(path.read_text()))
    rooms = {room for room, _ in files.values()}
    for room in sorted(rooms - floors.keys()):
        yield f"Sources/{module}/{room} is not in the table"
    owners = {}
    for room, text in files.values():
        for name in DECLARED.findall(text):
            owners.setdefault(name, set()).add(room)
    for path, (room, text) in files.items():
        own = set(NESTED.findall(text))
        told = set()
        for number, line in enumerate(text.split("\n"), 1):
            for name in NAME.findall(line):
                owner = owners.get(name, set())
                if len(owner) != 1 or name in own or name in told:
                    continue
                other = next(iter(owner))
                if other == room or room not in floors or other not in floors:
                    continue
                if floors[other] == floors[room] or floors[other][0] > floors[room][0]:
                    continue
                told.add(name)
                where = "beside" if floors[other][0] == floors[room][0] else "above"
                yield f"{path.relative_to(ROOT)}:{number}: names {name} of {other}, which stands {where} {room}"


def main():
    path = pathlib.Path(sys.argv[2]) if sys.argv[1:2] == ["--table"] else TABLE
    floors, mistakes = table(path)
    for module, rooms in floors.items():
        mistakes += check(module, rooms)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    return 1 if mistakes else 0


if __name__ == "__main__":
    sys.exit(main())
