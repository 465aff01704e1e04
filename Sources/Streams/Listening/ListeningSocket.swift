import CLinux
import Glibc

/// A socket that listens and that nobody accepts from yet: on its way from one process to another. Closed with its last
/// reference, unless a ``Listener`` has adopted it.
package final class ListeningSocket: Sendable {
    /// What the process that had it called it; may be empty.
    package let name: String
    package let address: SocketAddress
    private let descriptor: Lock<Int32>

    init(descriptor: Int32, name: String, address: SocketAddress) {
        self.name = name
        self.address = address
        self.descriptor = Lock(descriptor)
    }

    /// Takes over a descriptor that this process was started with, or was sent. When it is unfit, it stays as it was.
    ///
    /// - Throws: ``StreamError`` with code ``StreamError/Code/badRequest`` when it is not a stream socket that listens
    ///   on an IP address.
    package convenience init(adopting descriptor: Int32, name: String) throws(StreamError) {
        var isListening: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        let result = getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &length)
        guard result == 0, isListening != 0, let address = Socket.address(of: descriptor, getsockname), !address.isUnix
        else {
            throw StreamError(.badRequest, "descriptor \(descriptor) ('\(name)') is not a socket that listens for TCP")
        }
        // Whoever made it may have made it blocking and inheritable.
        _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) | O_NONBLOCK)
        _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        self.init(descriptor: descriptor, name: name, address: address)
    }

    /// Binds, and listens. On the loop of `others`.
    ///
    /// - Parameters:
    ///   - address: Port 0 lets the kernel choose.
    ///   - name: For messages.
    ///   - options: What the socket is set to before it is bound.
    ///   - others: Listeners of this process that are to be closed for it: they may have an address that overlaps.
    /// - Throws: ``StreamError``; ``StreamError/Code/addressInUse`` names the address and how to find its owner.
    package convenience init(
        bind address: SocketAddress,
        named name: String,
        options: ListenerOptions,
        replacing others: [Listener] = []
    ) throws(StreamError) {
        let neighbours = others.filter { address.port != 0 && $0.localAddress.port == address.port }
        let descriptor: Int32
        do throws(StreamError) {
            descriptor = try Listener.listeningDescriptor(on: address, options)
        } catch {
            guard error.code == .addressInUse, !neighbours.isEmpty else { throw error }
            for listener in neighbours { listener.setSharing(true) }
            defer { for listener in neighbours { listener.setSharing(false) } }
            descriptor = try Listener.listeningDescriptor(on: address, options, isShared: true)
            // Nobody else is to join.
            Socket.set(descriptor, SOL_SOCKET, SO_REUSEPORT, 0)
        }
        self.init(
            descriptor: descriptor,
            name: name,
            address: Socket.address(of: descriptor, getsockname) ?? address
        )
    }

    deinit {
        descriptor.withLock { if $0 >= 0 { _ = Glibc.close($0) } }
    }

    /// The descriptor, once; the caller closes it.
    func take() -> Int32 {
        descriptor.withLock { descriptor in
            defer { descriptor = -1 }
            return descriptor
        }
    }

    func withDescriptor<Result>(_ body: (Int32) -> Result) -> Result { descriptor.withLock { body($0) } }
}

/// The other end of a Unix socket, as the kernel knows it.
package struct PeerProcess: Hashable, Sendable {
    package let process: Int32
    package let user: UInt32

    /// Whether it may tell this process what to do: it runs as the same user, or as root.
    package var isTrusted: Bool { user == geteuid() || user == 0 }
}

extension Socket {
    /// Unix sockets only: who has connected, or accepted (SO_PEERCRED); nil for others.
    package var peerProcess: PeerProcess? { Self.peerProcess(of: descriptor) }

    static func peerProcess(of descriptor: Int32) -> PeerProcess? {
        var (process, user): (Int32, UInt32) = (0, 0)
        guard clinux_peer_credentials(descriptor, &process, &user) == 0 else { return nil }
        return PeerProcess(process: process, user: user)
    }

