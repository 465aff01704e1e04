import Glibc

/// One attempt of a ``ConnectionRace``: waits for the socket to become writable, or for the timeout. Retained by the
/// loop until then.
final class ConnectionAttempt: PollHandler, TurnTask {
    private let address: SocketAddress
    private let local: SocketAddress?
    private let options: SocketOptions
    private let loop: EventLoop
    private var completion: ((Result<Socket, StreamError>) -> Void)?
    private var descriptor: Int32 = -1
    private var timer: LoopTimer?
    private var outcome: StreamError?

    /// - Parameters:
    ///   - local: What the socket is bound to; nil leaves that to the system.
    ///   - options: Those that are for a socket that is still to be connected; the others are its owner's to set.
    init(
        address: SocketAddress,
        from local: SocketAddress? = nil,
        options: SocketOptions = .defaults,
        loop: EventLoop,
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        self.address = address
        self.local = local
        self.options = options
        self.loop = loop
        self.completion = completion
    }

    deinit {
        // The loop stopped in between.
        if descriptor >= 0 { _ = Glibc.close(descriptor) }
    }

    func start(timeout: Duration) {
        descriptor = Self.newSocket(for: address, multipath: options.multipath && options.segmentLimit == nil)
        guard descriptor >= 0 else { return deferFailure(.system(errno, "socket")) }
        if let local, local.withSockaddr({ bind(descriptor, $0, $1) }) != 0 {
            return deferFailure(.system(errno, "connecting from \(local)"))
        }
        if let segmentLimit = options.segmentLimit, !address.isUnix {
            var bytes = Int32(clamping: segmentLimit)
            setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_MAXSEG, &bytes, socklen_t(MemoryLayout<Int32>.size))
        }
        let number = Self.connect(descriptor, to: address)
        switch number {
        case 0: return loop.nextTurn(self)
        case EINPROGRESS, EALREADY, EINTR: break
        default: return deferFailure(failure(number))
        }
        do {
            try loop.register(descriptor, handler: self, for: .bothWays)
        } catch {
            return deferFailure(error)
        }
        let timer = LoopTimer(on: loop) { [self] in
            end(.failure(StreamError(.timedOut, "connecting to \(address): no answer within \(timeout)")))
        }
        self.timer = timer
        timer.schedule(after: timeout)
    }

    private static func newSocket(for address: SocketAddress, multipath: Bool = false) -> Int32 {
        let type = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let descriptor =
            multipath && !address.isUnix
            ? MultipathTCP.newSocket(address.family, type) : socket(address.family, type, 0)
        if descriptor >= 0 { OutgoingMark.apply(to: descriptor) }
        return descriptor
    }

    /// Returns `errno`, 0 once connected.
    private static func connect(_ descriptor: Int32, to address: SocketAddress) -> Int32 {
        func ask() -> Int32 { address.withSockaddr { Glibc.connect(descriptor, $0, $1) } == 0 ? 0 : errno }
        let number = ask()
        // Within this machine the handshake is over by now, and asking again tells, without a turn of the loop in
        // between.
        return number == EINPROGRESS && address.isLoopback ? ask() : number
    }

    /// A connection within this machine that is there at once, as nearly all are; nil where it takes an attempt, which
    /// says what is the matter.
    static func connectAtOnce(to address: SocketAddress) -> Int32? {
        guard address.isLoopback else { return nil }
        let descriptor = newSocket(for: address)
        guard descriptor >= 0 else { return nil }
        if connect(descriptor, to: address) == 0 { return descriptor }
        _ = Glibc.close(descriptor)
        return nil
    }

    func pollReady(_ events: PollEvents) {
        guard !events.isDisjoint(with: [.writable, .error, .hangup]) else { return }
        var number: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &number, &length)
        guard number == 0 else { return end(.failure(failure(number))) }
        connected(reported: events)
    }

    private func connected(reported: PollEvents?) {
        let connected = descriptor
        descriptor = -1
        do {
            end(.success(try Socket(descriptor: connected, on: loop, peer: address, reported: reported)))
        } catch {
            end(.failure(error))
        }
    }

    func loopStopped() {
        end(.failure(StreamError(.closed, "connecting to \(address): event loop \(loop.name) has shut down")))
    }

    private func failure(_ number: Int32) -> StreamError {
        switch number {
        case ENOENT where address.isUnix:
            StreamError(.refused, "connecting to \(address): there is no such socket")
        // A Unix socket whose backlog is full says so at once, and reports nothing when that changes.
        case EAGAIN where address.isUnix:
            StreamError(.limit, "connecting to \(address): too many connections wait there to be accepted")
        default:
            .system(number, "connecting to \(address)")
        }
    }

    func runTurn() {
        // Cancelled in between.
        guard completion != nil else { return }
        if let outcome { end(.failure(outcome)) } else { connected(reported: nil) }
    }

    /// The completion is never called from inside `connect`.
    private func deferFailure(_ error: StreamError) {
        outcome = error
        loop.nextTurn(self)
    }

    /// Ends the attempt; the completion is not called.
    func cancel() {
        completion = nil
        timer?.cancel()
        timer = nil
        if descriptor >= 0 {
            loop.unregister(descriptor)
            _ = Glibc.close(descriptor)
            descriptor = -1
        }
    }

    private func end(_ result: Result<Socket, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        timer = nil
        if descriptor >= 0 {
            loop.unregister(descriptor)
            _ = Glibc.close(descriptor)
            descriptor = -1
        }
        completion(result)
    }
}
