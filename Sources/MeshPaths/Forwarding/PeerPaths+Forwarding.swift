import Logging
import Platform
import SSHSignal
package import Streams

extension PeerPaths {
    /// Carries an accepted connection to `destination` behind the peer. The connection is reset, and the reason logged,
    /// when there is no stream for it.
    package func carry(_ socket: Socket, to destination: ForwardDestination) {
        let join = { [weak self] (result: Result<ByteStream, StreamError>) in
            switch result {
            case .success(let stream):
                let relay = Relay(socket, stream)
                relay.onFailure = { error in
                    // Who hangs up knows it.
                    if socket.failure == nil { self?.forwardFailed(.cut("\(destination)", error)) }
                }
                relay.start()
            case .failure(let error):
                self?.forwardFailed(.notOpened("\(destination)", error))
                socket.reset(error)
            }
        }
        switch destination {
        case .authority(let authority): openStream(to: authority) { join($0.map(\.stream)) }
        case .unixSocket(let path): openUnixSocket(path, completion: join)
        }
    }

    /// Serves an accepted connection as a SOCKS server (versions 5, 4 and 4a): names are resolved on the far side.
    package func serveSOCKS(_ socket: Socket) {
        SOCKSConnection(
            socket,
            .init(
                connect: { [weak self] connection, destination in
                    guard let self else {
                        connection.refuse(StreamError(.closed, "shut down"))
                        return {}
                    }
                    return connect(connection, to: destination)
                },
                failed: { [weak self] destination, error in
                    self?.forwardFailed(.cut("\(destination?.description ?? "an unknown place") (SOCKS)", error))
                }
            )
        ).start()
    }

    /// Returns what to call when the client has gone before it is answered.
    private func connect(_ connection: SOCKSConnection, to destination: Authority) -> () -> Void {
        var isCancelled = false
        openStream(to: destination) { [weak self] result in
            switch result {
            case .success(let opened):
                guard !isCancelled, let early = connection.succeed() else {
                    return opened.stream.reset(StreamError(.closed, "the SOCKS client has gone"))
                }
                let client = connection.client
                let relay = Relay(client, opened.stream)
                relay.onFailure = { error in
                    // Who hangs up knows it.
                    if client.failure == nil { self?.forwardFailed(.cut("\(destination) (SOCKS)", error)) }
                }
                relay.start(early: early)
            case .failure(let error):
                if !isCancelled { connection.refuse(error) }
            }
        }
        return { isCancelled = true }
    }

    /// Connects to a Unix socket of the peer's machine: over SSH, whichever path is in use, since HTTP/2 CONNECT has no
    /// name for it.
    ///
    /// - Parameters:
    ///   - path: Absolute, on the peer.
    ///   - completion: Called once, on the loop.
    package func openUnixSocket(_ path: String, completion: @escaping (Result<ByteStream, StreamError>) -> Void) {
        withSession("Unix sockets of the far side are reached over SSH") { result in
            switch result {
            case .success(let session): session.openDirectStreamLocal(path: path, completion: completion)
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    /// Has the peer's SSH server listen, and keeps it listening: when the SSH connection was lost, it is asked again.
    ///
    /// - Parameter forward: Where the far side listens, and where its connections lead.
    /// - Parameter onChange: Told of each change, on the loop.
    /// - Returns: What ``cancel(_:)`` takes.
    @discardableResult
    package func forward(
        _ forward: RemoteForward,
        onChange: @escaping (RemoteForwarding.Change) -> Void
    ) -> RemoteForwarding {
        let forwarding = RemoteForwarding(
            forward,
            on: loop,
            logger: logger,
            connect: { [weak self] completion in
                guard let self else { return completion(.failure(StreamError(.closed, "shut down"))) }
                withSession("the far side listens over SSH only", completion)
            },
            onChange: onChange
        )
        keep(forwarding)
        forwarding.start()
        return forwarding
    }

    /// Has the far side's server let go of the port, and resets what still arrives from there.
    package func cancel(_ forwarding: RemoteForwarding) {
        forwarding.cancel()
        drop(forwarding)
    }
}
