package import Platform
import YAML

/// The sections of a directory's content that commands write: which devices there are, and what the CA has revoked. The
/// rest is a person's, and stays as it is, comments too.
package struct DirectoryText: Sendable {
    /// A device that others reach by its name.
    package struct Device: Hashable, Sendable {
        package var name: String
        package var identity: String
        /// `address:port`, best first.
        package var hbone: [String]

        package init(name: String, identity: String, hbone: [String]) {
            (self.name, self.identity, self.hbone) = (name, identity, hbone)
        }
    }

    package private(set) var text: String

    /// Of a device.
    package static let mostAddresses = 16

    /// Whether every machine means itself by that name: no device can have it for others.
    package static func isOwnName(_ host: Authority) -> Bool {
        host.host == "localhost" || host.host.hasSuffix(".localhost")
            || host.address.map { $0.isLoopback || $0.isUnspecified } ?? false
    }

    private static let remark = "# from the ledger, by enroll, renew, revoke and unenroll; what is changed here is lost"

    package init(_ content: [UInt8]) { text = String(decoding: content, as: UTF8.self) }

    /// Puts what the ledger knows in the place of what was there.
    ///
    /// - Parameters:
    ///   - devices: Those that are to be reached, in any order.
    ///   - revocations: The CA's lists in PEM form; nil: it has revoked nothing.
    /// - Throws: ``DirectoryError`` with `damaged` where that would change something else, or leave no YAML.
    package mutating func publish(_ devices: [Device], revocations: [UInt8]?) throws(DirectoryError) {
        let before = try Self.others(in: text)
        var lines: [String] = []
        if !devices.isEmpty {
            lines.append("devices:  \(Self.remark)")
            for device in devices.sorted(by: { $0.name < $1.name }) {
                let hbone = device.hbone.map(Self.quote).joined(separator: ", ")
                lines.append(
                    "- {name: \(Self.quote(device.name)), identity: \(Self.quote(device.identity)), hbone: [\(hbone)]}"
                )
            }
        }
        replace("devices", with: lines)
        lines = []
        if let revocations, !revocations.isEmpty {
            lines.append("revocations: |  \(Self.remark)")
            let pem = Self.lines(String(decoding: revocations, as: UTF8.self)).map { $0.filter { $0 != "\r" } }
            lines += pem.filter { !$0.isEmpty }.map { "  \($0)" }
        }
        replace("revocations", with: lines)
        guard try Self.others(in: text) == before else {
            throw DirectoryError(
                .damaged,
                "the content of the directory is written so that its sections cannot be told apart: let 'endpoints:', 'policy:', 'bundles:', "
                    + "'devices:' and 'revocations:' begin their lines, and no other line begin with a word and a colon"
            )
        }
    }

    /// Sections of people, without the places where they stand.
    private static func others(in text: String) throws(DirectoryError) -> [String: YAMLNode.Content] {
        guard !isBlank(text) else { return [:] }
        do throws(ConfigurationError) {
            guard case .mapping(let entries) = try YAMLDocument.parse(text, file: "the directory").content else {
                return [:]
            }
            let own = entries.filter { $0.key != "devices" && $0.key != "revocations" }
            return Dictionary(own.map { ($0.key, $0.value.withoutPlaces.content) }, uniquingKeysWith: { one, _ in one })
        } catch {
            throw DirectoryError(.damaged, "\(error)")
        }
    }

    /// Whether there is nothing but comments. Lines end as YAML has it: what follows a comment must not be taken for
    /// one.
    package static func isBlank(_ text: String) -> Bool {
        var isInComment = false
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\n", "\r", "\u{85}", "\u{2028}", "\u{2029}": isInComment = false
            case _ where isInComment: continue
            case "#": isInComment = true
            case " ", "\t": continue
            default: return false
            }
        }
        return true
    }

    /// A line that ends with CR LF has a CR at its end: one `Character` is both.
    private static func lines(_ text: String) -> [String] {
        text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false).map { String($0) }
    }

    private mutating func replace(_ section: String, with new: [String]) {
        var lines = Self.lines(text)
        if lines.last == "" { lines.removeLast() }
        let isKey = { (line: String) in
            let word = line.prefix { $0.isASCII && $0.isLetter }
            return !word.isEmpty && line.dropFirst(word.count).first == ":"
        }
        if let start = lines.firstIndex(where: { $0.hasPrefix("\(section):") }) {
            var end = lines[(start + 1)...].firstIndex(where: isKey) ?? lines.count
            // Remarks above the next section are that one's.
            while end > start + 1, lines[end - 1].isEmpty || lines[end - 1].hasPrefix("#") { end -= 1 }
            lines.replaceSubrange(start..<end, with: new)
        } else {
            lines += new
        }
        text = lines.map { $0 + "\n" }.joined()
    }

    /// A double-quoted scalar of YAML, on one line.
    private static func quote(_ text: String) -> String {
        var json = JSONWriter()
        json.string(text)
        return json.text
    }
}

extension YAMLNode {
    fileprivate var withoutPlaces: YAMLNode {
        let nowhere = SourcePosition(line: 0, column: 0)
        switch content {
        case .scalar: return YAMLNode(position: nowhere, content: content)
        case .sequence(let nodes): return YAMLNode(position: nowhere, content: .sequence(nodes.map(\.withoutPlaces)))
        case .mapping(let entries):
            let plain = entries.map { Entry(key: $0.key, keyPosition: nowhere, value: $0.value.withoutPlaces) }
            return YAMLNode(position: nowhere, content: .mapping(plain))
        }
    }
}
