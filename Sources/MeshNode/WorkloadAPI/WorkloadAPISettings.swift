package import MeshIdentity
import Streams

/// The Workload API of a SPIFFE agent, as the key `identity` names it.
package struct WorkloadAPISettings: Hashable, Sendable, CustomStringConvertible {
    /// The path of the agent's Unix socket.
    package var socket: String
    /// Which of several identities; `nil`: the first.
    package var spiffeID: SPIFFEID?
    /// How long a start waits for the first SVID.
    package var startTimeout = WorkloadAPISettings.defaultStartTimeout

    package static let defaultStartTimeout = Duration.seconds(30)

    package init(socket: String, spiffeID: SPIFFEID? = nil) {
        self.socket = socket
        self.spiffeID = spiffeID
    }

    /// For messages.
    package var description: String { "the Workload API at \(socket)" }

    /// Reads an endpoint as SPIFFE writes it: `unix:///run/spire/sockets/agent.sock`.
    ///
    /// - Returns: The path.
    /// - Throws: ``Streams/StreamError`` with code `badRequest`.
    static func socketPath(_ endpoint: String) throws(StreamError) -> String {
        let shown = endpoint.prefix(80)
        guard let colon = endpoint.firstIndex(of: ":"), endpoint[..<colon] == "unix" else {
            throw StreamError(
                .badRequest,
                endpoint.hasPrefix("tcp:")
                    ? "'\(shown)': a private key would go over the network in the clear; write the agent's Unix socket, "
                        + "unix:///run/spire/sockets/agent.sock"
                    : "'\(shown)' is no Unix socket: write unix:// and its absolute path, as unix:///run/spire/sockets/agent.sock"
            )
        }
        var path = endpoint[endpoint.index(after: colon)...]
        if path.hasPrefix("//") { path = path.dropFirst(2) }
        guard path.hasPrefix("/"), !path.contains(where: { "?#%".contains($0) }) else {
            throw StreamError(
                .badRequest,
                "'\(shown)': after unix:// comes an absolute path, without '?', '#' and '%': unix:///run/spire/sockets/agent.sock"
            )
        }
        _ = try SocketAddress(unixPath: String(path))
        return String(path)
    }
}
