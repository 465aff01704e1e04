/// Connects to a host that has several addresses, of which some may not answer (RFC 8305): one attempt after the other, a quarter of a
/// second apart, or at once when one fails; the first that is connected wins, the others are given up.
public enum HappyEyeballs {
    /// RFC 8305 §5, Connection Attempt Delay.
    public static let attemptDelay = Duration.milliseconds(250)

    /// The families in turn, beginning with the one that the resolver put first (RFC 8305 §4): a family that does not work
    /// costs one delay, not one for each of its addresses.
    public static func interleaved(_ addresses: [SocketAddress]) -> [SocketAddress] {
        guard let first = addresses.first else { return [] }
        var preferred = addresses.filter { $0.isIPv6 == first.isIPv6 }[...]
        var others = addresses.filter { $0.isIPv6 != first.isIPv6 }[...]
        var result: [SocketAddress] = []
        while !preferred.isEmpty || !others.isEmpty {
            if let address = preferred.popFirst() { result.append(address) }
            if let address = others.popFirst() { result.append(address) }
        }
        return result
    }

    /// Connects and hands the socket to `body` on the loop. From any task. The socket is closed when `body` throws, and
    /// otherwise the body's to own.
    ///
    /// - Parameters:
    ///   - addresses: in the resolver's order; at least one.
    ///   - locals: what to connect from, the first of the right family; empty leaves it to the system.
    ///   - loop: Where the socket will live.
    ///   - delay: between two attempts.
    ///   - timeout: for each attempt.
    ///   - body: Makes of the connected socket what is returned; runs on the loop.
    /// - Throws: ``StreamError``: when no attempt succeeds, the first one's, with what became of the others; it counts as timed out only
    ///   when all were.
    public static func connect<Success: Sendable>(
        to addresses: [SocketAddress],
        from locals: [SocketAddress] = [],
        on loop: EventLoop,
        delay: Duration = attemptDelay,
        timeout: Duration = .seconds(10),
        body: @escaping @Sendable (Socket) throws -> Success
    ) async throws -> Success {
        precondition(!addresses.isEmpty, "there is nothing to connect to")
        return try await withCheckedThrowingContinuation { continuation in
            let isAccepted = loop.submitIfRunning {
                let race = ConnectionRace(
                    interleaved(addresses),
                    from: locals,
                    on: loop,
                    delay: delay,
                    timeout: timeout
                ) {
                    result in
                    continuation.resume(
                        with: Result {
                            let socket = try result.get()
                            do {
                                return try body(socket)
                            } catch {
                                socket.close()
                                throw error
                            }
                        }
                    )
                }
                race.start()
            }
            if !isAccepted {
                continuation.resume(throwing: StreamError(.closed, "event loop \(loop.name) has shut down"))
            }
        }
    }
}

/// The attempts of one connection. Kept alive by them and its timer until it is over.
private final class ConnectionRace {
    private var waiting: ArraySlice<SocketAddress>
    private let locals: [SocketAddress]
    private let loop: EventLoop
    private let delay: Duration
    private let timeout: Duration
    private var completion: ((Result<Socket, StreamError>) -> Void)?
    private var underWay: [Int: Connector] = [:]
    private var started = 0
    private var failures: [StreamError] = []
    private var timer: LoopTimer?

    init(
        _ addresses: [SocketAddress],
        from locals: [SocketAddress],
        on loop: EventLoop,
        delay: Duration,
        timeout: Duration,
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        waiting = addresses[...]
        self.locals = locals
        self.loop = loop
        self.delay = delay
        self.timeout = timeout
        self.completion = completion
    }

    func start() {
        timer = LoopTimer(on: loop) { [self] in startNext() }
        startNext()
    }

    private func startNext() {
        guard completion != nil, let address = waiting.popFirst() else { return }
        let local = locals.first { $0.isIPv6 == address.isIPv6 }
        if local == nil, !locals.isEmpty {
            failures.append(
                StreamError(.unreachable, "connecting to \(address): no local address of its family is to be used")
            )
            return attemptFailed()
        }
        started += 1
        let number = started
        let connector = Connector(address: address, from: local, loop: loop) { [self] in ended(number, $0) }
        underWay[number] = connector
        connector.start(timeout: timeout)
        if !waiting.isEmpty { timer?.schedule(after: delay) }
    }

    private func ended(_ number: Int, _ result: Result<Socket, StreamError>) {
        underWay[number] = nil
        switch result {
        case .success: finish(result)
        case .failure(let error):
            failures.append(error)
            attemptFailed()
        }
    }

    private func attemptFailed() {
        if !waiting.isEmpty {
            timer?.cancel()
            startNext()
        } else if underWay.isEmpty, let first = failures.first {
            let isTimeout = failures.allSatisfy { $0.code == .timedOut }
            let cause = isTimeout ? first : failures.first { $0.code != .timedOut } ?? first
            let others = failures.filter { $0.message != cause.message }.map(\.message)
            let message = ([cause.message] + others).joined(separator: "; ")
            finish(.failure(StreamError(cause.code, message)))
        }
    }

    private func finish(_ result: Result<Socket, StreamError>) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        timer = nil
        for connector in underWay.values { connector.cancel() }
        underWay = [:]
        completion(result)
    }
}
