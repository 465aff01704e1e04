import Logging
package import MeshPolicy
import Platform
import SSHSignal
package import Streams

extension PeerPaths {
    /// Carries an accepted connection to `destination` behind the peer. The connection is reset, and the reason logged,
    /// when there is no stream for it.
    package func carry(_ socket: Socket, to destination: ForwardDestination) {
        carried += 1
        let over = { [weak self] (_: RelayResult) -> Void in self?.carried -= 1 }
        let cut = { [weak self] (error: StreamError) -> Void in
            // Who hangs up knows it.
            if socket.failure == nil { self?.forwardFailed(.cut("\(destination)", error)) }
        }
        let refuse = { [weak self] (error: StreamError) -> Void in
            self?.carried -= 1
            self?.forwardFailed(.notOpened("\(destination)", error))
            socket.reset(error)
        }
        switch destination {
        case .authority(let authority):
            openStream(to: authority) { [weak self] result in
                switch result {
                case .success(let opened):
                    guard let self else { return opened.stream.reset(StreamError(.closed, "shut down")) }
                    join(socket, opened, onFailure: cut, completion: over)
                case .failure(let error): refuse(error)
                }
            }
        case .unixSocket(let path):
            openUnixSocket(path) { result in
                switch result {
                case .success(let stream):
                    let relay = Relay(socket, stream, completion: over)
                    relay.onFailure = cut
                    relay.start()
                case .failure(let error): refuse(error)
                }
            }
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
                    // There is no stream yet.
                    self?.forwardFailed(.notOpened("\(destination?.description ?? "an unknown place") (SOCKS)", error))
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
                guard !isCancelled, let self, let early = connection.succeed() else {
                    return opened.stream.reset(StreamError(.closed, "the SOCKS client has gone"))
                }
                let client = connection.client
                let cut = { [weak self] (error: StreamError) -> Void in
                    // Who hangs up knows it.
                    if client.failure == nil { self?.forwardFailed(.cut("\(destination) (SOCKS)", error)) }
                }
                join(client, opened, early: early, onFailure: cut)
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

    /// Has the peer's node listen where it may, and else its SSH server, and keeps it listening: when the connection
    /// was lost, it is asked again.
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
            settings: settings,
            logger: logger,
            askNode: access.ways.contains(where: \.needsCredential)
                ? { [weak self] host, port, completion in
                    guard let self else { return completion(.failure(StreamError(.closed, "shut down"))) }
                    askToListen(host: host, port: port, completion: completion)
                } : nil,
            connect: { [weak self] completion in
                guard let self else { return completion(.failure(StreamError(.closed, "shut down"))) }
                withSession("its SSH server cannot be asked to listen", completion)
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

// MARK: What is carried

extension PeerPaths {
    /// What ``join(_:_:early:onFailure:completion:)`` has carried over each path.
    package var traffic: [PathID: PathTraffic] { meter.traffic }

    /// Joins a client of this side and a stream to the peer, and counts what goes over it.
    ///
    /// - Parameters:
    ///   - client: Its first end.
    ///   - opened: The other.
    ///   - early: What has been read from the client already.
    ///   - onFailure: Told why, before both are reset.
    ///   - completion: Called once, after both were closed or reset.
    package func join(
        _ client: ByteStream,
        _ opened: OpenedStream,
        early: [UInt8] = [],
        onFailure: ((StreamError) -> Void)? = nil,
        completion: @escaping (RelayResult) -> Void = { _ in }
    ) {
        var id: ObjectIdentifier?
        let relay = Relay(client, opened.stream) { [weak self] result in
            if let id { self?.meter.ended(id) }
            completion(result)
        }
        id = ObjectIdentifier(relay)
        relay.onFailure = onFailure
        meter.began(relay, opened)
        relay.start(early: early)
    }
}
