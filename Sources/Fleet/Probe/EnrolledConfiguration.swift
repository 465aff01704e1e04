import Platform
import YAML

/// What a `node.yaml` lets others reach that an enrolment, `allow` or `deny` has written. What a device says is read as
/// hostile: anything else than they write is nothing that is known.
enum EnrolledConfiguration {
    /// More than anybody allows.
    private static let most = 4096

    /// - Returns: Ports and `host:port`; nil where somebody else has written it, or changed it.
    static func allowed(in text: String) -> [String]? {
        guard text.hasPrefix("# Written by `bootstrap enroll`"),
            let root = try? YAMLDocument.parse(text, file: "node.yaml"), case .mapping(let entries) = root.content
        else { return nil }
        func value(_ key: String) -> YAMLNode.Content? { entries.first { $0.key == key }?.value.content }
        var places: [String] = []
        if let policy = value("policy") {
            guard case .sequence(let policies) = policy, policies.count == 1, let ports = ports(policies[0]) else {
                return nil
            }
            places = ports
        }
        if let endpoints = value("endpoints") {
            guard case .sequence(let elements) = endpoints else { return nil }
            for element in elements {
                guard case .mapping(let entries) = element.content, entries.count == 2,
                    scalar("direct", of: entries) == "true", let host = scalar("match", of: entries)
                else { return nil }
                places.append(Printable.clean(host, limit: 300))
            }
        }
        return places.count <= most ? places : nil
    }

    /// Of the one policy that an enrolment writes; nil for any other.
    private static func ports(_ policy: YAMLNode) -> [String]? {
        guard case .mapping(let entries) = policy.content, entries.count == 3,
            scalar("name", of: entries) == "enrolled", scalar("action", of: entries) == "ALLOW",
            let rule = only("rules", of: entries), rule.count == 2, let peers = only("from", of: rule),
            peers.map(\.key) == ["principals"], let target = only("to", of: rule), target.count == 1,
            case .sequence(let ports)? = target.first(where: { $0.key == "ports" })?.value.content
        else { return nil }
        var numbers: [String] = []
        for port in ports {
            guard case .scalar(let text, _) = port.content, let number = UInt16(text) else { return nil }
            numbers.append("\(number)")
        }
        return numbers
    }

    private static func scalar(_ key: String, of entries: [YAMLNode.Entry]) -> String? {
        guard case .scalar(let text, _)? = entries.first(where: { $0.key == key })?.value.content else { return nil }
        return text
    }

    /// What is in the one mapping of a list.
    private static func only(_ key: String, of entries: [YAMLNode.Entry]) -> [YAMLNode.Entry]? {
        guard case .sequence(let elements)? = entries.first(where: { $0.key == key })?.value.content,
            elements.count == 1, case .mapping(let found) = elements[0].content
        else { return nil }
        return found
    }
}
