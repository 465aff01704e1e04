import CLinux
import Glibc
import MeshIdentity
package import Platform
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
        self.patience = patience
        self.connection = connection
        self.clock = clock
    }

    /// Serves one conversation to its end.
    ///
    /// - Throws: why it did not end well; the operator has been told, as far as it could be reached.
    package func run() throws(SignalError) {
        let device = DeviceInstallation(state: state, executable: executable, connection: connection)
        var conversation = DeviceConversation(with: device, clock: clock)
        var decoder = SignalFrameDecoder(limit: SignalFrame.maximumOrderLength)
        while true {
            switch conversation.next() {
            case .send(let message): send(message)
            case .receive: conversation.received(receive(&decoder))
            case .close(let error?): throw error
            case .close(nil): return
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

    private func receive(_ decoder: inout SignalFrameDecoder) -> SignalReception {
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
