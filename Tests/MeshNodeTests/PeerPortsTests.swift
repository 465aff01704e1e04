import MeshIdentity
import Platform
import Streams
import Testing

@testable import MeshNode

/// How many ports a node listens on for its peers.
@Suite struct PeerPortsTests {
    private let first = try! SPIFFEID("spiffe://mesh.example/ns/prod/sa/first")
    private let second = try! SPIFFEID("spiffe://mesh.example/ns/prod/sa/second")
    private let third = try! SPIFFEID("spiffe://mesh.example/ns/prod/sa/third")

    private func address(_ port: UInt16) throws -> SocketAddress { try SocketAddress(ip: "127.0.0.1", port: port) }

    @Test("so many for each identity, and so many for all; what is released can be taken again") func limits() throws {
        let ports = PeerPorts(all: 5, each: 3)
        let own = try (1...3).map { try ports.take(try address($0), for: first) }
        var error = #expect(throws: StreamError.self) { try ports.take(try address(4), for: first) }
        #expect(error?.code == .limit && error?.message.contains("3 ports for this identity") == true)
        _ = try (4...5).map { try ports.take(try address($0), for: second) }
        error = #expect(throws: StreamError.self) { try ports.take(try address(6), for: third) }
        #expect(error?.code == .limit && error?.message.contains("5 ports for its peers") == true)
        // What a peer is told has room for no more than 256 characters.
        #expect((error?.message.utf8.count ?? 0) + "listen: ".utf8.count <= 256)
        ports.release(own[1])
        ports.release(own[1])
        #expect(ports.count == 4 && ports.count(of: first) == 2)
        _ = try ports.take(try address(6), for: third)
        #expect(throws: StreamError.self) { try ports.take(try address(7), for: first) }
    }
}
