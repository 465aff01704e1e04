import H2Transport
import MeshPolicy
import Streams
import Testing

@testable import MeshPaths

/// What a server takes for what carried a request.
@Suite struct TransportMarkTests {
    @Test(
        arguments: [
            ("127.0.0.1", "h2-over-ssh", Transport.h2OverSSH), ("::1", "h2-over-ssh", .h2OverSSH),
            // Loopback proves nothing.
            ("127.0.0.1", nil, .h2), ("127.0.0.1", "ssh", .h2), ("127.0.0.1", "h2", .h2), ("127.0.0.1", "", .h2),
            // Who comes over the network does not come over SSH.
            ("10.0.0.9", "h2-over-ssh", .h2), ("10.0.0.9", nil, .h2),
            // Put together from several streams.
            (nil, nil, .h2OverSSH), (nil, "h2-over-ssh", .h2OverSSH),
        ] as [(String?, String?, Transport)]
    ) func isBelievedFromTheMachineOnly(_ address: String?, _ mark: String?, _ expected: Transport) throws {
        var headers = HeaderFields()
        if let mark { headers.append("x-transport", mark) }
        let remote = try address.map { try SocketAddress(ip: $0, port: 4711) }
        #expect(TransportMark.transport(headers, from: remote) == expected)
    }

    @Test func isSentOverSSHOnly() {
        #expect(TransportMark.headers(for: .h2).isEmpty)
        #expect(TransportMark.headers(for: .h2OverSSH)["x-transport"] == "h2-over-ssh")
    }
}
