import Platform
import Streams

/// Dials the addresses of a peer's HBONE server until one answers: one after the other, a quarter of a second apart or
/// at once when one fails (RFC 8305), and all of them again after a second. Confined to its event loop.
///
/// Again, because the kernel repeats a lost SYN after one second, three, seven: over a way that was down for two
/// seconds an attempt that began before would answer after three, and over one that was down for ten after fifteen.
/// What was dialled before goes on: a far server that takes seconds to answer is not left.
final class DialList {
    private let loop: EventLoop
    private let timeout: Duration
    private let socket: SocketOptions
    /// How many there are.
    private let count: Int
    /// What is still to be dialled; whether a round begins with it.
    private var rest: ArraySlice<(address: Authority, isAgain: Bool)>
    /// When the first round's first attempt ends, and with it those that repeat it; on the loop's clock.
    private let deadline: UInt64
    private let completion: (Result<ByteStream, StreamError>) -> Void
    private var underWay: [Int: Dialer] = [:]
    private var started = 0
    private var errors: [StreamError] = []
    private var timer: LoopTimer?
    private var isDone = false

    /// RFC 8305 §5.
    private static let delay = Duration.milliseconds(250)
    /// As long as the kernel waits before it repeats the first SYN.
    private static let again = Duration.seconds(1)
    private static let rounds = 4

    /// - Parameter segmentLimit: As in ``Streams/SocketOptions``.
    init(
        _ addresses: [Authority],
        on loop: EventLoop,
        timeout: Duration,
        segmentLimit: Int? = nil,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        let repeated = (0..<Self.rounds).flatMap { round in
            addresses.indices.map { (address: addresses[$0], isAgain: round > 0 && $0 == addresses.startIndex) }
        }
        rest = repeated[...]
        count = addresses.count
        deadline = loop.now &+ timeout.nanoseconds
        self.loop = loop
        self.timeout = timeout
        var socket = SocketOptions.multiplexed(unacknowledgedLimit: .seconds(10))
        socket.segmentLimit = segmentLimit
        self.socket = socket
        self.completion = completion
    }

    func start() {
        guard !rest.isEmpty else {
            return loop.later { [self] in end(.failure(StreamError(.unreachable, "there is no HBONE address"))) }
        }
        timer = LoopTimer(on: loop) { [self] in startNext() }
        startNext()
    }

    private func startNext() {
        guard !isDone, let (address, _) = rest.popFirst() else { return }
        var options = Dialer.Options(timeout: timeout, socket: socket)
        started += 1
        if started > count {
            guard loop.now < deadline else { return }
            options.timeout = .nanoseconds(Int64(clamping: deadline &- loop.now))
        }
        let number = started
        let dialer = Dialer(to: .authority(address), on: loop, options: options) { [self] in ended(number, $0) }
        underWay[number] = dialer
        dialer.start()
        if let next = rest.first { timer?.schedule(after: next.isAgain ? Self.again : Self.delay) }
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
            if number <= count { errors.append(error) }
            // One round tells what there is to tell: what is refused now is refused again.
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
