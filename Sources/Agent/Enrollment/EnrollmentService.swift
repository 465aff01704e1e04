import CLinux
import Glibc
import MeshIdentity
import Platform
package import SSHSignal

/// The far end of the signaling channel: `bootstrap signal`, started over SSH on the device. Blocks; every wait has its limit.
package struct EnrollmentService {
    /// Absolute: where credential, configuration and node live.
    package var state: String
    /// Absolute: the program that is started as the node, normally this one.
    package var executable: String
    package var input: Int32
    package var output: Int32
    /// How long the operator may say nothing.
    package var patience: Duration
    /// `$SSH_CONNECTION`: tells which address of this machine was reached.
    package var connection: String?
    /// This machine's clock, milliseconds since 1970.
    package var clock: () -> Int64

    package init(
        state: String,
        executable: String,
        input: Int32 = 0,
        output: Int32 = 1,
        patience: Duration = .seconds(60),
        connection: String? = nil,
        clock: @escaping () -> Int64 = SystemClock.milliseconds
    ) {
        self.state = state
        self.executable = executable
        self.input = input
        self.output = output
        self.patience = patience
        self.connection = connection
        self.clock = clock
    }

    /// Serves one conversation to its end.
    ///
    /// - Throws: why it did not end well; the operator has been told, as far as it could be reached.
    package func run() throws(SignalError) {
        let installation = DeviceInstallation(state: state, executable: executable, connection: connection)
        var machine = EnrollmentDevice(software: AgentRelease.software)
        var decoder = SignalFrameDecoder()
        var pending: PendingCredential?
        var lock: FileLock?
        defer { withExtendedLifetime(lock) {} }
        var events: [EnrollmentDevice.Event] = [.started]
        while true {
            let event = events.isEmpty ? receive(&decoder) : events.removeFirst()
            for action in machine.handle(event, now: clock()) {
                do throws(SignalError) {
                    switch action {
                    case .send(let message):
                        send(message)
                    case .prepareKey(let order):
                        try installation.prepare()
                        if lock == nil { lock = try installation.lock() }
                        let prepared = try installation.prepareKey(order)
                        pending = prepared
                        let csr = String(decoding: prepared.request.pem, as: UTF8.self)
                        events.append(.prepared(.init(id: prepared.id.description, csr: csr)))
                    case .discardKey:
                        pending = nil
                    case .install(let certificate, let order):
                        guard let key = pending else {
                            throw SignalError(.credential, "there is no key for this certificate")
                        }
                        pending = nil
                        events.append(.installed(try installation.install(certificate, key, for: order)))
                    case .reportEndpoints:
                        events.append(.endpoints(installation.endpoints()))
                    case .takeRevocations(let lists):
                        if lock == nil { lock = try installation.lock() }
                        events.append(.tookRevocations(changed: try installation.takeRevocations(lists)))
                    case .close(let error):
                        if let error { throw error }
                        return
                    }
                } catch {
                    if case .close = action { throw error }
                    events.append(.failed(error))
                }
            }
        }
    }

    private func send(_ message: SignalMessage) {
        // An operator that is gone shows itself at the next read; what is under way is brought to its end before.
        guard let frame = try? SignalFrame.encode(message) else { return }
        var rest = frame[...]
        let deadline = ContinuousClock.now + patience
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(output, $0.baseAddress, $0.count) }
            if count > 0 {
                rest = rest.dropFirst(count)
            } else if errno == EAGAIN {
                guard wait(output, POLLOUT, until: deadline) else { return }
            } else if errno != EINTR {
                return
            }
        }
    }

    private func receive(_ decoder: inout SignalFrameDecoder) -> EnrollmentDevice.Event {
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        let deadline = ContinuousClock.now + patience
        while true {
            do throws(SignalError) {
                if let message = try decoder.next() { return .message(message) }
            } catch {
                return .invalid(error)
            }
            guard wait(input, POLLIN, until: deadline) else { return .timedOut(patience) }
            let count = read(input, &chunk, chunk.count)
            if count > 0 {
                decoder.append(chunk[..<count])
            } else if count == 0 {
                do throws(SignalError) {
                    try decoder.finish()
                    return .ended(nil)
                } catch {
                    return .ended(error)
                }
            } else if errno != EINTR, errno != EAGAIN {
                return .ended(SignalError(.truncated, "reading failed: \(String(cString: strerror(errno)))"))
            }
        }
    }

    private func wait(_ descriptor: Int32, _ events: Int32, until deadline: ContinuousClock.Instant) -> Bool {
        while true {
            let left = ContinuousClock.now.duration(to: deadline)
            guard left > .zero else { return false }
            let (seconds, attoseconds) = left.components
            let milliseconds = min(seconds * 1000 + attoseconds / 1_000_000_000_000_000 + 1, Int64(Int32.max))
            var waiting = pollfd(fd: descriptor, events: Int16(events), revents: 0)
            let result = poll(&waiting, 1, Int32(milliseconds))
            if result > 0 { return true }
            if result < 0, errno != EINTR { return false }
        }
    }
}
