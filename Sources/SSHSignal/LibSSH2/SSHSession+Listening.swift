import CLibSSH2
import Streams

/// A port that the server listens on for this side (RFC 4254 §7.1), asked for or granted.
final class RemotePort {
    let host: String
    let port: UInt16
    let accept: (ByteStream) -> Void
    var completion: ((Result<UInt16, SSHError>) -> Void)?
    var timer: LoopTimer?
    /// libssh2's listener, once the server listens. Freed with the session.
    var listener: OpaquePointer?

    init(
        host: String,
        port: UInt16,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, SSHError>) -> Void
    ) {
        self.host = host
        self.port = port
        self.accept = accept
        self.completion = completion
    }

    var description: String { "\(host.isEmpty ? "*" : host):\(port)" }

    /// The server's answer has no reason (RFC 4254 §4): what it can be is said.
    ///
    /// - Parameter privileged: Only root may listen there, and it may be that this is not root.
    static func refusal(of port: String, privileged: Bool, peer: String) -> SSHError {
        let root = privileged ? ", or only root may listen on ports below 1024" : ""
        return SSHError(
            .prohibited,
            "\(peer) does not listen on \(port): the port is in use there\(root), or its sshd_config "
                + "has AllowTcpForwarding no or local, DisableForwarding yes or a PermitListen without it (or the key is "
                + "restricted in authorized_keys)"
        )
    }
}

extension SSHSession {
    /// As many connections may wait until this side's turn comes; more are refused by libssh2.
    private static let backlog: Int32 = 64
    /// libssh2 opens the channels of accepted connections with a window of its own choice.
    private static let acceptedWindow = 2 << 20

    func startListening(_ port: RemotePort) {
        loop.preconditionInLoop()
        guard isOpen else {
            let error = failure ?? SSHError(.closed, "the SSH session with \(peerDescription) is not open")
            return later { port.completion?(.failure(error)) }
        }
        let timer = LoopTimer(on: loop) { [weak self, weak port] in
            guard let self, let port, let completion = port.completion else { return }
            port.completion = nil
            completion(
                .failure(
                    SSHError(
                        .timedOut,
                        "\(peerDescription) did not answer within \(configuration.requestTimeout) whether it listens on "
                            + port.description
                    )
                )
            )
        }
        timer.schedule(after: configuration.requestTimeout)
        port.timer = timer
        waitingPorts.append(port)
        scheduleDrive()
    }

    /// Returns whether one was answered. libssh2 asks for one port at a time.
    func stepPorts() -> Bool {
        guard let port = waitingPorts.first else { return false }
        var bound: Int32 = 0
        let listener = libssh2_channel_forward_listen_ex(
            library.raw,
            port.host,
            Int32(port.port),
            &bound,
            Self.backlog
        )
        if listener == nil && library.lastError == LIBSSH2_ERROR_EAGAIN { return false }
        waitingPorts.removeFirst()
        port.timer?.cancel()
        guard let listener else {
            let code = library.lastError
            let error =
                LibSSH2.isFatal(code)
                ? error(code)
                : RemotePort.refusal(
                    of: port.description,
                    privileged: port.port > 0 && port.port < 1024 && configuration.user != "root",
                    peer: peerDescription
                )
            if let completion = port.completion { later { completion(.failure(error)) } }
            port.completion = nil
            if LibSSH2.isFatal(code) { endLater(error) }
            return true
        }
        port.listener = listener
        ports.append(port)
        if let completion = port.completion {
            port.completion = nil
            // The server names the port only where it chose it.
            let number = port.port == 0 ? UInt16(clamping: bound) : port.port
            later { completion(.success(number)) }
        }
        return true
    }

    /// Takes the connections that have arrived at the server's ports.
    func acceptConnections() {
        for port in ports {
            guard let listener = port.listener else { continue }
            while phase == .open, let raw = libssh2_channel_forward_accept(listener) {
                let channel = SSHChannel(
                    raw,
                    session: self,
                    window: Self.acceptedWindow,
                    openedWith: Self.acceptedWindow,
                    peerDescription: "a client of port \(port.description) of \(peerDescription)"
                )
                channels.append(channel)
                later { port.accept(channel) }
            }
        }
    }
}
