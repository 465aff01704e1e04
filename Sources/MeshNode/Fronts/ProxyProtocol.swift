import H2Transport
import Logging
import Platform
import Streams

/// The step in front of a front whose clients come through a load balancer: reads the header that says who they are,
/// and hands the connection on as theirs. Confined to its loop; keeps itself alive until it is done.
final class ProxyProtocol: StreamObserver {
    private let socket: Socket
    private var reader = ProxyHeaderReader()
    private let completion: (Result<Void, StreamError>) -> Void
    private var timer: LoopTimer?
    private var retained = Retained<ProxyProtocol>()

    /// For the header, which is sent first of all.
    static let timeout: Duration = .seconds(10)

    /// Reads the header of an accepted connection; ``Streams/Socket/peerAddress`` is that of the client then. Who is
    /// not one of the listener's proxies is refused, as is a header that is not right.
    ///
    /// - Parameter next: What the listener's front does. Not called where there is no connection to hand on.
    static func read(
        from socket: Socket,
        by listener: NodeConfiguration.Listener,
        _ carrier: StreamCarrier,
        _ next: @escaping (Socket) -> Void
    ) {
        let proxy = socket.peerAddress?.address ?? .loopbackIPv4
        func refuse(_ error: StreamError) {
            socket.reset(error)
            let facts: [String: Logger.MetadataValue] = ["listener": "\(listener.name)", "reason": "\(error)"]
            carrier.peerLog.log(.warning, "a connection without its PROXY header", of: "\(proxy)", facts)
        }
        guard listener.trustedProxies?.contains(where: { $0.contains(proxy) }) == true else {
            return refuse(StreamError(.denied, "\(proxy) is none of 'trustedProxies'"))
        }
        let newcomers = carrier.newcomers
        var key: Newcomers.Key?
        let step = ProxyProtocol(socket) { result in
            if let key { newcomers.remove(key) }
            switch result {
            case .success: next(socket)
            case .failure(let error): refuse(error)
            }
        }
        key = carrier.admit(from: proxy) { [weak step] in step?.end(.failure(.crowdedOut)) }
        step.start()
    }

    init(_ socket: Socket, completion: @escaping (Result<Void, StreamError>) -> Void) {
        self.socket = socket
        self.completion = completion
    }

    func start(timeout: Duration = ProxyProtocol.timeout) {
        retained.hold(self)
        socket.observer = self
        let timer = LoopTimer(on: socket.loop) { [weak self] in
            self?.end(.failure(StreamError(.timedOut, "the PROXY header was not whole within \(timeout)")))
        }
        timer.schedule(after: timeout)
        self.timer = timer
        read()
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end(.failure(stream.failure ?? .closed(stream))) }

    private func read() {
        while retained.isHeld {
            let buffer = socket.loop.buffers.take(.medium)
            defer { socket.loop.buffers.give(buffer) }
            let room = UnsafeMutableRawBufferPointer(start: buffer.base, count: min(reader.wanted, buffer.capacity))
            switch socket.read(into: room) {
            case .bytes(let count): take(room[..<count])
            case .wouldBlock: return
            case .end: end(.failure(StreamError(.truncated, "the connection ended before its PROXY header was whole")))
            case .failed: end(.failure(socket.failure ?? .closed(socket)))
            }
        }
    }

    private func take(_ bytes: Slice<UnsafeMutableRawBufferPointer>) {
        do throws(StreamError) {
            guard let header = try reader.receive(bytes) else { return }
            // A proxy that speaks for itself, to see whether somebody is here, keeps its own address.
            if let source = header.source { socket.speaks(for: source) }
            end(.success(()))
        } catch {
            end(.failure(error))
        }
    }

    private func end(_ result: Result<Void, StreamError>) {
        guard retained.isHeld else { return }
        timer?.cancel()
        socket.observer = nil
        completion(result)
        retained.release()
    }
}
