import MeshIdentity
import Platform
import YAML

/// A gateway that a device is reached through, as its node's configuration and log say: `reverse`, and what became of
/// the connection to it. What a device says is read as hostile: bounded, and cleaned before it is shown.
package struct DeviceGateway: Hashable, Sendable, Encodable {
    package enum State: String, Hashable, Sendable, Encodable {
        case up, down
        /// Its log does not say.
        case unknown
    }

    package var address: String
    /// Who it has proved to be, or is to be.
    package var identity: String?
    package var state: State
    /// Why it is not up.
    package var reason: String?

    /// More of them nobody has.
    private static let limit = 8

    /// - Parameters:
    ///   - configuration: `node.yaml`.
    ///   - log: Lines of the node's log that are about gateways, the oldest first.
    ///   - isRunning: Whether the node runs: what its log says last was of the one before, otherwise.
    static func read(_ configuration: String, log: [String], isRunning: Bool) -> [DeviceGateway] {
        guard let root = try? YAMLDocument.parse(configuration, file: "node.yaml"),
            case .sequence(let elements)? = value("reverse", of: root)
        else { return [] }
        return elements.prefix(limit).compactMap { element in
            guard case .scalar(let address, _)? = value("gateway", of: element) else { return nil }
            var gateway = DeviceGateway(address: Printable.clean(address, limit: 300), state: .unknown)
            if case .scalar(let identity, _)? = value("identity", of: element) {
                gateway.identity = Printable.clean(identity, limit: 300)
            }
            guard isRunning else {
                (gateway.state, gateway.reason) = (.down, "its node does not run")
                return gateway
            }
            for line in log { gateway.hear(line) }
            return gateway
        }
    }

    private static func value(_ key: String, of node: YAMLNode) -> YAMLNode.Content? {
        guard case .mapping(let entries) = node.content else { return nil }
        return entries.first { $0.key == key }?.value.content
    }

    /// One line of the log: `TIME LEVEL NAME: KEY=VALUE … [MODULE] MESSAGE`.
    private mutating func hear(_ line: String) {
        guard let place = line.firstRange(of: " [MeshPaths] ") else { return }
        let (facts, message) = (line[..<place.lowerBound], line[place.upperBound...])
        switch message {
        case "reachable through the gateway \(address)":
            (state, reason) = (.up, nil)
            if let proven = Self.fact("identity", in: facts) { identity = Printable.clean(proven, limit: 300) }
        case "not reachable through the gateway \(address) any more", "no connection to the gateway \(address)":
            (state, reason) = (.down, Self.fact("reason", in: facts).map { Printable.clean($0, limit: 500) })
        default: break
        }
    }

    /// What is behind a key, up to the end: keys stand in alphabetical order, and those asked for here are the last of
    /// their lines.
    private static func fact(_ key: String, in text: Substring) -> Substring? {
        guard let start = text.firstRange(of: " \(key)=")?.upperBound else { return nil }
        return text[start...]
    }

    /// Why nothing is carried through it, with what to do; nil: nothing is known against it.
    ///
    /// - Parameter device: Who the device is.
    func problem(for device: SPIFFEID) -> (text: String, fix: String)? {
        if let identity, let id = try? SPIFFEID(identity),
            id.trustDomain != device.trustDomain || id.namespace != device.namespace
        {
            return (
                "the gateway \(address) is \(id), of another namespace than the device: what enrolment allows is for "
                    + "members of the device's own, so that it carries nothing",
                "give the gateway an identity of that namespace, or the device a configuration of your own whose policy "
                    + "lets \(id) in (docs/configuration.md, Devices that cannot be dialled)"
            )
        }
        guard state == .down else { return nil }
        let why = reason.map { ": \($0)" } ?? ""
        let refused = reason?.contains("after the handshake") == true
        return (
            "it is not reached through the gateway \(address)\(why)",
            refused
                ? "add {match: NAME, reverse: true, identity: \"\(device)\"} to the endpoints of that gateway"
                : "its node dials again by itself: see that the gateway runs, and that the device may connect to it"
        )
    }

    /// `gw.example.org:15008 (up, spiffe://…)`.
    package var description: String {
        "\(address) (\(state == .unknown ? "not known whether it is up" : state.rawValue)\(identity.map { ", \($0)" } ?? ""))"
    }
}
