import CLinux
import Glibc
package import Platform

/// Interfaces, addresses or routes of this machine have changed.
package struct NetworkChange: Sendable {
    /// Addresses that were there at the last look, and are no more: what is sent from them reaches nobody.
    package var gone: Set<IPAddress> = []

    package init(gone: Set<IPAddress> = []) { self.gone = gone }
}

/// Hears of changes of the network from the kernel (rtnetlink(7)). Confined to its event loop, which retains it until
/// ``close()``.
package final class NetworkWatch: PollHandler {
    private let loop: EventLoop
    private var descriptor: Int32
    private let onChange: (NetworkChange) -> Void
    private var known: Set<InterfaceAddress>
    private var pacing = ChangePacing()
    private var timer: LoopTimer?
    /// What is to be told counts whatever the addresses are.
    private var isCertain = false
    /// An address cannot be used yet.
    private var hasTentative = false

    /// The kernel's own messages are smaller than a page, a datagram of them may be two.
    private static let capacity = 32768

    /// - Parameter onChange: Called on the loop, some time after a change: several that come together are one.
    /// - Throws: Where there is no such socket: another kernel, a container that may not have it.
    package init(on loop: EventLoop, onChange: @escaping (NetworkChange) -> Void) throws(StreamError) {
        loop.preconditionInLoop()
        self.loop = loop
        self.onChange = onChange
        descriptor = clinux_watch_network()
        guard descriptor >= 0 else { throw .system(errno, "cannot watch the addresses of this machine") }
        known = Set(InterfaceAddress.all())
        timer = LoopTimer(on: loop) { [weak self] in self?.tell() }
        do {
            try loop.register(descriptor, handler: self, for: .level)
        } catch {
            _ = Glibc.close(descriptor)
            descriptor = -1
            throw error
        }
    }

    /// Idempotent.
    package func close() {
        guard descriptor >= 0 else { return }
        loop.unregister(descriptor)
        loopStopped()
    }

    func loopStopped() {
        timer?.cancel()
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
        descriptor = -1
    }

    func pollReady(_ events: PollEvents) {
        // Bounded, so that a flood leaves others their turn; what waits is reported again.
        withUnsafeTemporaryAllocation(byteCount: Self.capacity, alignment: 16) { buffer in
            for _ in 0..<64 where descriptor >= 0 {
                var isKernels: Int32 = 0
                let count = clinux_receive_netlink(descriptor, buffer.baseAddress, buffer.count, &isKernels)
                if count > 0 {
                    guard isKernels != 0 else { continue }
                    heard(RouteMessages(reading: UnsafeRawBufferPointer(rebasing: buffer[..<count])))
                    continue
                }
                switch errno {
                case EINTR where count < 0: continue
                // Messages were lost: whatever they said, something has changed.
                case ENOBUFS where count < 0: heard(.unreadable)
                default: return
                }
            }
        }
    }

    private func heard(_ messages: RouteMessages) {
        var isCertain = !messages.isDisjoint(with: [.routes, .unreadable])
        if messages.contains(.usable), hasTentative {
            hasTentative = false
            isCertain = true
        }
        if messages.contains(.tentative) { hasTentative = true }
        guard isCertain || messages.contains(.addresses) else { return }
        if isCertain { self.isCertain = true }
        if let delay = pacing.changed(now: loop.now) { timer?.schedule(after: delay) }
    }

    private func tell() {
        let before = known
        known = Set(InterfaceAddress.all())
        let isChange = isCertain || known != before
        isCertain = false
        // Lifetimes of addresses that are renewed, signal strengths: nothing has become of those.
        guard isChange else { return pacing.forgotten() }
        pacing.told(now: loop.now)
        onChange(NetworkChange(gone: Set(before.map(\.address)).subtracting(known.map(\.address))))
    }
}
