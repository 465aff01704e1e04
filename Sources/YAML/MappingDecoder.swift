package import Platform

/// One mapping being decoded: checks its keys against the known ones and hands out the values.
///
/// Every function that finds something wrong reports it and answers `nil`, so that decoding goes on and finds the rest.
package struct MappingDecoder {
    package let node: YAMLNode
    /// What the mapping describes, for messages: "a listener".
    package let what: String
    package let diagnostics: Diagnostics
    /// Keys may be missing because they were misspelt: what follows from that is not worth a second message.
    package let hasUnknownKeys: Bool
    private let values: [String: YAMLNode]

    /// Reports and answers `nil` when `node` is no mapping; reports each key that is not in `keys` and each of
    /// `required` that is missing, unless an unknown key looks like it.
    package init?(_ node: YAMLNode, what: String, keys: [String], required: [String] = [], _ diagnostics: Diagnostics) {
        guard case .mapping(let entries) = node.content else {
            let list = keys.joined(separator: ", ")
            diagnostics.report("\(what) must be a mapping with the keys \(list), not \(node.kind)", at: node.position)
            return nil
        }
        var values: [String: YAMLNode] = [:]
        var unknown = 0
        var misspelt: [String] = []
        for entry in entries {
            guard keys.contains(entry.key) else {
                unknown += 1
                let suggestion = nearest(to: entry.key, in: keys)
                misspelt += [suggestion].compactMap { $0 }
                let fix =
                    suggestion.map { "did you mean '\($0)'?" }
                    ?? "known keys are \(keys.joined(separator: ", "))"
                diagnostics.report("unknown key '\(entry.key)' in \(what): \(fix)", at: entry.keyPosition)
                continue
            }
            values[entry.key] = entry.value
        }
        for key in required where values[key] == nil && !misspelt.contains(key) {
            diagnostics.report("\(what) needs the key '\(key)'", at: node.position)
        }
        self.node = node
        self.what = what
        self.diagnostics = diagnostics
        hasUnknownKeys = unknown > 0
        self.values = values
    }

    package subscript(key: String) -> YAMLNode? { values[key] }

    package func position(of key: String) -> SourcePosition { values[key]?.position ?? node.position }

    /// Text that is not empty and has no control characters.
    package func string(_ key: String) -> String? {
        values[key].flatMap { $0.string("'\(key)'", diagnostics) }
    }

    package func bool(_ key: String) -> Bool? {
        guard let value = values[key] else { return nil }
        if case .scalar(let text, isPlain: true) = value.content, text == "true" || text == "false" {
            return text == "true"
        }
        diagnostics.report("'\(key)' must be true or false, not \(value.kind)", at: value.position)
        return nil
    }

    /// One of the raw values of an enumeration.
    package func choice<Choice: RawRepresentable & CaseIterable>(_ key: String, of type: Choice.Type) -> Choice?
    where Choice.RawValue == String {
        values[key].flatMap { $0.choice(of: type, "'\(key)'", diagnostics) }
    }

    /// A value that its own type parses; the error's text becomes the message.
    package func value<Value>(_ key: String, _ parse: (String) throws -> Value) -> Value? {
        values[key].flatMap { $0.parsed("'\(key)'", diagnostics, parse) }
    }
}

extension YAMLNode {
    package func string(_ what: String, _ diagnostics: Diagnostics) -> String? {
        guard case .scalar(let text, _) = content, !isNull else {
            diagnostics.report("\(what) must be text, not \(kind)", at: position)
            return nil
        }
        guard !text.isEmpty, !text.unicodeScalars.contains(where: { $0.value < 0x20 || $0.value == 0x7f }) else {
            diagnostics.report("\(what) must be text on one line, and not empty", at: position)
            return nil
        }
        return text
    }

    package func choice<Choice: RawRepresentable & CaseIterable>(
        of type: Choice.Type,
        _ what: String,
        _ diagnostics: Diagnostics
    ) -> Choice? where Choice.RawValue == String {
        guard let text = string(what, diagnostics) else { return nil }
        if let choice = Choice(rawValue: text) { return choice }
        let all = Choice.allCases.map(\.rawValue)
        let hint = nearest(to: text, in: all).map { ": did you mean '\($0)'?" } ?? ""
        diagnostics.report("\(what) must be one of \(all.joined(separator: ", ")), not '\(text)'\(hint)", at: position)
        return nil
    }

    package func parsed<Value>(_ what: String, _ diagnostics: Diagnostics, _ parse: (String) throws -> Value) -> Value?
    {
        guard let text = string(what, diagnostics) else { return nil }
        do {
            return try parse(text)
        } catch {
            diagnostics.report("\(what): \(error)", at: position)
            return nil
        }
    }

    /// A list with at least one element; elements that do not decode were reported and are left out.
    package func list<Element>(
        _ what: String,
        _ diagnostics: Diagnostics,
        _ decode: (YAMLNode) -> Element?
    ) -> [Element]? {
        guard case .sequence(let nodes) = content else {
            diagnostics.report(
                "\(what) must be a list, not \(kind): write it as [ … ] or with '- ' lines",
                at: position
            )
            return nil
        }
        guard !nodes.isEmpty else {
            diagnostics.report("\(what) is an empty list: fill it, or remove the key", at: position)
            return nil
        }
        return nodes.compactMap(decode)
    }
}

/// The word of `candidates` that `word` was most likely meant to be: the same but for case, '-' and '_', or few edits
/// away.
package func nearest(to word: String, in candidates: [String]) -> String? {
    func plain(_ text: String) -> [UInt8] {
        text.utf8.filter { $0 != UInt8(ascii: "-") && $0 != UInt8(ascii: "_") }.map {
            (UInt8(ascii: "A")...UInt8(ascii: "Z")).contains($0) ? $0 | 0x20 : $0
        }
    }
    let target = plain(word)
    guard target.count <= 64 else { return nil }
    let scored = candidates.map { (candidate: $0, distance: editDistance(plain($0), target)) }
    guard let best = scored.min(by: { $0.distance < $1.distance }) else { return nil }
    return best.distance <= max(1, min(target.count, best.candidate.utf8.count) / 3) ? best.candidate : nil
}

/// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other.
private func editDistance(_ left: [UInt8], _ right: [UInt8]) -> Int {
    var beforePrevious: [Int] = []
    var previous = Array(0...right.count)
    for i in 0..<left.count {
        var current = [i + 1]
        for j in 0..<right.count {
            var cost = min(previous[j + 1] + 1, current[j] + 1, previous[j] + (left[i] == right[j] ? 0 : 1))
            if i > 0, j > 0, left[i] == right[j - 1], left[i - 1] == right[j] {
                cost = min(cost, beforePrevious[j - 1] + 1)
            }
            current.append(cost)
        }
        beforePrevious = previous
        previous = current
    }
    return previous[right.count]
}
