import Foundation
import Synchronization
import TestPeers

/// Passes connections on to a port of this machine, cuts all of them when it is told to or when so many bytes have
/// passed, and refuses new ones for as long as it is closed.
final class CuttingLink: Sendable {
    private struct State {
        var pairs: [Int32: Int32] = [:]
        var listener: Int32 = -1
        var passed = 0
        /// Everything is cut whenever so many more have passed.
        var step = Int.max
        var cuts = 0
        var accepted = 0
        /// What has come in before this is silent for good.
        var silent: Set<Int32> = []
        /// The address that connections go on from.
        var source = "127.0.0.1"
    }

    let host: String
    let port: UInt16
    private let target: UInt16
    private let state = Mutex(State())

    /// - Parameters:
    ///   - host: The address to listen at, one of 127.0.0.0/8.
    ///   - port: nil for any free one: one that no connection of another test has by the time of ``reopen()``.
    init(to target: UInt16, host: String = "127.0.0.1", port: UInt16? = nil) throws {
        self.target = target
        self.host = host
        let port = port ?? FreePort.next()
        let listener = try Self.listen(host, port)
        self.port = port
        state.withLock { $0.listener = listener }
        serve(listener)
    }

    deinit { close() }

    /// How often everything was cut.
    var cuts: Int { state.withLock { $0.cuts } }

    /// Connections so far, and those that are open.
    var accepted: Int { state.withLock { $0.accepted } }
    var open: Int { state.withLock { $0.pairs.count } }
    /// What comes in from now on goes on from `source`, one of 127.0.0.0/8.
    func goOn(from source: String) { state.withLock { $0.source = source } }

    func cut(every bytes: Int) { state.withLock { ($0.step, $0.passed) = (bytes, 0) } }

    func cut() {
        state.withLock { state in
            state.cuts += 1
            for (near, far) in state.pairs {
                shutdown(near, Int32(SHUT_RDWR))
                shutdown(far, Int32(SHUT_RDWR))
            }
        }
    }

    /// What is in passes nothing any more, in either direction, and nobody is told. What comes in then passes.
    func silence() { state.withLock { $0.silent.formUnion($0.pairs.keys) } }

    /// Nothing gets in any more, and what is in is cut.
    func close() {
        closeListener()
        cut()
    }

    /// Nothing gets in any more.
    func closeListener() {
        let listener = state.withLock { state in
            defer { state.listener = -1 }
            return state.listener
        }
        if listener >= 0 { shutdown(listener, Int32(SHUT_RDWR)) }
    }

    func reopen() throws {
        let listener = try Self.listen(host, port)
        state.withLock { $0.listener = listener }
        serve(listener)
    }

    private static func address(_ host: String, _ port: UInt16) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        inet_pton(AF_INET, host, &address.sin_addr)
        return address
    }

    private static func with<Result>(
        _ address: inout sockaddr_in,
        _ body: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Result
    ) -> Result {
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        return withUnsafeMutablePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, &length) }
        }
    }

    private static func socket() -> Int32 {
        Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    }

    private static func listen(_ host: String, _ port: UInt16) throws -> Int32 {
        let listener = socket()
        var yes: Int32 = 1
        setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
        var address = address(host, port)
        guard with(&address, { bind(listener, $0, $1.pointee) }) == 0, Glibc.listen(listener, 1024) == 0 else {
            throw POSIXError(POSIXErrorCode(rawValue: errno) ?? .EIO)
        }
        return listener
    }

    private func serve(_ listener: Int32) {
        Thread { [weak self, target] in
            while true {
                let near = CloseOnExec.accept(listener)
                if near < 0 {
                    if errno == EINTR || errno == ECONNABORTED { continue }
                    break
                }
                guard let self else {
                    Glibc.close(near)
                    break
                }
                let far = Self.socket()
                var source = Self.address(self.state.withLock { $0.source }, 0)
                var address = Self.address("127.0.0.1", target)
                guard Self.with(&source, { bind(far, $0, $1.pointee) }) == 0,
                    Self.with(&address, { connect(far, $0, $1.pointee) }) == 0
                else {
                    Glibc.close(near)
                    Glibc.close(far)
                    continue
                }
                start(near, far)
            }
            Glibc.close(listener)
        }.start()
    }

    private func start(_ near: Int32, _ far: Int32) {
        state.withLock {
            $0.pairs[near] = far
            $0.accepted += 1
        }
        final class Counter: Sendable {
            let left = Atomic(2)
        }
        let counter = Counter()
        for (source, sink) in [(near, far), (far, near)] {
            Thread { [self] in
                pass(source, sink, of: near)
                guard counter.left.subtract(1, ordering: .sequentiallyConsistent).newValue == 0 else { return }
                state.withLock {
                    $0.pairs[near] = nil
                    $0.silent.remove(near)
                }
                Glibc.close(near)
                Glibc.close(far)
            }.start()
        }
    }

    private func pass(_ source: Int32, _ sink: Int32, of near: Int32) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = recv(source, &buffer, buffer.count, 0)
            guard count > 0 else { break }
            if state.withLock({ $0.silent.contains(near) }) { continue }
            if isDue(count) {
                cut()
                break
            }
            var sent = 0
            while sent < count {
                let written = buffer.withUnsafeBytes {
                    send(sink, $0.baseAddress.map { $0 + sent }, count - sent, Int32(MSG_NOSIGNAL))
                }
                guard written > 0 else { break }
                sent += written
            }
            guard sent == count else { break }
        }
        shutdown(source, Int32(SHUT_RDWR))
        shutdown(sink, Int32(SHUT_RDWR))
    }

    private func isDue(_ count: Int) -> Bool {
        state.withLock { state in
            state.passed += count
            guard state.passed >= state.step else { return false }
            state.passed = 0
            return true
        }
    }
}
