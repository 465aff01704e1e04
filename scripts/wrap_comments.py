#!/usr/bin/env python3
"""Brings comments of Swift files, and the text of Markdown files, to 120 columns: swift-format leaves comments as they are.

    wrap_comments.py FILE…            rewrites the paragraphs that have a longer line
    wrap_comments.py --check FILE…    names the files that would change, and fails if there are any

Code in comments, tables, headings and drawings stay as they are, and so does a single word that is longer (a link).
"""

import pathlib
import re
import sys
import textwrap

WIDTH = 120
BULLET = re.compile(r"(\s*)((?:[-*]|\d+\.)\s+)")


def paragraphs(lines):
    """Pairs of a list of lines, and whether it is text that may be wrapped."""
    fenced, current = False, []
    for line in lines:
        fence = line.strip().startswith("```")
        verbatim = (
            fenced or fence or not line.strip() or line.lstrip().startswith(("|", "#", ">", "MARK:"))
            or re.match(r"    +\S", line) and not current
            or re.search(r"[─│┌└├▼▲►◄═]|\S {3,}\S", line)
        )
        if fence:
            fenced = not fenced
        if verbatim or (current and BULLET.match(line)):
            if current:
                yield current, True
            current = []
        if verbatim:
            yield [line], False
        else:
            current.append(line)
    if current:
        yield current, True


def wrapped(lines, width):
    result = []
    for paragraph, is_text in paragraphs(lines):
        if not is_text or all(len(line) <= width for line in paragraph):
            result += paragraph
            continue
        bullet = BULLET.match(paragraph[0])
        first = bullet[0] if bullet else re.match(r"\s*", paragraph[0])[0]
        body = " ".join([paragraph[0][len(first):].strip()] + [line.strip() for line in paragraph[1:]])
        # Continuation lines as the author has indented them; under the text of a bullet otherwise.
        rest = re.match(r"\s*", paragraph[1])[0] if len(paragraph) > 1 else " " * len(first)
        result += textwrap.wrap(body, width, initial_indent=first, subsequent_indent=rest,
                                break_long_words=False, break_on_hyphens=False)
    return result


def swift(lines):
    result, block, prefix = [], [], None

    def end():
        if block:
            result.extend((prefix + line).rstrip() for line in wrapped(block, WIDTH - len(prefix)))
            block.clear()

    for line in lines:
        match = re.match(r"(\s*///? ?)(.*)$", line)
        # A comment on lines of its own; `////` and `//!` are none of ours.
        if match is None or match[2].startswith("/"):
            end()
            result.append(line)
            continue
        now = match[1] if match[1].endswith(" ") else match[1] + " "
        if now != prefix:
            end()
            prefix = now
        block.append(match[2])
    end()
    return result


def markdown(lines):
    return wrapped(lines, WIDTH)


def main(arguments):
    check = arguments[:1] == ["--check"]
    failed = False
    for name in arguments[1:] if check else arguments:
        path = pathlib.Path(name)
        text = path.read_text()
        new = "\n".join((markdown if path.suffix == ".md" else swift)(text.split("\n")))
        if new != text and check:
            print(f"{name}: text is wider than {WIDTH} columns")
            failed = True
        elif new != text:
            path.write_text(new)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
