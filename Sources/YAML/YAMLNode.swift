package import Platform

/// A value of a YAML document that remembers where it stands.
///
/// Scalars keep their text and are given a type by whoever asks, so that `NO`, `22` or `1e3` never turn into something
/// else behind the writer's back.
package struct YAMLNode: Hashable, Sendable {
    package struct Entry: Hashable, Sendable {
        package var key: String
        package var keyPosition: SourcePosition
        package var value: YAMLNode

        package init(key: String, keyPosition: SourcePosition, value: YAMLNode) {
            self.key = key
            self.keyPosition = keyPosition
            self.value = value
        }
    }

    package indirect enum Content: Hashable, Sendable {
        /// `isPlain`: written without quotes and not as a block.
        case scalar(String, isPlain: Bool)
        case sequence([YAMLNode])
        /// In the order of the file; keys are unique.
        case mapping([Entry])
    }

    package var position: SourcePosition
    package var content: Content

    package init(position: SourcePosition, content: Content) {
        self.position = position
        self.content = content
    }

    /// Nothing was written, or `null` or `~`.
    package var isNull: Bool {
        guard case .scalar(let text, isPlain: true) = content else { return false }
        return ["", "~", "null", "Null", "NULL"].contains(text)
    }

    /// What stands here, for messages: "a list", "a mapping", "nothing", "'text'".
    package var kind: String {
        switch content {
        case .scalar(let text, _): isNull ? "nothing" : "'\(text.prefix(40))'"
        case .sequence: "a list"
        case .mapping: "a mapping"
        }
    }
}
