import CLinux
import Glibc

/// Keeps a finished socket open until its peer has acknowledged everything, dropping what the peer still sends.
///
/// close(2) with unread input aborts the connection (RFC 2525 §2.17), and with it what waits in the send buffer.
/// Retained by the loop until it is done.
final class LingeringClose: PollHandler {
    private let descriptor: Int32
    private let loop: EventLoop
    private var timer: LoopTimer?
    private var unacknowledged = Int.max
    private var idleTicks = 0

    /// The kernel tells nobody that everything was acknowledged, so it is asked this often.
    private static var tick: Duration { .milliseconds(20) }
    /// Gives up when the peer has acknowledged nothing for 30 seconds.
    private static var idleTicksAllowed: Int { 1500 }

    /// Takes over a finished, unregistered descriptor.
    init(_ descriptor: Int32, on loop: EventLoop) {
        self.descriptor = descriptor
        self.loop = loop
    }

    func start() {
        guard (try? loop.register(descriptor, handler: self, for: .level)) != nil else {
            _ = Glibc.close(descriptor)
            return
        }
        loop.departing += 1
        let timer = LoopTimer(on: loop) { [unowned self] in check() }
        self.timer = timer
        timer.schedule(after: Self.tick)
    }

    func pollReady(_ events: PollEvents) {
        let buffer = loop.buffers.take(.medium)
        defer { loop.buffers.give(buffer) }
        // Bounded, so that a peer that sends for ever shares the loop; what is left is reported again.
        for _ in 0..<16 {
            let count = recv(descriptor, buffer.base, buffer.capacity, 0)
            if count > 0 { continue }
            if count < 0 && errno == EINTR { continue }
            if count < 0 && errno == EAGAIN { return }
            // The peer ended or died: the kernel does the rest by itself.
            return end()
        }
    }

    func loopStopped() {
        _ = Glibc.close(descriptor)
    }

    private func check() {
        let now = Self.unacknowledgedBytes(of: descriptor)
        idleTicks = now < unacknowledged ? 0 : idleTicks + 1
        unacknowledged = now
        if now == 0 || idleTicks > Self.idleTicksAllowed { return end() }
        timer?.schedule(after: Self.tick)
    }

    private func end() {
        loop.departing -= 1
        timer?.cancel()
        timer = nil
        loop.unregister(descriptor)
        _ = Glibc.close(descriptor)
    }

    /// What the peer has not acknowledged of the bytes and the end that were sent (SIOCOUTQ, tcp(7)).
    static func unacknowledgedBytes(of descriptor: Int32) -> Int {
        var count: Int32 = 0
        return ioctl(descriptor, UInt(TIOCOUTQ), &count) == 0 ? Int(count) : 0
    }
}
