import Glibc
package import Platform
package import Streams

/// One client of a SOCKS server, up to the answer: does the handshake, has its owner make the connection, and tells the
/// client what became of it. Confined to its loop; keeps itself alive until it is done.
package final class SOCKSConnection: StreamObserver {
    package struct Handlers {
        /// Makes the connection that the client asks for, and calls ``SOCKSConnection/succeed()`` or
        /// ``SOCKSConnection/refuse(_:)``, also from inside. Returns what to call when the client has gone meanwhile;
        /// neither is called then.
        package var connect: (SOCKSConnection, Authority) -> () -> Void
        /// Told once, unless the connection succeeds: where the client wanted to go, as far as it said, and why it does
        /// not. For what ``SOCKSConnection/refuse(_:)`` was called with, too.
        package var failed: (Authority?, StreamError) -> Void
        /// Checks a name and a password, and calls back once, on the loop, with nil where they cannot be checked now;
        /// nil: everybody comes in.
        package var check: ((_ user: [UInt8], _ password: [UInt8], @escaping (Bool?) -> Void) -> Void)?

        package init(
            connect: @escaping (SOCKSConnection, Authority) -> () -> Void,
            failed: @escaping (Authority?, StreamError) -> Void,
            check: (([UInt8], [UInt8], @escaping (Bool?) -> Void) -> Void)? = nil
        ) {
            self.connect = connect
            self.failed = failed
            self.check = check
        }
    }

    package let client: ByteStream
    private let handlers: Handlers
    private var handshake: SOCKSHandshake
    /// What the handshake asks for next; 0 while it asks for nothing.
    private var needed = 0
    /// What was read, of which the first `consumed` bytes belong to the handshake.
    private var input: [UInt8] = []
    private var consumed = 0
    private var destination: Authority?
    private var cancel: (() -> Void)?
    private var timer: LoopTimer?
    private var retained = Retained<SOCKSConnection>()

    /// What is read at once: nearly always the rest of the handshake, and little of what belongs to the stream.
    private static let piece = 512

    /// - Parameters:
    ///   - client: An accepted connection; owned until it has succeeded or failed.
    ///   - handlers: What the owner does.
    package init(_ client: ByteStream, _ handlers: Handlers) {
        self.client = client
        self.handlers = handlers
        handshake = SOCKSHandshake(authenticates: handlers.check != nil)
    }

    /// - Parameter timeout: For the client's part of the handshake.
    package func start(timeout: Duration = .seconds(15)) {
        retained.hold(self)
        client.observer = self
        let timer = LoopTimer(on: client.loop) { [weak self] in
            self?.drop(StreamError(.timedOut, "the SOCKS client did not say within \(timeout) what it wants"))
        }
        timer.schedule(after: timeout)
        self.timer = timer
        perform(SOCKSHandshake.start)
        advance()
    }

    /// Ends a client that has not said yet what it wants.
    package func drop(_ reason: StreamError) { end(reason, resets: true) }

    /// The connection is there: tells the client.
    ///
    /// - Returns: What the client has sent already, for the far side; nil where it has gone. The client is the caller's
    ///   from now on.
    package func succeed() -> [UInt8]? {
        cancel = nil
        guard retained.isHeld, send(handshake.reply(nil)) else { return nil }
        defer { retained.release() }
        return Array(input[consumed...])
    }

    /// There is no connection: tells the client, and closes.
    package func refuse(_ error: StreamError) {
        guard retained.isHeld else { return }
        cancel = nil
        guard send(handshake.reply(error)) else { return }
        client.finish()
        end(error, resets: false)
    }

    package func streamReadable(_ stream: ByteStream) { advance() }
    package func streamWritable(_ stream: ByteStream) {}
    package func streamFailed(_ stream: ByteStream) { end(stream.failure ?? .closed(stream), resets: true) }

    private func perform(_ action: SOCKSHandshake.Action) {
        switch action {
        case .read(let count): needed = count
        case .send(let reply, let count):
            guard send(reply) else { return }
            needed = count
        case .check(let user, let password):
            handlers.check?(user, password) { [weak self] isRight in
                guard let self, retained.isHeld else { return }
                perform(handshake.checked(isRight))
                advance()
            }
        case .connect(let authority):
            destination = authority
            timer?.cancel()
            let cancel = handlers.connect(self, authority)
            if retained.isHeld { self.cancel = cancel }
        case .refuse(let reply, let error):
            if !reply.isEmpty { guard send(reply) else { return } }
            client.finish()
            end(error, resets: false)
        }
    }

    /// Hands the handshake what it asks for, as long as there is something.
    private func advance() {
        while retained.isHeld && needed > 0 {
            if input.count - consumed >= needed {
                let bytes = Array(input[consumed..<consumed + needed])
                consumed += needed
                needed = 0
                perform(handshake.received(bytes))
                continue
            }
            if consumed == input.count { (input, consumed) = ([], 0) }
            let result = withUnsafeTemporaryAllocation(byteCount: Self.piece, alignment: 1) { buffer in
                let result = client.read(into: buffer)
                if case .bytes(let count) = result { input.append(contentsOf: buffer[..<count]) }
                return result
            }
            switch result {
            case .bytes: continue
            case .wouldBlock: return
            case .end:
                return end(
                    StreamError(.truncated, "the SOCKS client ended before it said what it wants"),
                    resets: true
                )
            case .failed: return end(client.failure ?? .closed(client), resets: true)
            }
        }
    }

    /// Replies are the first bytes that the client's empty socket gets: they fit, or it is broken.
    private func send(_ reply: [UInt8]) -> Bool {
        if reply.withUnsafeBytes({ client.write($0) }) == .bytes(reply.count) { return true }
        end(client.failure ?? StreamError(.limit, "the SOCKS client takes no reply"), resets: true)
        return false
    }

    private func end(_ reason: StreamError, resets: Bool) {
        guard retained.isHeld else { return }
        timer?.cancel()
        needed = 0
        if resets { client.reset(reason) } else { client.close() }
        let cancel = cancel
        self.cancel = nil
        cancel?()
        handlers.failed(destination, reason)
        retained.release()
    }
}
