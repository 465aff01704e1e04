import CLibSSH2
import Streams

extension SSHSession {
    /// Does the handshake, has the host key checked, and authenticates. Call once, on the loop.
    ///
    /// - Parameter completion: Called once, on the loop, never from inside this call. After a failure the session is
    ///   over and the lower stream closed.
    package func establish(_ completion: @escaping (Result<Void, SSHError>) -> Void) {
        loop.preconditionInLoop()
        precondition(phase == .idle, "a session is established once")
        established = completion
        phase = .handshaking
        lower.observer = self
        library.prefer(LIBSSH2_METHOD_KEX, configuration.keyExchanges)
        library.prefer(
            LIBSSH2_METHOD_HOSTKEY,
            configuration.hostKeyAlgorithms(preferring: verifier.preferredAlgorithms)
        )
        for method in [LIBSSH2_METHOD_CRYPT_CS, LIBSSH2_METHOD_CRYPT_SC] {
            library.prefer(method, configuration.ciphers)
        }
        for method in [LIBSSH2_METHOD_MAC_CS, LIBSSH2_METHOD_MAC_SC] { library.prefer(method, configuration.macs) }
        startPhaseTimer(configuration.handshakeTimeout, "the SSH handshake")
        let (raw, engine, isHasty) = (library.raw, library, configuration.offersKeysAtOnce)
        let handshake = { () -> Int32 in
            let result = libssh2_session_handshake(raw, LibSSH2Session.unusedDescriptor)
            // All that is missing is the server's answer that it has `ssh-userauth`, as each one has. It takes a round
            // trip, and what authentication asks for first may go behind the request for it. libssh2 keeps the answer
            // with the packets that nobody has asked for.
            guard isHasty, result == LIBSSH2_ERROR_EAGAIN, engine.hasRequestedService else { return result }
            return 0
        }
        perform(handshake, then: { [unowned self] in handshakeEnded($0) })
    }

    private func handshakeEnded(_ result: Int32) {
        guard result == 0 else { return end(handshakeError(result)) }
        guard let key = library.hostKey else {
            return end(SSHError(.protocolViolation, "\(lower.peerDescription) sent no usable host key"))
        }
        stopPhaseTimer()
        hostKey = key
        configuration.onStep?(.exchanged(serverVersion ?? "unknown server"))
        phase = .verifyingHostKey
        let verifier = verifier
        let loop = loop
        let session = LoopBound(self, on: loop)
        Task {
            let verdict: SSHError?
            do {
                try await verifier.check(key)
                verdict = nil
            } catch {
                verdict = SSHError(.hostKeyRefused, "\(error)", limits: verifier.limits)
            }
            loop.submit { session.withValue { $0.hostKeyChecked(refusal: verdict) } }
        }
    }

    private func handshakeError(_ result: Int32) -> SSHError {
        switch result {
        case LIBSSH2_ERROR_KEX_FAILURE, LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE, LIBSSH2_ERROR_METHOD_NONE:
            if library.disconnectMessage != nil { return connectionLost(nil) }
            return SSHError(
                .negotiationFailed,
                """
                no SSH key exchange with \(lower.peerDescription) (\(library.serverVersion ?? "unknown server")): \
                \(library.lastErrorMessage). Most often the server has only RSA host keys, which libssh2 \
                \(LibSSH2.version) \(LibSSH2.supportsRSA ? "takes with SHA-2 only" : "cannot verify (1.11 can)"): \
                give it an ed25519 or ECDSA host key (ssh-keygen -A there)
                """,
                limits: [
                    EngineLimit(
                        .algorithms,
                        "\(EngineCapabilities.current.name) has no algorithm in common with the server"
                    )
                ]
            )
        case LIBSSH2_ERROR_SOCKET_DISCONNECT, LIBSSH2_ERROR_SOCKET_RECV, LIBSSH2_ERROR_BANNER_RECV:
            return connectionLost(nil)
        default:
            return error(result)
        }
    }

    private func hostKeyChecked(refusal: SSHError?) {
        guard phase == .verifyingHostKey else { return }
        if let refusal { return end(refusal) }
        if let hostKey { configuration.onStep?(.verified(hostKey)) }
        phase = .authenticating
        let authenticator = Authenticator(self) { [unowned self] error in
            if let error { end(error) } else { opened() }
        }
        self.authenticator = authenticator
        authenticator.start()
    }

    private func opened() {
        stopPhaseTimer()
        silentKey = authenticator?.silentKey
        authenticator?.stop()
        authenticator = nil
        phase = .open
        configuration.onStep?(.loggedIn)
        startDeadPeerDetection()
        guard let established else { return }
        self.established = nil
        later { established(.success(())) }
    }
}
