import CLibYAML
package import Platform

/// Reads one YAML document by libyaml's event API.
///
/// Only what configuration needs is accepted: anchors, aliases (which can make a small file huge), tags, several
/// documents and duplicate keys are errors with their place.
package enum YAMLDocument {
    /// 10,000 policy rules take about 2 MB.
    package static let maximumBytes = 16 << 20
    /// The configuration itself needs 8 levels.
    package static let maximumDepth = 32

    /// `file` is named in errors only.
    package static func parse(_ text: String, file: String) throws(ConfigurationError) -> YAMLNode {
        guard text.utf8.count <= maximumBytes else {
            throw ConfigurationError(issues: [
                .init(
                    file: file,
                    position: nil,
                    message: "is larger than \(maximumBytes >> 20) MiB: not a configuration file"
                )
            ])
        }
        var text = text
        let result = text.withUTF8 { bytes in
            Result { () throws(ConfigurationError) in
                var reader = EventReader(bytes, file: file)
                return try reader.document()
            }
        }
        return try result.get()
    }
}

/// Owns a libyaml parser over borrowed bytes and composes nodes from its events.
private struct EventReader: ~Copyable {
    /// Heap-allocated: libyaml keeps pointers into the structure, so it must not move.
    private let parser: UnsafeMutablePointer<yaml_parser_t>
    private let bytes: UnsafeBufferPointer<UInt8>
    private let file: String
    private let isReady: Bool

    /// `bytes` must outlive the reader.
    init(_ bytes: UnsafeBufferPointer<UInt8>, file: String) {
        parser = .allocate(capacity: 1)
        self.file = file
        self.bytes = bytes
        isReady = yaml_parser_initialize(parser) == 1
        if isReady {
            yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
            yaml_parser_set_input_string(parser, bytes.baseAddress, bytes.count)
        }
    }

    deinit {
        if isReady { yaml_parser_delete(parser) }
        parser.deallocate()
    }

    /// A collection whose end has not been seen.
    private enum Open {
        case sequence(SourcePosition, [YAMLNode])
        case mapping(SourcePosition, [YAMLNode.Entry], keys: Set<String>, pending: (key: String, SourcePosition)?)
    }

    mutating func document() throws(ConfigurationError) -> YAMLNode {
        guard isReady else { throw failure("out of memory", at: nil) }
        var open: [Open] = []
        var root: YAMLNode?
        var documents = 0
        while true {
            var event = yaml_event_t()
            guard yaml_parser_parse(parser, &event) == 1 else { throw syntaxError() }
            defer { yaml_event_delete(&event) }
            let position = Self.position(event.start_mark)
            var finished: YAMLNode?

            switch event.type {
            case YAML_STREAM_END_EVENT:
                guard let root else { throw failure("is empty: write at least 'identity' and 'listeners'", at: nil) }
                return root
            case YAML_DOCUMENT_START_EVENT:
                documents += 1
                if documents > 1 { throw failure("a second document starts here: keep one per file", at: position) }
            case YAML_ALIAS_EVENT:
                throw failure("aliases (*name) are not supported: write the value out", at: position)
            case YAML_SCALAR_EVENT:
                let scalar = event.data.scalar
                try refuse(anchor: scalar.anchor, tag: scalar.tag, at: position)
                let bytes = UnsafeBufferPointer(start: scalar.value, count: scalar.length)
                let isPlain = scalar.style == YAML_PLAIN_SCALAR_STYLE
                finished = YAMLNode(
                    position: position,
                    content: .scalar(String(decoding: bytes, as: UTF8.self), isPlain: isPlain)
                )
            case YAML_SEQUENCE_START_EVENT:
                try refuse(anchor: event.data.sequence_start.anchor, tag: event.data.sequence_start.tag, at: position)
                open.append(.sequence(position, []))
            case YAML_MAPPING_START_EVENT:
                try refuse(anchor: event.data.mapping_start.anchor, tag: event.data.mapping_start.tag, at: position)
                open.append(.mapping(position, [], keys: [], pending: nil))
            case YAML_SEQUENCE_END_EVENT, YAML_MAPPING_END_EVENT:
                switch open.popLast() {
                case .sequence(let start, let nodes): finished = YAMLNode(position: start, content: .sequence(nodes))
                case .mapping(let start, let entries, _, _):
                    finished = YAMLNode(position: start, content: .mapping(entries))
                case nil: throw failure("libyaml ended a collection that it had not begun", at: position)
                }
            default:
                break
            }
            if open.count > YAMLDocument.maximumDepth {
                throw failure("is nested deeper than \(YAMLDocument.maximumDepth) levels", at: position)
            }
            guard let finished else { continue }
            if open.isEmpty { root = finished } else { try append(finished, to: &open[open.count - 1]) }
        }
    }

