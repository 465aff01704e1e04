import CLinux
import Glibc

/// A UDP socket. Confined to its event loop, which retains it until ``close()``.
package final class DatagramSocket: PollHandler {
    /// Between whom a datagram has travelled.
    package struct Ends: Hashable, Sendable {
        package var peer: SocketAddress
        /// The address of this machine that it was sent to; nil where the kernel does not tell.
        package var own: SocketAddress?
    }

    /// Where it is bound.
    package let localAddress: SocketAddress
    private let loop: EventLoop
    private var descriptor: Int32
    private let received: (UnsafeRawBufferPointer, Ends) -> Void
    private var closed: (() -> Void)?

    /// - Parameters:
    ///   - address: Port 0 lets the kernel choose.
    ///   - loop: Where it lives.
    ///   - isIPv6Only: Leaves IPv4 alone when bound to `::`.
    ///   - isShared: Another process, which takes over, may bind the same address (SO_REUSEPORT).
    ///   - received: Called on the loop for each datagram, with its bytes, which are the callee's only inside the call,
    ///     and whom it is from.
    ///   - closed: Called once, when it is closed.
    package init(
        bind address: SocketAddress,
        on loop: EventLoop,
        isIPv6Only: Bool = false,
        isShared: Bool = false,
        received: @escaping (UnsafeRawBufferPointer, Ends) -> Void,
        closed: (() -> Void)? = nil
    ) throws(StreamError) {
        loop.preconditionInLoop()
        self.loop = loop
        self.received = received
        self.closed = closed
        let type = Int32(SOCK_DGRAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor = socket(address.family, type, 0)
        guard descriptor >= 0 else { throw .system(errno, "socket") }
        self.descriptor = descriptor
        if isIPv6Only, address.isIPv6 { Socket.set(descriptor, Int32(IPPROTO_IPV6), IPV6_V6ONLY, 1) }
        // Without it an answer from a socket for all addresses has the wrong one.
        if address.isUnspecified { _ = clinux_tell_own_address(descriptor, address.isIPv6 ? 1 : 0) }
        if isShared { Socket.set(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        OutgoingMark.apply(to: descriptor)
        guard address.withSockaddr({ Glibc.bind(descriptor, $0, $1) }) == 0 else {
            let number = errno
            _ = Glibc.close(descriptor)
            throw .system(number, "cannot receive datagrams on \(address)")
        }
        localAddress = Socket.address(of: descriptor, getsockname) ?? address
        do {
            try loop.register(descriptor, handler: self, for: .level)
        } catch {
            _ = Glibc.close(descriptor)
            throw error
        }
    }

    /// Whether the kernel took it; a datagram may be lost in any case.
    @discardableResult
    package func send(_ bytes: [UInt8], to address: SocketAddress) -> Bool { answer(Ends(peer: address), bytes) }

    /// Sends to where a datagram came from, from the address that it went to.
    @discardableResult
    package func answer(_ ends: Ends, _ bytes: [UInt8]) -> Bool {
        guard descriptor >= 0 else { return false }
        let count = bytes.withUnsafeBytes { bytes in
            ends.peer.withSockaddr { peer, length in
                guard let own = ends.own else {
                    return clinux_send_datagram(descriptor, bytes.baseAddress, bytes.count, peer, length, nil)
                }
                return own.withSockaddr { own, _ in
                    clinux_send_datagram(descriptor, bytes.baseAddress, bytes.count, peer, length, own)
                }
            }
        }
        return count == bytes.count
    }

    /// Idempotent.
    package func close() {
        guard descriptor >= 0 else { return }
        loop.unregister(descriptor)
        loopStopped()
    }

    func loopStopped() {
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
        descriptor = -1
        closed?()
        closed = nil
    }

    func pollReady(_ events: PollEvents) {
        // Bounded, so that a flood leaves others their turn; what waits is reported again. The callee may close it.
        withUnsafeTemporaryAllocation(byteCount: 65536, alignment: 16) { buffer in
            for _ in 0..<64 where descriptor >= 0 {
                var (peer, own) = (sockaddr_storage(), sockaddr_storage())
                let count = clinux_receive_datagram(descriptor, buffer.baseAddress, buffer.count, &peer, &own)
                if count < 0 {
                    // What an earlier datagram met on its way (ECONNREFUSED) is reported once.
                    if errno == EAGAIN { return }
                    continue
                }
                guard let source = SocketAddress(peer) else { continue }
                let ends = Ends(peer: source, own: SocketAddress(own))
                received(UnsafeRawBufferPointer(rebasing: buffer[..<count]), ends)
            }
        }
    }
}
