import CLinux
import Glibc
import Platform
import TestPeers

@testable import Streams

/// A name server on loopback that says what a test wants, over UDP and TCP: a stand-in, because the real ones are never
/// silent and cannot be asked what they were asked.
final class NameServer: Sendable {
    enum QuestionType: UInt16 {
        case a = 1
        case aaaa = 28
        case other = 0
    }

    enum Reply {
        /// IPv4 addresses, which may be none.
        case answer([[UInt8]])
        /// The same with the truncation flag, and in full over TCP.
        case overTCP([[UInt8]])
        /// The same, when the test says so.
        case hold([[UInt8]])
        case noSuchName
        case silence
    }

    let port: UInt16
    private let core: Core
    private let wake: Int32

    init(
        address: String = "127.0.0.1",
        port: UInt16 = 0,
        _ script: @escaping @Sendable (String, QuestionType) -> Reply
    ) throws {
        let tcp = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let udp = socket(AF_INET, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let port = port == 0 ? FreePort.next() : port
        let place = try SocketAddress(ip: address, port: port)
        for descriptor in [tcp, udp] where place.withSockaddr({ bind(descriptor, $0, $1) }) != 0 {
            throw StreamError.system(errno, "bind")
        }
        listen(tcp, 16)
        var ends: [Int32] = [-1, -1]
        clinux_pipe(&ends)
        self.port = port
        wake = ends[1]
        core = Core(udp: udp, tcp: tcp, wake: ends[0], script)
        startThread { [core] in core.serve() }
    }

    deinit { close(wake) }

    /// What was asked for, question for question.
    var names: [String] { core.state.withLock(\.names) }

    /// Questions that wait for ``release()``.
    var held: Int { core.state.withLock { $0.held.count } }

    func release() { core.release() }

    private final class Core: Sendable {
        struct Held {
            let peer: sockaddr_in
            let message: [UInt8]
        }

        struct State {
            var names: [String] = []
            var held: [Held] = []
        }

        let state = Lock(State())
        private let udp: Int32
        private let tcp: Int32
        private let wake: Int32
        private let script: @Sendable (String, QuestionType) -> Reply

        init(udp: Int32, tcp: Int32, wake: Int32, _ script: @escaping @Sendable (String, QuestionType) -> Reply) {
            self.udp = udp
            self.tcp = tcp
            self.wake = wake
            self.script = script
        }

        deinit { for descriptor in [udp, tcp, wake] { close(descriptor) } }

        func serve() {
            while true {
                var polled = [udp, tcp, wake].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
                poll(&polled, 3, -1)
                if polled[2].revents != 0 { return }
                if polled[0].revents != 0 { answerDatagram() }
                if polled[1].revents != 0 { answerConnection() }
            }
        }

        func release() {
            let held = state.withLock { state in
                defer { state.held = [] }
                return state.held
            }
            for one in held { send(one.message, to: one.peer) }
        }

        private func answerDatagram() {
            var bytes = [UInt8](repeating: 0, count: 1500)
            var peer = sockaddr_in()
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            let count = withUnsafeMutablePointer(to: &peer) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { recvfrom(udp, &bytes, 1500, 0, $0, &length) }
            }
            guard count > 12 else { return }
            let question = Array(bytes[..<count])
            let (name, type) = Self.parse(question)
            state.withLock { $0.names.append(name) }
            switch script(name, type) {
            case .answer(let addresses): send(Self.message(question, addresses: addresses), to: peer)
            case .overTCP: send(Self.message(question, isTruncated: true), to: peer)
            case .noSuchName: send(Self.message(question, code: 3), to: peer)
            case .hold(let addresses):
                let held = Held(peer: peer, message: Self.message(question, addresses: addresses))
                state.withLock { $0.held.append(held) }
            case .silence: break
            }
        }

        private func answerConnection() {
            let connection = acceptedDescriptor(tcp)
            defer { close(connection) }
            var bytes = [UInt8](repeating: 0, count: 1500)
            var count = 0
            while count < 2 || count < 2 + Int(bytes[0]) << 8 + Int(bytes[1]) {
                let more = bytes.withUnsafeMutableBytes { read(connection, $0.baseAddress! + count, 1500 - count) }
                guard more > 0 else { return }
                count += more
            }
            let question = Array(bytes[2..<count])
            let (name, type) = Self.parse(question)
            guard case .overTCP(let addresses) = script(name, type) else { return }
            let message = Self.message(question, addresses: addresses)
            let framed = [UInt8(message.count >> 8), UInt8(message.count & 0xFF)] + message
            _ = write(connection, framed, framed.count)
            // Until the other side has read it.
            while read(connection, &bytes, 1500) > 0 {}
        }

        private func send(_ message: [UInt8], to peer: sockaddr_in) {
            var peer = peer
            _ = withUnsafePointer(to: &peer) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    sendto(udp, message, message.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        }

        private static func parse(_ message: [UInt8]) -> (name: String, type: QuestionType) {
            var labels: [String] = []
            var index = 12
            while index < message.count, message[index] != 0 {
                let end = index + 1 + Int(message[index])
                guard end < message.count else { break }
                labels.append(String(decoding: message[(index + 1)..<end], as: UTF8.self))
                index = end
            }
            guard index + 2 < message.count else { return ("", .other) }
            let type = UInt16(message[index + 1]) << 8 | UInt16(message[index + 2])
            return (labels.joined(separator: "."), QuestionType(rawValue: type) ?? .other)
        }

        /// The question's identifier and section, with answers that point to its name.
        private static func message(
            _ question: [UInt8],
            addresses: [[UInt8]] = [],
            code: UInt8 = 0,
            isTruncated: Bool = false
        ) -> [UInt8] {
            var message = question
            message[2] = 0x81 | (isTruncated ? 2 : 0)
            message[3] = 0x80 | code
            message[6] = 0
            message[7] = UInt8(addresses.count)
            for address in addresses { message += [0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4] + address }
            return message
        }
    }
}
