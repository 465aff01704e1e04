import CLinux
import Glibc
import TestPeers
import Testing

@testable import Streams

/// A UDP socket, and clients that take answers only from whom they have asked.
@Suite(.timeLimit(.minutes(10))) struct DatagramSocketTests {
    /// Bound to every address, it answers from the one that was asked.
    @Test(arguments: [("0.0.0.0", "127.0.0.1"), ("0.0.0.0", "127.0.0.9"), ("::", "::1"), ("127.0.0.7", "127.0.0.7")])
    func answersLeaveFromTheAddressThatWasAsked(_ bind: String, _ asked: String) async throws {
        let answer = try await withLoop { loop in
            let port = try await loop.execute {
                var socket: DatagramSocket?
                let receiving = try DatagramSocket(bind: SocketAddress(ip: bind, port: 0), on: loop, isIPv6Only: true) {
                    bytes,
                    ends in
                    socket?.answer(ends, [UInt8](bytes) + [2])
                } closed: {
                    socket = nil
                }
                socket = receiving
                return receiving.localAddress.port
            }
            let server = try SocketAddress(ip: asked, port: port)
            let client = socket(server.family, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            defer { close(client) }
            var limit = timeval(tv_sec: 20, tv_usec: 0)
            setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
            // Connected: the kernel drops what another address sends.
            let connected = server.withSockaddr { connect(client, $0, $1) }
            try #require(connected == 0)
            var bytes: [UInt8] = [1, 0, 0]
            try #require(send(client, bytes, 1, 0) == 1)
            let count = recv(client, &bytes, bytes.count, 0)
            return Array(bytes.prefix(max(0, count)))
        }
        #expect(answer == [1, 2])
    }
}
