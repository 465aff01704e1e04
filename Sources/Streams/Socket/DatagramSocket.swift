import CLinux
import Glibc

/// A UDP socket. Confined to its event loop, which retains it until ``close()``.
package final class DatagramSocket: PollHandler {
    /// Where a datagram has come from, and where it was sent to: whoever asks one address of this machine takes no
    /// answer from another one.
    package struct Origin {
        package let address: SocketAddress
        fileprivate let own: clinux_own_address
    }

    /// Where it is bound.
    package let localAddress: SocketAddress
    private let loop: EventLoop
    private var descriptor: Int32
    private let received: (UnsafeRawBufferPointer, Origin) -> Void
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
        received: @escaping (UnsafeRawBufferPointer, Origin) -> Void,
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
        if isShared { Socket.set(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        OutgoingMark.apply(to: descriptor)
        // Bound to one address, it has no other to answer from.
        if address.isUnspecified { _ = clinux_receive_own_address(descriptor, address.family) }
        guard address.withSockaddr({ Glibc.bind(descriptor, $0, $1) }) == 0 else {
            let number = errno
            _ = Glibc.close(descriptor)
            throw .system(number, "cannot receive datagrams on \(address)")
        }
        localAddress = Socket.address(of: descriptor, getsockname) ?? address
        do {
            try loop.register(descriptor, handler: self, edgeTriggered: false)
        } catch {
            _ = Glibc.close(descriptor)
            throw error
        }
    }

    /// Whether the kernel took it; a datagram may be lost in any case.
    @discardableResult
    package func send(_ bytes: [UInt8], to address: SocketAddress) -> Bool {
        guard descriptor >= 0 else { return false }
        return bytes.withUnsafeBytes { bytes in
            address.withSockaddr { sendto(descriptor, bytes.baseAddress, bytes.count, Int32(MSG_NOSIGNAL), $0, $1) }
        } == bytes.count
    }

    /// To where a datagram has come from, from the address that it was sent to.
    @discardableResult
    package func send(_ bytes: [UInt8], to origin: Origin) -> Bool {
        guard descriptor >= 0 else { return false }
        var own = origin.own
        let count = bytes.withUnsafeBytes { bytes in
            origin.address.withSockaddr {
                clinux_send_datagram(descriptor, bytes.baseAddress, bytes.count, $0, $1, &own)
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
                var storage = sockaddr_storage()
                var own = clinux_own_address()
                let count = clinux_receive_datagram(descriptor, buffer.baseAddress, buffer.count, &storage, &own)
                if count < 0 {
                    // What an earlier datagram met on its way (ECONNREFUSED) is reported once.
                    if errno == EAGAIN { return }
                    continue
                }
                guard let source = SocketAddress(storage) else { continue }
                received(UnsafeRawBufferPointer(rebasing: buffer[..<count]), Origin(address: source, own: own))
            }
        }
    }
}
