/// The attempts to connect to a host that has several addresses, of which some may not answer (RFC 8305): one after the
/// other, a quarter of a second apart, or at once when one fails; the first that is connected wins, the others are
/// given up. Kept alive by its attempts and its timer until it is over.
///
/// With ``Dialer/Options/repeatDelay``, what stays unanswered is dialled again beside the first attempt, and again: the
/// kernel repeats a lost SYN after one second, three, seven and fifteen, so that over a way that was down for ten
/// seconds it would be connected after fifteen. The first attempt goes on: a far server that takes seconds to answer is
/// not left.
final class ConnectionRace {
    private var waiting: ArraySlice<SocketAddress>
    private let loop: EventLoop
    private let options: Dialer.Options
    private var completion: ((Result<Socket, StreamError>) -> Void)?
    private var underWay: [Int: ConnectionAttempt] = [:]
    /// The newest repetition of each of those.
    private var repeated: [Int: ConnectionAttempt] = [:]
    private var dialled: [Int: SocketAddress] = [:]
    private var started = 0
    private var failures: [StreamError] = []
    private var timer: LoopTimer?

    /// - Parameter addresses: In the resolver's order; at least one.
    init(
        _ addresses: [SocketAddress],
        on loop: EventLoop,
        options: Dialer.Options,
        completion: @escaping (Result<Socket, StreamError>) -> Void
    ) {
        precondition(!addresses.isEmpty, "there is nothing to connect to")
        waiting = Self.interleaved(addresses)[...]
        self.loop = loop
        self.options = options
        self.completion = completion
    }

    /// The families in turn, beginning with the one that the resolver put first (RFC 8305 §4): a family that does not
    /// work costs one delay, not one for each of its addresses.
    static func interleaved(_ addresses: [SocketAddress]) -> [SocketAddress] {
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

    /// The completion is never called from inside this.
    func start() {
        timer = LoopTimer(on: loop) { [self] in
            if waiting.isEmpty { repeatAll() } else { startNext() }
        }
        startNext()
    }

    private func startNext() {
        guard completion != nil, let address = waiting.popFirst() else { return }
        let local = options.locals.first { $0.isIPv6 == address.isIPv6 }
        if local == nil, !options.locals.isEmpty {
            failures.append(
                StreamError(.unreachable, "connecting to \(address): no local address of its family is to be used")
            )
            return loop.later { [self] in attemptFailed() }
        }
        started += 1
        let number = started
        dialled[number] = address
        underWay[number] = attempt(address, options.socket) { [self] in ended(number, $0) }
        scheduleNext()
    }

    private func attempt(
        _ address: SocketAddress,
        _ socket: SocketOptions,
        _ completion: @escaping (Result<Socket, StreamError>) -> Void
    ) -> ConnectionAttempt {
        let local = options.locals.first { $0.isIPv6 == address.isIPv6 }
        let attempt = ConnectionAttempt(
            address: address,
            from: local,
            options: socket,
            loop: loop,
            completion: completion
        )
        attempt.start(timeout: options.timeout)
        return attempt
    }

    private func scheduleNext() {
        if !waiting.isEmpty {
            timer?.schedule(after: options.attemptDelay)
        } else if let delay = options.repeatDelay {
            timer?.schedule(after: delay)
        }
    }

    /// Repeats at once what would be repeated later.
    func hurry() {
        guard completion != nil, options.repeatDelay != nil else { return }
        timer?.cancel()
        repeatAll()
        if !waiting.isEmpty { startNext() }
    }

    private func repeatAll() {
        // On some ways an option that is not known there loses the packet: the first attempt has asked for it.
        var socket = options.socket
        socket.multipath = false
        for number in underWay.keys {
            guard let address = dialled[number] else { continue }
            repeated[number]?.cancel()
            repeated[number] = attempt(address, socket) { [self] in repetitionEnded(number, $0) }
        }
        scheduleNext()
    }

    private func repetitionEnded(_ number: Int, _ result: Result<Socket, StreamError>) {
        repeated[number] = nil
        switch result {
        case .success: finish(result)
        // What answers no is there. Whatever else goes wrong may go right the next time.
        case .failure(let error) where error.code == .refused:
            underWay[number]?.cancel()
            ended(number, .failure(error))
        case .failure: break
        }
    }

    private func ended(_ number: Int, _ result: Result<Socket, StreamError>) {
        underWay[number] = nil
        repeated.removeValue(forKey: number)?.cancel()
        switch result {
        case .success: finish(result)
        case .failure(let error):
            failures.append(error)
            attemptFailed()
        }
    }

    private func attemptFailed() {
        guard completion != nil else { return }
        if !waiting.isEmpty {
            timer?.cancel()
            startNext()
        } else if underWay.isEmpty, let first = failures.first {
            let isTimeout = failures.allSatisfy { $0.code == .timedOut }
            let cause = isTimeout ? first : failures.first { $0.code != .timedOut } ?? first
            let others = failures.filter { $0.message != cause.message }.map(\.message)
            let message = ([cause.message] + others).joined(separator: "; ")
            finish(.failure(StreamError(cause.code, message)))
        } else {
            scheduleNext()
        }
    }

    private func finish(_ result: Result<Socket, StreamError>) {
        guard let completion else { return }
        if case .success(let socket) = result { socket.apply(options.socket) }
        cancel()
        completion(result)
    }

    /// Gives the attempts up; the completion is not called.
    func cancel() {
        completion = nil
        timer?.cancel()
        timer = nil
        for attempt in Array(underWay.values) + Array(repeated.values) { attempt.cancel() }
        (underWay, repeated) = ([:], [:])
    }
}
