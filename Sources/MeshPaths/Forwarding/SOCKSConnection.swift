import Glibc
package import Platform
package import Streams

/// One client of a SOCKS server: does the handshake, has the connection made, and relays. Confined to its loop; keeps
/// itself alive until it is done.
package final class SOCKSConnection: StreamObserver {
    /// Makes the connection that a client asks for; calls back once, on the loop.
    package typealias Dialer = (Authority, @escaping (Result<ByteStream, StreamError>) -> Void) -> Void

    private let client: ByteStream
    private let dial: Dialer
    private let ended: (Authority?, StreamError?) -> Void
    private var handshake = SOCKSHandshake()
    private var needed = 0
    private var bytes: [UInt8] = []
    private var destination: Authority?
    private var timer: LoopTimer?
    private var retained = Retained<SOCKSConnection>()

    /// For the client's part of the handshake.
    private static let timeout: Duration = .seconds(15)

    /// - Parameters:
    ///   - client: An accepted connection; owned from now on.
    ///   - dial: Makes the connection that the client asks for.
    ///   - ended: Called once, on the loop: where the client wanted to go, as far as it said, and why it did not go
    ///     well.
    package init(
        _ client: ByteStream,
        dial: @escaping Dialer,
        ended: @escaping (Authority?, StreamError?) -> Void = { _, _ in }
    ) {
        self.client = client
        self.dial = dial
        self.ended = ended
    }

    package func start() {
        retained.hold(self)
        client.observer = self
        let timer = LoopTimer(on: client.loop) { [weak self] in
            self?.end(StreamError(.timedOut, "the SOCKS client did not say within \(Self.timeout) what it wants"))
        }
        timer.schedule(after: Self.timeout)
        self.timer = timer
        perform(SOCKSHandshake.start)
        read()
    }

    package func streamReadable(_ stream: ByteStream) { read() }
    package func streamWritable(_ stream: ByteStream) {}
    package func streamFailed(_ stream: ByteStream) { end(stream.failure) }

    private func perform(_ action: SOCKSHandshake.Action) {
        switch action {
        case .read(let count): expect(count)
        case .send(let reply, let count):
            guard send(reply) else { return }
            expect(count)
        case .connect(let authority): connect(to: authority)
        case .refuse(let reply, let error):
            if !reply.isEmpty { guard send(reply) else { return } }
            client.finish()
            end(error, resets: false)
        }
    }

    private func expect(_ count: Int) {
        bytes = []
        needed = count
    }

    private func read() {
        while retained.isHeld && needed > 0 {
            let result = withUnsafeTemporaryAllocation(byteCount: needed, alignment: 1) { buffer in
                let result = client.read(into: buffer)
                if case .bytes(let count) = result { bytes.append(contentsOf: buffer[..<count]) }
                return result
            }
            switch result {
            case .bytes(let count):
                needed -= count
                if needed == 0 { perform(handshake.received(bytes)) }
            case .wouldBlock: return
            case .end: return end(StreamError(.truncated, "the SOCKS client ended before it said what it wants"))
            case .failed: return end(client.failure)
            }
        }
    }

    private func connect(to authority: Authority) {
        destination = authority
        timer?.cancel()
        dial(authority) { [self] result in
            guard retained.isHeld else {
                if case .success(let stream) = result {
                    stream.reset(StreamError(.closed, "the SOCKS client has gone"))
                }
                return
            }
            switch result {
            case .success(let stream):
                guard send(handshake.reply(nil)) else {
                    return stream.reset(StreamError(.closed, "the client has gone"))
                }
                retained.release()
                let (ended, destination) = (ended, destination)
                let client = client
                let hasHungUp = Box(false)
                let relay = Relay(client, stream) { ended(destination, hasHungUp.value ? nil : $0.failure) }
                relay.onFailure = { _ in hasHungUp.value = client.failure != nil }
                relay.start()
            case .failure(let error):
                guard send(handshake.reply(error)) else { return }
                client.finish()
                end(error, resets: false)
            }
        }
    }

    /// Replies are the first bytes that the client's empty socket gets: they fit, or it is broken.
    private func send(_ reply: [UInt8]) -> Bool {
        if reply.withUnsafeBytes({ client.write($0) }) == .bytes(reply.count) { return true }
        end(client.failure ?? StreamError(.limit, "the SOCKS client takes no reply"))
        return false
    }

    private func end(_ error: StreamError?, resets: Bool = true) {
        guard retained.isHeld else { return }
        timer?.cancel()
        let reason = error ?? StreamError(.closed, "the SOCKS client has gone")
        if resets { client.reset(reason) } else { client.close() }
        ended(destination, reason)
        retained.release()
    }
}

/// A value that two closures share. Confined to their loop.
private final class Box<Value> {
    var value: Value
    init(_ value: Value) { self.value = value }
}
