import CLinux
import Glibc
import MeshIdentity
package import Platform
package import SSHSignal

/// The far end of the signaling channel: `bootstrap signal`, started over SSH on the device. Blocks; every wait has its
/// limit.
package struct EnrollmentService {
    /// Absolute: where credential, configuration and node live.
    package var state: String
    /// Absolute: the program that is started as the node, normally this one.
    package var executable: String
    package var input: Int32
    package var output: Int32
    /// How much the operator may take.
    package var limits = ConversationLimits.ofDevice
    /// `$SSH_CONNECTION`: tells which address of this machine was reached.
    package var connection: String?
    /// This machine's clock, milliseconds since 1970.
    package var clock: WallClock

    package init(
        state: String,
        executable: String,
        input: Int32 = 0,
        output: Int32 = 1,
        patience: Duration = .seconds(60),
        connection: String? = nil,
        clock: WallClock = .system
    ) {
        self.state = state
        self.executable = executable
        self.input = input
        self.output = output
        limits.step = patience
        self.connection = connection
        self.clock = clock
    }

    /// Serves one conversation to its end.
    ///
    /// - Throws: why it did not end well; the operator has been told, as far as it could be reached.
    package func run() throws(SignalError) {
        defer { InstallerLock(state: state).release() }
        let device = DeviceInstallation(state: state, executable: executable, connection: connection)
        var conversation = DeviceConversation(with: device, clock: clock)
        var inbox = SignalInbox(limits)
        let start = ContinuousClock.now
        while true {
            switch conversation.next() {
            case .send(let message): send(message, since: start)
            case .receive: conversation.received(receive(&inbox, since: start))
            case .close(let error?): throw error
            case .close(nil): return
            }
        }
    }

    private func send(_ message: SignalMessage, since start: ContinuousClock.Instant) {
        // An operator that is gone shows itself at the next read; what is under way is brought to its end before.
        guard let frame = try? SignalFrame.encode(message) else { return }
        var rest = frame[...]
        let now = ContinuousClock.now
        let deadline = now + limits.sendingTime(at: now - start, bytes: frame.count)
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

    private func receive(_ inbox: inout SignalInbox, since start: ContinuousClock.Instant) -> SignalReception {
        var chunk = [UInt8](repeating: 0, count: 16 << 10)
        let asked = ContinuousClock.now - start
        while true {
            let now = ContinuousClock.now - start
            do throws(SignalError) {
                if let message = try inbox.next() { return .message(message) }
            } catch {
                return .invalid(error)
            }
            guard let patience = inbox.patience(at: now, since: asked) else { return inbox.overrun(at: now) }
            // A wait that was too long ends in the line above.
            guard wait(input, POLLIN, until: ContinuousClock.now + patience) else { continue }
            let count = read(input, &chunk, chunk.count)
            if count > 0 {
                do throws(SignalError) {
                    try inbox.append(chunk[..<count])
                } catch {
                    return .invalid(error)
                }
            } else if count == 0 {
                do throws(SignalError) {
                    try inbox.finish()
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
