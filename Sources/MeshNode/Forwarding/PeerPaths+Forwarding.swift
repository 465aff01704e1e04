import Logging
public import Streams

extension PeerPaths {
    /// Carries an accepted connection to `destination` behind the peer. The connection is reset, and the reason logged, when
    /// there is no stream for it.
    public func carry(_ socket: Socket, to destination: Authority) {
        openStream(to: destination) { [logger] result in
            switch result {
            case .success(let opened):
                Relay(socket, opened.stream) { result in
                    if let failure = result.failure { logger.warning("stream to \(destination) cut: \(failure)") }
                }.start()
            case .failure(let error):
                logger.warning("no stream to \(destination): \(error)")
                socket.reset(error)
            }
        }
    }
}
