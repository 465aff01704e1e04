import CLinux
import Glibc

/// Accepts stream connections on one address. Confined to its event loop, which retains it until ``close()``.
///
/// Accepted sockets live on the listener's own loop, or are handed round robin to the loops it spreads over: with few
/// long-lived connections an even spread matters more than saving the hand-over (SO_REUSEPORT spreads by hash,
/// unevenly). Short ones, of which many come and few stay, are kept while the listener's loop has time: to wake another
/// thread for each costs more than it saves (`ShortLivedConnections`).
public final class Listener: PollHandler {
    /// Where the listener lives: every method is called here.
    public let loop: EventLoop
    /// Where it listens; the port is the kernel's choice when 0 was asked for.
    public let localAddress: SocketAddress
    private var descriptor: Int32
    /// Of a Unix socket: what stands at its path.
    private let file: FileIdentity?
    /// Of a Unix socket: where that is.
    private var place: SocketAddress
    private let targets: [EventLoop]
    private var turn = 0
    private var shortLived = ShortLivedConnections()
    private let isOnOneOfTargets: Bool
    private let resetsUnlessEnded: Bool
    /// Not every kernel has what is accepted inherit TCP_NODELAY then.
    private let isMultipath: Bool
    private let accept: @Sendable (Socket) -> Void
    /// A spare descriptor, closed to accept and refuse one connection when the process has no descriptors left.
    private var reserve: Int32
    /// Told when there are no descriptors left. Loop only.
    package var shortage: DescriptorShortage?

    /// Starts listening. Loop only.
    ///
    /// - Parameters:
    ///   - address: Port 0 lets the kernel choose. An existing Unix socket nobody listens on is replaced.
    ///   - loop: Where it lives.
    ///   - options: What the socket is set to before it is bound.
    ///   - targets: Loops that accepted sockets are spread over; by default the listener's own.
    ///   - accept: Called on the socket's loop for each connection; the socket is the callee's to own.
    /// - Throws: ``StreamError``; ``StreamError/Code/addressInUse`` names the address and how to find its owner.
    public convenience init(
        bind address: SocketAddress,
        on loop: EventLoop,
        options: ListenerOptions = .defaults,
        spreadOver targets: [EventLoop] = [],
        accept: @escaping @Sendable (Socket) -> Void
    ) throws(StreamError) {
        loop.preconditionInLoop()
        let descriptor = try Self.listeningDescriptor(on: address, options)
        let localAddress = Socket.address(of: descriptor, getsockname) ?? address
        try self.init(descriptor, localAddress, on: loop, options, spreadOver: targets, isPaused: false, accept: accept)
    }

    /// Goes on with a socket that listens already: one that another process has handed over. Loop only.
    ///
    /// - Parameters:
    ///   - socket: Used up by this call, also when it fails.
    ///   - loop: Where it lives.
    ///   - options: Of these, what a socket that is bound already can be set to: whoever made it may not have known
    ///     that traffic is led to it.
    ///   - targets: As for ``init(bind:on:options:spreadOver:accept:)``.
    ///   - isPaused: Accepts nothing before ``startAccepting(_:)``; connections wait in the queue of the kernel.
    ///   - accept: As there.
    /// - Throws: ``StreamError``.
    package convenience init(
        adopting socket: ListeningSocket,
        on loop: EventLoop,
        options: ListenerOptions = .defaults,
        spreadOver targets: [EventLoop] = [],
        isPaused: Bool = false,
        accept: @escaping @Sendable (Socket) -> Void
    ) throws(StreamError) {
        loop.preconditionInLoop()
        let descriptor = socket.take()
        do throws(StreamError) {
            try options.applyTransparency(to: descriptor, for: socket.address)
        } catch {
            _ = Glibc.close(descriptor)
            throw StreamError(error.code, "cannot go on with the listener on \(socket.address): \(error.message)")
        }
        try self.init(
            descriptor,
            socket.address,
            on: loop,
            options,
            spreadOver: targets,
            isPaused: isPaused,
            accept: accept
        )
    }

