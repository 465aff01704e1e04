import MeshPaths
import MeshPolicy
import Platform
import Streams

/// A stream that is being opened, for whoever has asked a ``StreamOpener``. An object: closures that hold nothing else
/// cost no memory of their own. Confined to its loop.
final class StreamOpening {
    private let opener: StreamOpener
    let plan: StreamPlan
    /// What held when it was asked for.
    private let before: NodeSnapshot
    /// What it is joined with, where that can come by another way than it did at first.
    var incoming: ResumableStream?
    /// nil once it was called, or nobody waits any more.
    private var completion: ((Result<StreamOpener.Opened, StreamError>) -> Void)?

    init(
        by opener: StreamOpener,
        _ plan: StreamPlan,
        _ completion: @escaping (Result<StreamOpener.Opened, StreamError>) -> Void
    ) {
        self.opener = opener
        self.plan = plan
        before = opener.snapshot
        self.completion = completion
    }

    /// Nobody waits any more.
    func cancel() { completion = nil }

    // MARK: What is asked on the way

    /// Why it must not go over `path`; nil if it may.
    ///
    /// - Parameter hasInnerTunnel: What it carries is TLS that ends at the peer's HBONE server.
    func refusal(over path: PathID, hasInnerTunnel: Bool) -> StreamError? {
        if hasInnerTunnel, path.transport == .ssh {
            return StreamError(.unreachable, "a stream with x-tun does not go over the path ssh")
        }
        guard opener.snapshot !== before else { return plan.refusal(over: path) }
        // A stream that goes on asks long after it was planned; so may one that has waited for a path.
        let request = incoming?.movedBy ?? plan.request.withoutHops
        return opener.snapshot.planner.refusal(of: request.at(WallClock.system.seconds), over: path)
    }

    /// Why `address` must not be dialled; nil if it may.
    func refusal(dialing address: IPAddress, port: UInt16) -> StreamError? {
        opener.refusal(dialing: address, port: port, plan, by: before)
    }

    // MARK: What becomes of it

    /// A path to the peer gave it, or nothing.
    func opened(_ result: Result<OpenedStream, StreamError>) {
        switch result {
        case .success(let opened):
            // One that outlives its path asks again, for as long as it lasts.
            let asksAgain = opened.stream is ResumableStream
            succeed(
                StreamOpener.Opened(stream: opened.stream, path: opened.path, opening: asksAgain ? self : nil)
            )
        case .failure(let error): fail(error)
        }
    }

    /// It was dialled from here, or could not be.
    func dialled(_ result: Result<Socket, StreamError>) {
        switch result {
        case .success(let socket):
            succeed(StreamOpener.Opened(stream: socket, path: nil, dialled: socket.peerAddress))
        case .failure(let error): fail(error)
        }
    }

    func succeed(_ opened: StreamOpener.Opened) {
        guard let completion else { return opened.stream.reset(StreamError(.closed, "the client gave up")) }
        self.completion = nil
        completion(opener.decidedAgain(opened, of: plan, since: before))
    }

    func fail(_ error: StreamError) {
        guard let completion else { return }
        self.completion = nil
        completion(.failure(error))
    }
}