    /// Unix sockets only: sends `line` and with it the listening socket. For a few short lines on a fresh socket, which
    /// never has to wait.
    ///
    /// - Throws: ``StreamError``.
    package func send(_ line: String, passing listening: ListeningSocket) throws(StreamError) {
        let bytes = Array(line.utf8)
        let count = listening.withDescriptor { clinux_send_descriptor(descriptor, bytes, bytes.count, $0) }
        guard count == bytes.count else { throw .system(count < 0 ? errno : EAGAIN, "passing a socket") }
    }
}

/// The receiving end of listening sockets: a blocking Unix socket, for the start of a process. Closed with its last
/// reference.
package final class ListeningSocketReceiver: Sendable {
    private let descriptor: Int32
    package let peer: PeerProcess

    /// Connects to the Unix socket at `path`; nil when nobody listens there.
    ///
    /// - Parameters:
    ///   - path: Of the socket that the other process listens on.
    ///   - timeout: For each call.
    /// - Throws: ``StreamError``: `denied` when another user listens there.
    package init?(path: String, timeout: Duration) throws(StreamError) {
        let address = try SocketAddress(unixPath: path)
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw .system(errno, "socket") }
        var time = timeval(tv_sec: Int(timeout.components.seconds), tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &time, socklen_t(MemoryLayout<timeval>.size))
        let result = address.withSockaddr { Glibc.connect(descriptor, $0, $1) }
        let number = errno
        guard result == 0, let peer = Socket.peerProcess(of: descriptor) else {
            _ = Glibc.close(descriptor)
            if result != 0, number == ENOENT || number == ECONNREFUSED { return nil }
            throw .system(number, "connecting to \(path)")
        }
        guard peer.isTrusted else {
            _ = Glibc.close(descriptor)
            throw StreamError(
                .denied,
                "\(path) belongs to a process of user \(peer.user), which could hand over anything: "
                    + "use a directory that only this user can write to"
            )
        }
        self.descriptor = descriptor
        self.peer = peer
    }

    deinit { _ = Glibc.close(descriptor) }

    /// One line, without its end, and the listening socket that came with it; nil at the end of the stream.
    ///
    /// - Throws: ``StreamError``: `timedOut` when nothing came in time, `protocolViolation` for a line without an end.
    package func receive() throws(StreamError) -> (line: String, socket: ListeningSocket?)? {
        var line: [UInt8] = []
        var passed: Int32 = -1
        while true {
            var byte: UInt8 = 0
            var descriptor: Int32 = -1
            let count = clinux_receive_descriptor(self.descriptor, &byte, 1, &descriptor)
            let number = errno
            if descriptor >= 0 {
                if passed >= 0 { _ = Glibc.close(passed) }
                passed = descriptor
            }
            if count == 1, byte != UInt8(ascii: "\n"), line.count < 4096 {
                line.append(byte)
                continue
            }
            if count < 0, number == EINTR { continue }
            if count == 1, byte == UInt8(ascii: "\n") { break }
            if passed >= 0 { _ = Glibc.close(passed) }
            if count == 0, line.isEmpty { return nil }
            if count < 0 { throw .system(number == EAGAIN ? ETIMEDOUT : number, "waiting for process \(peer.process)") }
            throw StreamError(.protocolViolation, "process \(peer.process) sent something else than a line")
        }
        let text = String(decoding: line, as: UTF8.self)
        guard passed >= 0 else { return (text, nil) }
        do throws(StreamError) {
            // The last word is the name.
            let name = text.split(separator: " ").last.map(String.init) ?? ""
            return (text, try ListeningSocket(adopting: passed, name: name))
        } catch {
            _ = Glibc.close(passed)
            throw error
        }
    }

    /// - Throws: ``StreamError``.
    package func send(_ line: String) throws(StreamError) {
        let bytes = Array(line.utf8)
        let count = clinux_send_descriptor(descriptor, bytes, bytes.count, -1)
        guard count == bytes.count else { throw .system(count < 0 ? errno : EAGAIN, "telling process \(peer.process)") }
    }
}
