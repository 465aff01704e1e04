import Platform
import Streams

/// Dials the addresses of a peer's HBONE server one after the other until one answers. Confined to its loop.
final class DialList {
    private let loop: EventLoop
    private let timeout: Duration
    private var rest: ArraySlice<Authority>
    private let completion: (Result<ByteStream, StreamError>) -> Void
    private var errors: [StreamError] = []

    init(
        _ addresses: [Authority],
        on loop: EventLoop,
        timeout: Duration,
        completion: @escaping (Result<ByteStream, StreamError>) -> Void
    ) {
        rest = addresses[...]
        self.loop = loop
        self.timeout = timeout
        self.completion = completion
    }

    func start() {
        guard let next = rest.popFirst() else {
            let reason = errors.map(\.message).joined(separator: "; ")
            // What one address says is kept; several disagree.
            let code = errors.count == 1 ? errors[0].code : StreamError.Code.unreachable
            return completion(.failure(StreamError(code, reason.isEmpty ? "there is no HBONE address" : reason)))
        }
        let options = Dialer.Options(timeout: timeout, socket: .multiplexed(unacknowledgedLimit: .seconds(10)))
        Dialer(to: .authority(next), on: loop, options: options) { [self] result in
            switch result {
            case .success(let socket): completion(.success(socket))
            case .failure(let error):
                errors.append(error)
                start()
            }
        }.start()
    }
}
