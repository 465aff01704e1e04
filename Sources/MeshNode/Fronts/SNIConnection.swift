import Platform
import Streams

/// One client that begins with a ClientHello, up to its far end: reads it, has its owner make the connection, and says
/// in an alert why there is none. Nothing else is ever written: TLS is between the client and the server. Confined to
/// its loop; keeps itself alive until it is done.
final class SNIConnection: StreamObserver {
    struct Handlers {
        /// Makes the connection, and calls ``SNIConnection/succeed()`` or ``SNIConnection/refuse(_:)``, also from
        /// inside. Returns what to call when the client has gone meanwhile; neither is called then.
        var connect: (SNIConnection, Authority) -> () -> Void
        /// Told once, unless the connection succeeds: where the client wanted to go, if it said so, and why it does
        /// not.
        var failed: (Authority?, StreamError) -> Void
    }

    let client: ByteStream
    private let handlers: Handlers
    private var reader = ClientHelloReader()
    private var isReading = true
    private var destination: Authority?
    private var cancel: (() -> Void)?
    private var timer: LoopTimer?
    private var retained = Retained<SNIConnection>()

    /// For the ClientHello.
    static let timeout: Duration = .seconds(10)

    /// - Parameters:
    ///   - client: An accepted connection; owned until it has succeeded or failed.
    ///   - handlers: What the owner does.
    init(_ client: ByteStream, _ handlers: Handlers) {
        self.client = client
        self.handlers = handlers
    }

    func start(timeout: Duration = SNIConnection.timeout) {
        retained.hold(self)
        client.observer = self
        let timer = LoopTimer(on: client.loop) { [weak self] in
            self?.drop(StreamError(.timedOut, "the ClientHello was not whole within \(timeout)"))
        }
        timer.schedule(after: timeout)
        self.timer = timer
        read()
    }

    /// Ends a client whose ClientHello is not whole.
    func drop(_ reason: StreamError) { end(reason, .reset) }

    /// The connection is there.
    ///
    /// - Returns: What the client has sent already, untouched, for the far side. The client is the caller's from now
    ///   on.
    func succeed() -> [UInt8]? {
        guard retained.isHeld else { return nil }
        cancel = nil
        defer { retained.release() }
        return reader.received
    }

    /// There is no connection: tells the client, and closes.
    func refuse(_ error: StreamError) {
        cancel = nil
        end(error, .alert(Self.alert(for: error)))
    }

    /// Whether it is forbidden or does not work; what is behind it is not the client's affair.
    private static func alert(for error: StreamError) -> TLSAlert {
        switch error.code {
        case .denied, .loop, .badRequest: .accessDenied
        default: .internalError
        }
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end(stream.failure ?? .closed(stream), .reset) }

    private func read() {
        while retained.isHeld && isReading {
            let buffer = client.loop.buffers.take(.medium)
            defer { client.loop.buffers.give(buffer) }
            switch client.read(into: UnsafeMutableRawBufferPointer(start: buffer.base, count: buffer.capacity)) {
            case .bytes(let count): take(UnsafeRawBufferPointer(start: buffer.base, count: count))
            case .wouldBlock: return
            case .end: end(StreamError(.truncated, "the client ended before its ClientHello was whole"), .reset)
            case .failed: end(client.failure ?? .closed(client), .reset)
            }
        }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) {
        do throws(ClientHelloError) {
            guard let name = try reader.receive(bytes) else { return }
            isReading = false
            timer?.cancel()
            let destination = try ServerNameDestination.parse(name)
            self.destination = destination
            let cancel = handlers.connect(self, destination)
            if retained.isHeld { self.cancel = cancel }
        } catch {
            end(StreamError(.protocolViolation, error.reason), error.alert.map { .alert($0) } ?? .close)
        }
    }

    private enum Ending {
        case reset, close
        case alert(TLSAlert)
    }

    private func end(_ reason: StreamError, _ ending: Ending) {
        guard retained.isHeld else { return }
        timer?.cancel()
        isReading = false
        switch ending {
        case .reset: client.reset(reason)
        case .close: close()
        case .alert(let alert):
            // The first bytes that the client's empty socket gets: they fit, or it is broken.
            _ = alert.record.withUnsafeBytes { client.write($0) }
            close()
        }
        let cancel = cancel
        self.cancel = nil
        cancel?()
        handlers.failed(destination, reason)
        retained.release()
    }

    private func close() {
        client.finish()
        client.close()
    }
}
