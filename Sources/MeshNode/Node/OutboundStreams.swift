import H2Transport
import Logging
import MeshPolicy
import Platform
import Streams

/// What this machine's users ask for: a connection to a local listener becomes a request, a plan, a stream, and a
/// relay. Confined to its loop.
///
///     tcp listener → plan → dial | h2 | h2-over-ssh | ssh → relay
final class OutboundStreams {
    private let logger: Logger
    private let peerLog: PeerLog
    private let live: LiveStreams
    private let opener: StreamOpener

    init(live: LiveStreams, opener: StreamOpener, logger: Logger) {
        self.live = live
        self.opener = opener
        self.logger = logger
        peerLog = PeerLog(logger, on: opener.loop)
    }

    /// Carries an accepted connection to `destination`.
    func carry(_ socket: Socket, to destination: Authority) {
        let source = socket.peerAddress?.address ?? .loopbackIPv4
        let plan = opener.plan(.localUser, at: source, over: nil, to: destination)
        _ = opener.open(plan) { [self] result in
            switch result {
            case .success(let opened): join(socket, opened, plan.request)
            case .failure(let error):
                peerLog.log(
                    .warning,
                    "no stream",
                    of: "\(destination)",
                    label: "to",
                    text: "no stream to \(destination): \(error)"
                )
                socket.reset(error)
            }
        }
    }

    private func join(_ socket: Socket, _ opened: StreamOpener.Opened, _ request: StreamRequest) {
        let logger = logger
        live.relay(socket, opened, for: request) { result in
            guard let failure = result.failure else { return }
            logger.info(
                "stream cut",
                metadata: [
                    "to": "\(request.destination)", "sent": "\(result.bytesForward)",
                    "received": "\(result.bytesBackward)", "reason": "\(failure)",
                ]
            )
        }
    }
}
