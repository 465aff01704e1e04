import Glibc
package import Platform
import Streams

/// Something that must be captured, tried to see whether it is: a connection to an address that stands in documents
/// only, so that nobody is troubled where it is not, or a question to a name server about an address of the mesh.
package struct CaptureTrial: Sendable {
    package enum Outcome: Hashable, Sendable {
        /// Somebody took the connection, or answered, who can only have been the listener.
        case taken
        case refused
        case silence
        case failed(String)
    }

    /// Why nothing can be tried from here.
    package struct Untried: Error, Hashable, Sendable {
        package var reason: String
    }

    package let address: IPAddress
    package let port: UInt16
    /// What a name server is asked; nil: it is a connection.
    private let question: [UInt8]?

    /// RFC 5737 and RFC 3849.
    private static let documentation = ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"]

    /// For people.
    package var description: String {
        "a \(question == nil ? "connection" : "question") to \(address) port \(port)"
    }

    /// One for each family, of what `listener` gets from programs of this machine.
    ///
    /// - Parameter nameServers: Those of this machine.
    package static func trials(
        for listener: NodeConfiguration.Listener,
        nameServers: [IPAddress]
    ) throws(Untried) -> [CaptureTrial] {
        guard let capture = listener.capture else { throw Untried(reason: "it has no 'capture'") }
        if let obstacle = obstacle(to: capture, of: listener) { throw Untried(reason: obstacle) }
        let isNames = listener.protocol == .dns
        let candidates =
            isNames ? nameServers : documentation.compactMap { IPAddress($0) } + capture.cidrs.map(\.network)
        let ports: [ClosedRange<UInt16>] =
            isNames ? [53...53] : capture.ports.isEmpty ? [80...80, 8080...8080, 1024...65535] : capture.ports
        let port = ports.lazy.flatMap { $0 }.first { port in
            port != 22 && !capture.excludePorts.contains { $0.contains(port) }
        }
        let question = isNames ? Self.question(about: listener.names.blocks.ipv4.network) : nil
        let trials = [true, false].compactMap { isIPv4 -> CaptureTrial? in
            let found = candidates.first { address in
                address.isIPv4 == isIPv4 && !capture.excludeCIDRs.contains { $0.contains(address) }
                    && (capture.cidrs.isEmpty || capture.cidrs.contains { $0.contains(address) })
            }
            guard let found, let port else { return nil }
            return CaptureTrial(address: found, port: port, question: question)
        }
        guard !trials.isEmpty else { throw Untried(reason: "there is no address and port to try that it captures") }
        return trials
    }

    /// Why no program of this user is captured.
    private static func obstacle(
        to capture: NodeConfiguration.Capture,
        of listener: NodeConfiguration.Listener
    ) -> String? {
        let (user, group) = (getuid(), getgid())
        if listener.protocol == .transparent, listener.transparency.direction == .inbound {
            return "it captures what others send here"
        }
        if !capture.local { return "it captures what other machines send" }
        if !capture.cgroups.isEmpty { return "it captures programs of its cgroups only" }
        let isUser = capture.users.isEmpty || capture.users.contains(user)
        if !isUser || capture.excludeUsers.contains(user) { return "it does not capture programs of uid \(user)" }
        let isGroup = capture.groups.isEmpty || capture.groups.contains(group)
        if !isGroup || capture.excludeGroups.contains(group) { return "it does not capture programs of gid \(group)" }
        return nil
    }

    /// For the name of an address of the mesh, which the listener knows by itself, and nobody else does.
    private static func question(about address: IPAddress) -> [UInt8] {
        let labels: [Substring] = address.description.split(separator: ".").reversed() + ["in-addr", "arpa"]
        let name: [UInt8] = labels.flatMap { [UInt8($0.utf8.count)] + Array($0.utf8) } + [0]
        let head: [UInt8] = [UInt8.random(in: 0...255), UInt8.random(in: 0...255), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]
        // PTR, of the Internet.
        return head + name + [0, 12, 0, 1]
    }

    /// Blocks, for two seconds where nobody answers.
    package func run() -> Outcome {
        let place = SocketAddress(address, port: port)
        let limit = Duration.seconds(2)
        return switch question.map({ place.exchange($0, within: limit) }) ?? place.attempt(within: limit) {
        // Reset once it was there: the listener has it, and leads it nowhere.
        case 0, ECONNRESET: .taken
        case ECONNREFUSED: .refused
        case ETIMEDOUT: .silence
        case let number: .failed(String(cString: strerror(number)))
        }
    }
}
