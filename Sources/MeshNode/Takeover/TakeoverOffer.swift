import Glibc
import Logging
import Streams

/// The running node's side of ``Takeover``. Confined to its event loop.
final class TakeoverOffer {
    private let loop: EventLoop
    private let logger: Logger
    private let sockets: () throws -> [ListeningSocket]
    private let onTaken: (Int32, @escaping () -> Void) -> Void
    private let onAbandoned: () -> Void
    private var listener: Listener?
    /// The process that takes over right now; there is one at a time.
    private var heir: Heir?

    /// - Parameters:
    ///   - sockets: The listening sockets, duplicated, which stay what they are until one of the other two is called.
    ///   - onTaken: Called once, with the number of the process that has them now; it stops accepting and calls back.
    ///   - onAbandoned: Called when the process that has them has ended before it was ready.
    init(
        at path: String,
        on loop: EventLoop,
        logger: Logger,
        sockets: @escaping () throws -> [ListeningSocket],
        onTaken: @escaping (Int32, @escaping () -> Void) -> Void,
        onAbandoned: @escaping () -> Void
    ) throws(StreamError) {
        self.loop = loop
        self.logger = logger
        self.sockets = sockets
        self.onTaken = onTaken
        self.onAbandoned = onAbandoned
        let bound = LoopBound(Weak(self), on: loop)
        listener = try Listener(bind: SocketAddress(unixPath: path), on: loop) { socket in
            bound.withValue { offer in
                if let offer = offer.value { offer.accept(socket) } else { socket.close() }
            }
        }
        // The directory is this user's own; this is for one that root made wider.
        chmod(path, 0o600)
    }

    func close() {
        listener?.close()
        listener = nil
        heir?.socket.close()
        heir = nil
    }

    private func accept(_ socket: Socket) {
        guard let peer = socket.peerProcess, peer.isTrusted, heir == nil else {
            logger.warning(
                "a process that wants to take over is refused",
                metadata: ["pid": "\(socket.peerProcess?.process ?? 0)"]
            )
            return socket.close()
        }
        let handedOver: [ListeningSocket]
        do {
            handedOver = try sockets()
        } catch {
            logger.error("the listeners were not handed over: \(error)")
            return socket.close()
        }
        do {
            for listening in handedOver { try socket.send("listener \(listening.name)\n", passing: listening) }
            let end = Array("end\n".utf8)
            _ = end.withUnsafeBytes { socket.write($0) }
        } catch {
            logger.error("the listeners were not handed over: \(error)")
            onAbandoned()
            return socket.close()
        }
        logger.info("handing over the listeners", metadata: ["to process": "\(peer.process)"])
        let heir = Heir(socket) { [weak self] line in self?.heard(line, from: peer.process) }
        self.heir = heir
        heir.start()
    }

    /// `line` is nil when the new process has gone.
    private func heard(_ line: String?, from process: Int32) {
        guard let heir else { return }
        guard line == "ready" else {
            logger.warning(
                "the process that was to take over has ended before it was ready",
                metadata: ["pid": "\(process)"]
            )
            heir.socket.close()
            self.heir = nil
            onAbandoned()
            return
        }
        onTaken(process) { [self] in
            // The path is free from here on.
            listener?.close()
            listener = nil
            let released = Array("released\n".utf8)
            _ = released.withUnsafeBytes { heir.socket.write($0) }
            heir.socket.finish()
            heir.socket.close()
            self.heir = nil
        }
    }

    private final class Weak {
        weak var value: TakeoverOffer?
        init(_ value: TakeoverOffer) { self.value = value }
    }
}

/// Reads the one word that the new process says.
private final class Heir: StreamObserver {
    let socket: Socket
    private let heard: (String?) -> Void
    private var line: [UInt8] = []
    private var isDone = false

    init(_ socket: Socket, heard: @escaping (String?) -> Void) {
        self.socket = socket
        self.heard = heard
    }

    func start() {
        socket.observer = self
        socket.loop.later { [weak self] in self?.read() }
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { end(nil) }

    private func read() {
        var chunk = [UInt8](repeating: 0, count: 64)
        while !isDone {
            switch chunk.withUnsafeMutableBytes({ socket.read(into: $0) }) {
            case .bytes(let count):
                line += chunk[..<count]
                if let index = line.firstIndex(of: UInt8(ascii: "\n")) {
                    end(String(decoding: line[..<index], as: UTF8.self))
                } else if line.count > 256 {
                    end(nil)
                }
            case .wouldBlock: return
            case .end, .failed: end(nil)
            }
        }
    }

    private func end(_ line: String?) {
        guard !isDone else { return }
        isDone = true
        heard(line)
    }
}
