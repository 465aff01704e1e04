import Foundation
import Logging
import MeshIdentity
import MeshNode
import Streams
import TestPeers
import Testing

/// A server node and a client node in this process, joined over loopback, with a backend behind the server: what a whitebox
/// user has.
final class NodePair: Sendable {
    let directory = TemporaryDirectory()
    let server: Node
    let client: Node
    /// The client's whitebox listener.
    let entry: UInt16
    /// The server's HBONE listener.
    let hbone: UInt16

    /// - Parameters:
    ///   - backend: The port that the stream leads to.
    ///   - allowed: Ports that the server's policy names; by default the backend's.
    init(
        to backend: UInt16,
        allowed: [UInt16]? = nil,
        server serverKind: TestCertificates.Kind = .server,
        client clientKind: TestCertificates.Kind = .client,
        expecting: String? = "spiffe://mesh.example/ns/prod/sa/server",
        ssh: String = "",
        path: String = "auto"
    ) async throws {
        let certificates = TestCertificates.shared
        let serverFile = try directory.write(
            "server.yaml",
            Self.serverYAML(identity: certificates.path(serverKind), ports: allowed ?? [backend])
        )
        server = Node(
            try NodeConfiguration.load(serverFile),
            configurationFile: serverFile,
            loops: 1,
            logger: Logger(label: "server")
        )
        hbone = try #require(try await server.start().first).address.port
        let clientFile = try directory.write(
            "client.yaml",
            """
            identity: \(certificates.path(clientKind))
            listeners:
            - {name: in, bind: "127.0.0.1:0", protocol: tcp, forwardTo: "127.0.0.1:\(backend)"}
            endpoints:
            - match: "127.0.0.1:\(backend)"
              hbone: "127.0.0.1:\(hbone)"
              path: \(path)
            \(expecting.map { "  identity: \"\($0)\"" } ?? "")
            \(ssh)
            """
        )
        client = Node(
            try NodeConfiguration.load(clientFile),
            configurationFile: clientFile,
            loops: 1,
            logger: Logger(label: "client")
        )
        entry = try #require(try await client.start().first).address.port
    }

    static func serverYAML(identity: String, ports: [UInt16], bind: UInt16 = 0) -> String {
        """
        identity: \(identity)
        listeners:
        - {name: hbone, bind: "127.0.0.1:\(bind)", protocol: hbone}
        policy:
        - name: backend
          action: ALLOW
          rules:
          - from: [{namespaces: [prod]}]
            to: [{hosts: ["127.0.0.1"], ports: [\(ports.map(String.init).joined(separator: ", "))]}]
        """
    }

    func stop() async {
        await client.drain(deadline: .seconds(1))
        await server.drain(deadline: .seconds(1))
    }
}

/// A blocking TCP client, on a thread of its own.
struct TCPClient {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    /// How a conversation ended.
    enum Ending: Equatable, Sendable {
        case endOfStream
        /// The `errno` of the call that failed.
        case broken(Int32)
    }

    /// Sends `bytes`, ends its direction unless `staysOpen`, and reads to the end.
    static func exchange(
        port: UInt16,
        sending bytes: [UInt8],
        staysOpen: Bool = false,
        limit: Int = 30
    ) async throws -> (received: [UInt8], Ending) {
        try await onThread {
            let descriptor = try connect(port, limit: limit)
            defer { close(descriptor) }
            let sender = Thread {
                var rest = bytes[...]
                while !rest.isEmpty {
                    let count = rest.withUnsafeBytes { send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
                    guard count > 0 else { return }
                    rest = rest.dropFirst(count)
                }
                if !staysOpen { shutdown(descriptor, Int32(SHUT_WR)) }
            }
            sender.start()
            var received: [UInt8] = []
            var chunk = [UInt8](repeating: 0, count: 1 << 18)
            while true {
                let count = recv(descriptor, &chunk, chunk.count, 0)
                if count == 0 { return (received, .endOfStream) }
                guard count > 0 else { return (received, .broken(errno)) }
                received += chunk[..<count]
            }
        }
    }

    private static func connect(_ port: UInt16, limit: Int) throws -> Int32 {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var timeout = timeval(tv_sec: limit, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else {
            close(descriptor)
            throw Failure(description: "connect: \(String(cString: strerror(errno)))")
        }
        return descriptor
    }

    private static func onThread<Success: Sendable>(
        _ body: @escaping @Sendable () throws -> Success
    ) async throws -> Success {
        try await withCheckedThrowingContinuation { continuation in
            Thread { continuation.resume(with: Result { try body() }) }.start()
        }
    }
}
