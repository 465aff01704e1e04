import CLinux
import Foundation
import Streams

/// Passes each connection on to a port of this machine, and counts what passes.
public final class RelayServer: LoopbackServer, @unchecked Sendable {
    // Sendable: `watched` guards what changes; the rest is set once.
    private struct Watch {
        var passed = 0
        var limit = Int.max
        var action: @Sendable () -> Void = {}
    }

    private let recording = Lock<[UInt8]?>(nil)
    private let gate = Lock<Gate?>(nil)

    private struct Gate {
        var asked: [UInt8] = []
        let opens: @Sendable ([UInt8]) -> Bool
    }

    private let target: UInt16
    private let watched = Lock(Watch())

    /// - Parameter port: Where it listens; 0 for any free one.
    public init(to target: UInt16, port: UInt16 = 0) throws {
        self.target = target
        try super.init(port: port)
    }

    /// Bytes in both directions since the last ``watch(until:_:)``.
    public var passed: Int { watched.withLock { $0.passed } }

    /// Counts from zero, and calls `action` once before byte number `limit` is passed on; that byte never arrives.
    public func watch(until limit: Int = .max, _ action: @escaping @Sendable () -> Void = {}) {
        watched.withLock { $0 = Watch(limit: limit, action: action) }
    }

    /// Keeps what passes from now on, both ways in one.
    public func record() { recording.withLock { $0 = [] } }

    /// What has passed since ``record()``.
    public var recorded: [UInt8] { recording.withLock { $0 ?? [] } }

    /// Answers pass only while `opens` says so of all that clients have sent from now on: who waits for an answer with
    /// what would let it pass waits for ever.
    public func holdAnswers(unless opens: @escaping @Sendable ([UInt8]) -> Bool) {
        gate.withLock { $0 = Gate(opens: opens) }
    }

    private func waitForGate() {
        while gate.withLock({ $0.map { !$0.opens($0.asked) } ?? false }) { usleep(2000) }
    }

    override func serve(_ connection: Int32) -> Transfer {
        let other = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        defer { Glibc.close(other) }
        var address = loopbackAddress(port: target)
        guard withSocketAddress(&address, { connect(other, $0, $1) }) == 0 else {
            return Transfer(received: 0, checksum: Checksum.of([]), ending: .broken(errno))
        }
        let done = DispatchSemaphore(value: 0)
        Thread { [self] in
            pass(from: other, to: connection, isAnswer: true)
            done.signal()
        }.start()
        pass(from: connection, to: other, isAnswer: false)
        done.wait()
        return Transfer(received: 0, checksum: Checksum.of([]), ending: .endOfStream)
    }

    private func pass(from source: Int32, to sink: Int32, isAnswer: Bool) {
        var buffer = [UInt8](repeating: 0, count: 64 << 10)
        while true {
            let count = recv(source, &buffer, buffer.count, 0)
            if count > 0 { recording.withLock { $0?.append(contentsOf: buffer[..<count]) } }
            if count > 0, !isAnswer { gate.withLock { $0?.asked += buffer[..<count] } }
            if isAnswer { waitForGate() }
            guard count > 0, allows(count), send(count, of: buffer, to: sink) else { break }
        }
        // A half-close would do for most; what is watched here are processes that die.
        shutdown(sink, Int32(SHUT_RDWR))
        shutdown(source, Int32(SHUT_RDWR))
    }

    private func allows(_ count: Int) -> Bool {
        let action: (@Sendable () -> Void)? = watched.withLock { watch in
            let before = watch.passed
            watch.passed += count
            guard watch.passed >= watch.limit else { return nil }
            return before < watch.limit ? watch.action : {}
        }
        action?()
        return action == nil
    }

    private func send(_ count: Int, of buffer: [UInt8], to sink: Int32) -> Bool {
        var sent = 0
        while sent < count {
            let written = buffer.withUnsafeBytes {
                Glibc.send(sink, $0.baseAddress.map { $0 + sent }, count - sent, Int32(MSG_NOSIGNAL))
            }
            guard written > 0 else { return false }
            sent += written
        }
        return true
    }
}