    private func append(_ node: YAMLNode, to open: inout Open) throws(ConfigurationError) {
        switch open {
        case .sequence(let start, var nodes):
            open = .sequence(start, [])  // gives up its reference, so that the append does not copy
            nodes.append(node)
            open = .sequence(start, nodes)
        case .mapping(let start, var entries, var keys, let pending):
            open = .mapping(start, [], keys: [], pending: nil)
            if let (key, keyPosition) = pending {
                entries.append(.init(key: key, keyPosition: keyPosition, value: node))
                open = .mapping(start, entries, keys: keys, pending: nil)
                return
            }
            guard case .scalar(let key, _) = node.content else {
                throw failure("a key must be a plain word, not \(node.kind)", at: node.position)
            }
            guard keys.insert(key).inserted else {
                let first = entries.first { $0.key == key }.map { " (first at line \($0.keyPosition.line))" } ?? ""
                throw failure("the key '\(key)' is given twice\(first): remove one", at: node.position)
            }
            open = .mapping(start, entries, keys: keys, pending: (key, node.position))
        }
    }

    private func refuse(
        anchor: UnsafeMutablePointer<yaml_char_t>?,
        tag: UnsafeMutablePointer<yaml_char_t>?,
        at position: SourcePosition
    ) throws(ConfigurationError) {
        if anchor != nil { throw failure("anchors (&name) are not supported: write the value out", at: position) }
        if tag != nil { throw failure("tags (!name) are not supported: remove it", at: position) }
    }

    private func syntaxError() -> ConfigurationError {
        let problem = parser.pointee.problem.map { String(cString: $0) } ?? "unreadable"
        // libyaml gives an offset and no mark for bytes that are no text.
        if parser.pointee.error == YAML_READER_ERROR {
            return failure("is not YAML: \(problem) at byte \(parser.pointee.problem_offset)", at: nil)
        }
        var message = "is not YAML: \(problem)"
        if let context = parser.pointee.context {
            message += " \(String(cString: context)) that starts at line \(parser.pointee.context_mark.line + 1)"
        }
        let position = Self.position(parser.pointee.problem_mark)
        if hasTab(at: position) {
            message = "a tab is used for indentation at line \(position.line), use spaces (\(problem))"
        }
        return failure(message, at: position)
    }

    /// Whether the line of a problem begins with a tab, or has one right there: YAML knows spaces only, and libyaml
    /// complains of what it makes of it.
    private func hasTab(at position: SourcePosition) -> Bool {
        let lines = bytes.split(
            separator: UInt8(ascii: "\n"),
            maxSplits: position.line,
            omittingEmptySubsequences: false
        )
        guard position.line <= lines.count else { return false }
        let line = String(decoding: lines[position.line - 1], as: UTF8.self).unicodeScalars
        let indentation = line.prefix { $0 == " " || $0 == "\t" }
        return indentation.contains("\t") || line.dropFirst(position.column - 1).first == "\t"
    }

    private func failure(_ message: String, at position: SourcePosition?) -> ConfigurationError {
        ConfigurationError(issues: [.init(file: file, position: position, message: message)])
    }

    private static func position(_ mark: yaml_mark_t) -> SourcePosition {
        SourcePosition(line: Int(mark.line) + 1, column: Int(mark.column) + 1)
    }
}
