package import Platform
import YAML

extension DirectoryContent {
    /// For programs: what is written, with numbers and truth values as JSON has them.
    package func write(into json: inout JSONWriter) {
        guard let document else { return json.object { _ in } }
        Self.write(document, into: &json)
    }

    private static func write(_ node: YAMLNode, into json: inout JSONWriter) {
        switch node.content {
        case .scalar(let text, isPlain: true) where text == "true" || text == "false": json.raw(Array(text.utf8))
        case .scalar(let text, let isPlain):
            if isPlain, let number = Int64(text), "\(number)" == text { json.number(number) } else { json.string(text) }
        case .sequence(let nodes):
            json.array { json in
                for node in nodes { write(node, into: &json) }
            }
        case .mapping(let entries):
            json.object { json in
                for entry in entries {
                    json.key(entry.key)
                    write(entry.value, into: &json)
                }
            }
        }
    }
}
