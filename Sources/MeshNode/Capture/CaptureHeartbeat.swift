import Platform
package import Streams

/// Tells rules with `onFailure: open` that somebody listens: by empty datagrams to the listeners' ports, which the
/// rules see and drop. Confined to its loop, as long as it is not stopped.
package final class CaptureHeartbeat {
    private var sockets: [(socket: DatagramSocket, beats: [SocketAddress])] = []
    private var timer: LoopTimer?

    /// - Parameter ports: Of the listeners.
    package init(to ports: [UInt16], on loop: EventLoop) throws(StreamError) {
        for loopback in [SocketAddress(.loopbackIPv4, port: 0), SocketAddress(.loopbackIPv6, port: 0)] {
            // Without IPv6 there is nothing to capture either.
            guard let socket = try? DatagramSocket(bind: loopback, on: loop, received: { _, _ in }) else { continue }
            sockets.append((socket, ports.map { loopback.withPort($0) }))
        }
        let timer = LoopTimer(on: loop) { [weak self] in self?.beat() }
        self.timer = timer
        beat()
    }

    private func beat() {
        for (socket, beats) in sockets {
            for beat in beats { socket.send([], to: beat) }
        }
        timer?.schedule(after: .seconds(1))
    }

    package func stop() {
        timer?.cancel()
        timer = nil
        for (socket, _) in sockets { socket.close() }
        sockets = []
    }
}