    /// `descriptor` is closed when this fails.
    private init(
        _ descriptor: Int32,
        _ localAddress: SocketAddress,
        on loop: EventLoop,
        _ options: ListenerOptions,
        spreadOver targets: [EventLoop],
        isPaused: Bool,
        accept: @escaping @Sendable (Socket) -> Void
    ) throws(StreamError) {
        self.loop = loop
        resetsUnlessEnded = options.resetsUnlessEnded && !localAddress.isUnix
        isMultipath = !localAddress.isUnix && MultipathTCP.isMultipath(descriptor)
        self.targets = targets.isEmpty ? [loop] : targets
        isOnOneOfTargets = self.targets.contains { $0 === loop }
        self.accept = accept
        self.descriptor = descriptor
        self.localAddress = localAddress
        file = Self.file(at: localAddress)
        place = localAddress
        // What it accepts inherits it, without a system call for each.
        if !localAddress.isUnix { Socket.set(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        reserve = Self.openReserve()
        guard !isPaused else { return }
        do {
            try loop.register(descriptor, handler: self, for: .level)
        } catch {
            closeDescriptors()
            throw error
        }
    }

    /// Begins to accept, once, where it was made paused. Loop only.
    ///
    /// - Parameter options: What the socket of another listener may have had, and this one has not, is taken away.
    package func startAccepting(_ options: ListenerOptions = .defaults) {
        loop.preconditionInLoop()
        guard descriptor >= 0 else { return }
        if !options.isTransparent { ListenerOptions.removeTransparency(from: descriptor, for: localAddress) }
        resume()
    }

    // The loop was shut down in a pause.
    deinit { closeDescriptors() }

    /// Stops accepting; accepted sockets live on. Idempotent.
    public func close() {
        loop.preconditionInLoop()
        guard descriptor >= 0 else { return }
        loop.unregister(descriptor)
        release()
    }

    /// Accepts what waits in the queue, whose clients take themselves for connected, and closes. Loop only.
    package func finish() {
        loop.preconditionInLoop()
        acceptWaiting(atMost: 4096)
        close()
    }

    /// Whether another socket of this process may be bound to an address that overlaps (SO_REUSEPORT). Loop only.
    func setSharing(_ isShared: Bool) {
        if descriptor >= 0 { Socket.set(descriptor, SOL_SOCKET, SO_REUSEPORT, isShared ? 1 : 0) }
    }

    /// The same socket for another process, or another listener: connections that wait in its queue are not lost when
    /// this listener is closed.
    ///
    /// - Throws: ``StreamError`` when the listener is closed, or no descriptor is left.
    package func duplicate(named name: String) throws(StreamError) -> ListeningSocket {
        loop.preconditionInLoop()
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
        guard copy >= 0 else { throw .system(errno, "cannot duplicate the listener on \(localAddress)") }
        return ListeningSocket(descriptor: copy, name: name, address: localAddress)
    }

    func loopStopped() {
        if descriptor >= 0 { release() }
    }

    private func release() {
        closeDescriptors()
        // Another process may have put its own in this place.
        if place.isUnix, Self.file(at: place) == file { unlink(place.ip) }
    }

    /// Of a Unix socket: gives it another path, in one step. The socket that stands there, of another process maybe, is
    /// reached by nobody any more; what is no socket stays. ``localAddress`` goes on saying where it was bound. Loop
    /// only.
    ///
    /// - Throws: ``StreamError``; the listener keeps its path then.
    package func move(to address: SocketAddress) throws(StreamError) {
        loop.preconditionInLoop()
        guard descriptor >= 0, place.isUnix, address.isUnix else {
            throw StreamError(.closed, "the listener on \(place) cannot move to \(address)")
        }
        var status = stat()
        if lstat(address.ip, &status) == 0, status.st_mode & S_IFMT != S_IFSOCK {
            throw StreamError(
                .addressInUse,
                "cannot listen on \(address): there is something that is not a socket. Remove it or choose another path"
            )
        }
        guard rename(place.ip, address.ip) == 0 else { throw .system(errno, "cannot listen on \(address)") }
        place = address
    }

    private struct FileIdentity: Equatable {
        let device: dev_t
        let number: ino_t
    }

    private static func file(at address: SocketAddress) -> FileIdentity? {
        var status = stat()
        guard address.isUnix, lstat(address.ip, &status) == 0 else { return nil }
        return FileIdentity(device: status.st_dev, number: status.st_ino)
    }

    private func closeDescriptors() {
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
        if reserve >= 0 { _ = Glibc.close(reserve) }
        (descriptor, reserve) = (-1, -1)
    }

    func pollReady(_ events: PollEvents) {
        // Bounded, so that a flood of connections leaves the established ones their turn; what waits is reported again.
        acceptWaiting(atMost: 64)
    }

    private func acceptWaiting(atMost count: Int) {
        // The callee may close the listener.
        for _ in 0..<count where descriptor >= 0 {
            var peer = sockaddr_storage()
            let connection = clinux_accept(descriptor, &peer)
            guard connection >= 0 else {
                switch errno {
                case EAGAIN: return
                case EMFILE, ENFILE, ENOMEM, ENOBUFS:
                    shortage?.tell(errno)
                    return pause()
                default: continue  // the connection died in the queue (ECONNABORTED and network errors, accept(2))
                }
            }
            hand(connection, from: SocketAddress(peer))
        }
    }

    private func hand(_ connection: Int32, from peer: SocketAddress?) {
        if isMultipath { Socket.set(connection, Int32(IPPROTO_TCP), TCP_NODELAY, 1) }
        let target = nextTarget()
        guard target !== loop else { return Self.take(connection, from: peer, on: loop, resetsUnlessEnded, accept) }
        let isAccepted = target.submitIfRunning { [accept, resetsUnlessEnded] in
            Self.take(connection, from: peer, on: target, resetsUnlessEnded, accept)
        }
        if !isAccepted { _ = Glibc.close(connection) }
    }

    private static func take(
        _ connection: Int32,
        from peer: SocketAddress?,
        on loop: EventLoop,
        _ resetsUnlessEnded: Bool,
        _ accept: (Socket) -> Void
    ) {
        let socket = try? Socket(accepted: connection, from: peer, on: loop, resetsUnlessEnded: resetsUnlessEnded)
        if let socket { accept(socket) }
    }

    private func nextTarget() -> EventLoop {
        guard targets.count > 1 else { return targets[0] }
        let areShort = shortLived.accepted(now: loop.now, open: loop.watchedDescriptors)
        if areShort, isOnOneOfTargets, !loop.isBusy { return loop }
        turn &+= 1
        return targets[turn % targets.count]
    }

    /// Out of descriptors: refuse one connection with the spare one, so that its client learns at once, and take a
    /// break.
    private func pause() {
        if reserve >= 0 {
            _ = Glibc.close(reserve)
            var peer = sockaddr_storage()
            let connection = clinux_accept(descriptor, &peer)
            if connection >= 0 { _ = Glibc.close(connection) }
            reserve = Self.openReserve()
        }
        loop.unregister(descriptor)
        resumeLater()
    }

    /// The loop has let go of the listener, and whoever made it may have left it to the loop: until it is watched
    /// again, the timer keeps it.
    private func resumeLater() {
        LoopTimer(on: loop) { [self] in resume() }.schedule(after: .milliseconds(100))
    }

    private func resume() {
        guard descriptor >= 0 else { return }
        if reserve < 0 { reserve = Self.openReserve() }
        do {
            try loop.register(descriptor, handler: self, for: .level)
        } catch {
            resumeLater()
        }
    }

    private static func openReserve() -> Int32 { open("/dev/null", O_RDONLY | O_CLOEXEC) }

    /// - Parameter isShared: Also where sockets of this process are bound that share their address (SO_REUSEPORT).
    static func listeningDescriptor(
        on address: SocketAddress,
        _ options: ListenerOptions,
        isShared: Bool = false
    ) throws(StreamError) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor =
            options.multipath && !address.isUnix
            ? MultipathTCP.newSocket(address.family, type) : socket(address.family, type, 0)
        guard descriptor >= 0 else { throw .system(errno, "socket") }
        do {
            try options.apply(to: descriptor, for: address)
        } catch {
            _ = Glibc.close(descriptor)
            throw StreamError(error.code, "cannot listen on \(address): \(error.message)")
        }
        if isShared { Socket.set(descriptor, SOL_SOCKET, SO_REUSEPORT, 1) }
        var result = address.withSockaddr { Glibc.bind(descriptor, $0, $1) }
        var number = errno
        if result != 0, number == EADDRINUSE, address.isUnix, isAbandoned(address) {
            unlink(address.ip)
            result = address.withSockaddr { Glibc.bind(descriptor, $0, $1) }
            number = errno
        }
        if result == 0 {
            result = Glibc.listen(descriptor, options.backlog)
            number = errno
        }
        guard result == 0 else {
            _ = Glibc.close(descriptor)
            if number == EADDRINUSE, address.isUnix {
                throw StreamError(
                    .addressInUse,
                    "cannot listen on \(address): another process does, or it is not a socket. "
                        + "`ss -lxp src \(address.ip)` names the process; stop it or choose another path"
                )
            }
            if number == EADDRINUSE {
                throw StreamError(
                    .addressInUse,
                    "cannot listen on \(address): another process does. "
                        + "`ss -ltnp 'sport = :\(address.port)'` names it; stop it or choose another port"
                )
            }
            if number == EACCES, !address.isUnix {
                throw StreamError(
                    .system,
                    "cannot listen on \(address): permission denied. Ports below 1024 need root or CAP_NET_BIND_SERVICE"
                )
            }
            throw .system(number, "cannot listen on \(address)")
        }
        return descriptor
    }

    /// Whether a Unix socket is left over from a process that is gone.
    private static func isAbandoned(_ address: SocketAddress) -> Bool {
        // connect(2) refuses a path that is a file just as a socket nobody listens on: a file must never be removed.
        var status = stat()
        guard lstat(address.ip, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return false }
        // Non-blocking: a live owner whose queue is full would keep the loop waiting.
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let probe = socket(AF_UNIX, type, 0)
        guard probe >= 0 else { return false }
        defer { _ = Glibc.close(probe) }
        return address.withSockaddr { Glibc.connect(probe, $0, $1) } != 0 && errno == ECONNREFUSED
    }
}
