import Streams

/// Ports that the server listens on for this side, by way of the master (`ssh -O forward -R`).
///
/// In its proxy mode a master does not pass on the server's answer to `tcpip-forward`, nor connections to a port that
/// the server chose. So it is asked in its own words, and hands connections on to a Unix socket in its private
/// directory.
extension OpenSSHSession {
    /// What the forwarded connections of one session have in common.
    struct Listening {
        /// Asked for, by the number of the request.
        var asked: [UInt32: (Result<UInt16, SSHError>) -> Void] = [:]
        /// Where the master connects to.
        var listeners: [Listener] = []
        /// Where the server listens.
        var granted: [Granted] = []
        /// How many there were: each has a path of its own.
        var count = 0
        var streams: [WeakSocket] = []
        /// Whether the master is alive: who asked.
        var aliveChecks: [UInt32: (Bool) -> Void] = [:]

        /// What the master was asked for, and the port that it has become.
        struct Granted {
            let asked: RemotePort
            let port: UInt16
            let path: String
            let listener: Listener
        }

        struct WeakSocket { weak var stream: ForwardedSocket? }
    }

    func startListening(
        _ port: RemotePort,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, StreamError>) -> Void
    ) {
        loop.preconditionInLoop()
        let answer = { (result: Result<UInt16, SSHError>) in completion(result.mapError(\.streamError)) }
        guard isOpen else { return later(answer, .failure(failure ?? Self.notOpen)) }
        let path = forwardPath(listening.count)
        listening.count += 1
        let listener: Listener
        do throws(StreamError) {
            let bound = LoopBound((self, accept), on: loop)
            listener = try Listener(bind: SocketAddress(unixPath: path), on: loop) { socket in
                bound.withValue { $0.0.take(socket, of: port, $0.1) }
            }
        } catch {
            return later(answer, .failure(SSHError(.system, error.message)))
        }
        listening.listeners.append(listener)
        let request = takeRequest()
        let timer = LoopTimer(on: loop) { [weak self] in
            guard let self, let waiting = listening.asked.removeValue(forKey: request) else { return }
            waiting(.failure(SSHError(.timedOut, "\(peerDescription) did not answer whether it listens on \(port)")))
        }
        timer.schedule(after: Self.requestTimeout)
        listening.asked[request] = { [weak self] result in
            timer.cancel()
            if case .success(let number) = result {
                self?.listening.granted.append(
                    .init(asked: port, port: number == 0 ? port.port : number, path: path, listener: listener)
                )
            }
            if case .failure = result {
                listener.close()
                self?.listening.listeners.removeAll { $0 === listener }
            } else if self == nil {
                listener.close()
            }
            answer(
                result.map { $0 == 0 ? port.port : $0 }.mapError { error in
                    guard error.code == .prohibited, let self else { return error }
                    return port.refusal(by: self.peerDescription)
                }
            )
        }
        let host = port.host.isEmpty ? "*" : port.host
        send(MuxMessage.forward(id: request, host: host, port: port.port, toUnixSocket: path))
    }

    func endListening(_ port: RemotePort) {
        loop.preconditionInLoop()
        guard isOpen,
            let index = listening.granted.firstIndex(where: { $0.asked.host == port.host && $0.port == port.port })
        else { return }
        let ended = listening.granted.remove(at: index)
        listening.listeners.removeAll { $0 === ended.listener }
        ended.listener.close()
        let host = port.host.isEmpty ? "*" : port.host
        // Its answer is nobody's.
        send(
            MuxMessage.closeForward(id: takeRequest(), host: host, port: ended.asked.port, toUnixSocket: ended.path)
        )
    }

    private func take(_ socket: Socket, of port: RemotePort, _ accept: (ByteStream) -> Void) {
        guard isOpen else { return socket.reset(.closed(socket)) }
        let client = "a client of port \(port) of \(peerDescription)"
        let stream = ForwardedSocket(socket, peerDescription: client) {
            [weak self] completion in
            guard let self, isOpen else { return completion(false) }
            let request = takeRequest()
            listening.aliveChecks[request] = completion
            send(MuxMessage.aliveCheck(id: request))
        }
        listening.streams.removeAll { $0.stream == nil }
        listening.streams.append(.init(stream: stream))
        accept(stream)
    }

    /// Takes an answer of the master; returns whether it was to a question from here.
    func takeForwardAnswer(_ answer: MuxMessage.Answer) -> Bool {
        switch answer {
        case .alive(let request):
            guard let check = listening.aliveChecks.removeValue(forKey: request) else { return false }
            check(true)
        case .done(let request):
            guard let asked = listening.asked.removeValue(forKey: request) else { return false }
            asked(.success(0))
        case .remotePort(let request, let port):
            guard let asked = listening.asked.removeValue(forKey: request) else { return false }
            asked(.success(UInt16(clamping: port)))
        case .refused(let request, let reason):
            guard let asked = listening.asked.removeValue(forKey: request) else { return false }
            asked(.failure(SSHError(.prohibited, reason)))
        default: return false
        }
        return true
    }

    /// The session is over: nobody listens, and nothing that is open is complete.
    func endListening(_ error: SSHError) {
        let ended = listening
        listening = Listening()
        for listener in ended.listeners { listener.close() }
        for waiting in ended.asked.values { waiting(.failure(error)) }
        for check in ended.aliveChecks.values { check(false) }
        for stream in ended.streams { stream.stream?.sessionEnded(error.streamError) }
    }
}
