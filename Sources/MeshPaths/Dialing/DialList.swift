import Platform
import Streams

/// Dials the addresses of a peer's HBONE server until one answers: one after the other, a quarter of a second apart or
/// at once when one fails (RFC 8305); what does not answer again each second. Confined to its event loop.
final class DialList {
    private let loop: EventLoop
    private let options: Dialer.Options
    /// How many there are.
    private var count: Int
    /// What is still to be dialled.
    private var rest: ArraySlice<Authority>
    private let completion: (Result<ByteStream, StreamError>) -> Void
    /// Why one of the addresses that a name leads to must not be dialled, or nil. Set before ``start()``.
    var check: (Authority, IPAddress) -> StreamError? = { _, _ in nil }
    /// Told of what became of each attempt, and how long it took. Set before ``start()``.
    var onAttempt: (Authority, Duration, StreamError?) -> Void = { _, _, _ in }
    private var underWay: [Int: Dialer] = [:]
    private var started = 0
    private var errors: [StreamError] = []
    private var timer: LoopTimer?
    private var isDone = false

    /// RFC 8305 §5.
    private static let delay = Duration.milliseconds(250)

    /// - Parameters:
    ///   - segmentLimit: As in ``Streams/SocketOptions``.
    ///   - multipath: The same.
    init(
        _ addresses: [Authority],
        on loop: EventLoop,
        timeout: Duration,
        segmentLimit: Int? = nil,
        multipath: Bool = false,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        rest = addresses[...]
        count = addresses.count
        self.loop = loop
        var socket = SocketOptions.multiplexed(unacknowledgedLimit: .seconds(10))
        socket.segmentLimit = segmentLimit
        socket.multipath = multipath
        var options = Dialer.Options(timeout: timeout, socket: socket)
        options.repeatDelay = Dialer.Options.pathRepeatDelay
        self.options = options
        self.completion = completion
    }

    func start() {
        guard !rest.isEmpty else {
            return loop.later { [self] in end(.failure(StreamError(.unreachable, "there is no HBONE address"))) }
        }
        timer = LoopTimer(on: loop) { [self] in startNext() }
        startNext()
    }

    /// The way to the addresses may be another now: they are dialled once more at once, beside what is under way.
    func hurry() {
        for dialer in underWay.values { dialer.hurry() }
    }

    /// There are more addresses: the first of them is dialled at once, beside what is under way.
    func add(_ addresses: [Authority]) {
        guard !isDone, timer != nil, !addresses.isEmpty else { return }
        rest = (addresses + rest)[...]
        count += addresses.count
        startNext()
    }

    private func startNext() {
        guard !isDone, let address = rest.popFirst() else { return }
        started += 1
        let (number, began) = (started, loop.now)
        let check = { [check] in check(address, $0) }
        let dialer = Dialer(to: .authority(address), on: loop, options: options, check: check) { [self] result in
            let time = Duration.nanoseconds(Int64(clamping: loop.now &- began))
            if !isDone {
                switch result {
                case .success: onAttempt(address, time, nil)
                case .failure(let error): onAttempt(address, time, error)
                }
            }
            ended(number, result)
        }
        underWay[number] = dialer
        dialer.start()
        if !rest.isEmpty { timer?.schedule(after: Self.delay) }
    }

    private func ended(_ number: Int, _ result: Result<Socket, StreamError>) {
        guard !isDone else {
            if case .success(let socket) = result { socket.close() }
            return
        }
        underWay[number] = nil
        switch result {
        case .success(let socket): end(.success(socket))
        case .failure(let error):
            errors.append(error)
            if started < count {
                startNext()
            } else if underWay.isEmpty {
                let reason = errors.map(\.message).joined(separator: "; ")
                // What one address says is kept; several disagree.
                let code = errors.count == 1 ? errors[0].code : StreamError.Code.unreachable
                end(.failure(StreamError(code, reason)))
            }
        }
    }

    private func end(_ result: Result<ByteStream, StreamError>) {
        guard !isDone else { return }
        isDone = true
        timer?.cancel()
        // It holds this object.
        timer = nil
        for dialer in underWay.values { dialer.cancel() }
        underWay = [:]
        completion(result)
    }
}
