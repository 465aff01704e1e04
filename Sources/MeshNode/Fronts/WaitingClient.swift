import MeshPaths
import MeshPolicy
import Streams

/// A client that has said where it wants to go, and that is answered in its protocol once the stream is there, or not.
protocol WaitingClient: AnyObject {
    var client: ByteStream { get }

    /// Answers, and leaves the client to the caller.
    ///
    /// - Returns: What it has sent already; nil: it has gone.
    func succeed() -> [UInt8]?

    func refuse(_ error: StreamError)
}

extension SNIConnection: WaitingClient {}

extension SOCKSConnection: WaitingClient {}

extension StreamCarrier {
    /// Opens the stream, answers the client, and joins both.
    ///
    /// - Returns: What to call when the client has gone meanwhile.
    func connect(_ waiting: some WaitingClient, _ request: StreamRequest) -> () -> Void {
        open(request, from: waiting.client) { [self] result in
            switch result {
            case .success(let opened):
                guard let early = waiting.succeed() else {
                    return opened.abandon()
                }
                join(waiting.client, early: early, opened, request)
            case .failure(let error): waiting.refuse(error)
            }
        }
    }
}
