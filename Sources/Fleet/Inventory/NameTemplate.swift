/// Paths that are another for each host.
package enum NameTemplate {
    /// `path` with the host's name in the place of `{name}`.
    package static func expand(_ path: String, for name: String) -> String {
        var parts: [Substring] = []
        var rest = path[...]
        let mark = "{name}"
        while let index = rest.indices.first(where: { rest[$0...].hasPrefix(mark) }) {
            parts.append(rest[..<index])
            rest = rest[rest.index(index, offsetBy: mark.count)...]
        }
        return (parts + [rest]).joined(separator: name)
    }
}
