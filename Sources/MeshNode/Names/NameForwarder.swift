import Glibc
import H2Transport
import Logging
import Platform
import Streams

/// Asks other name servers what is not of the mesh, each question from a port of its own. Confined to its loop.
final class NameForwarder {
    /// The answer, with the identifier of the question; nil where nobody has answered.
    typealias Completion = ([UInt8]?) -> Void

    private let loop: EventLoop
    private let log: PeerLog
    private var pending = 0
    /// Of these, those of each other machine.
    private var pendingBySource: [IPAddress: Int] = [:]
    private var system = System()

    private struct System {
        var servers: [SocketAddress] = []
        /// Of this machine's interfaces.
        var addresses: Set<IPAddress> = []
        var until: UInt64 = 0
    }

    /// Questions that may wait for answers; more are told to try again.
    private static let mostPending = 256
    /// Of one other machine, so that one leaves the rest their turn. Programs of this one have one address together.
    private static let mostPendingOfOne = 32

    init(on loop: EventLoop, logger: Logger) {
        self.loop = loop
        // Programs ask again and again: a line a minute says as much.
        log = PeerLog(logger, on: loop, lines: 1, interval: .seconds(60))
    }

    /// - Parameters:
    ///   - message: A question that could be read.
    ///   - size: Of the part that an answer repeats: what stands behind the head.
    ///   - listener: Whose question it is; its own addresses are not asked.
    ///   - asker: Who has asked it.
    ///   - isStream: Over TCP, as the question came.
    func ask(
        _ message: [UInt8],
        repeating size: Int,
        for listener: NodeConfiguration.Listener,
        from asker: IPAddress?,
        isStream: Bool,
        completion: @escaping Completion
    ) {
        let servers = servers(for: listener)
        let source = asker.flatMap { $0.isLoopback || system.addresses.contains($0) ? nil : $0 }
        let isPatient = source.map { pendingBySource[$0, default: 0] < Self.mostPendingOfOne } ?? true
        guard pending < Self.mostPending, isPatient, !servers.isEmpty else {
            let reason = servers.isEmpty ? "there is no name server to ask" : "too many questions wait for name servers"
            log.log(.warning, reason, of: listener.name, label: "listener")
            return completion(nil)
        }
        pending += 1
        if let source { pendingBySource[source, default: 0] += 1 }
        let question = ForwardedQuestion(message, repeating: size, on: loop) { [self] answer in
            pending -= 1
            if let source, let count = pendingBySource[source] {
                pendingBySource[source] = count > 1 ? count - 1 : nil
            }
            if answer == nil {
                let asked = servers.map { "\($0)" }.joined(separator: ", ")
                log.log(
                    .warning,
                    "no name server answers",
                    of: asked,
                    label: "upstreams",
                    ["listener": "\(listener.name)"]
                )
            }
            completion(answer)
        }
        if isStream { question.connect(to: servers) } else { question.send(to: servers[...]) }
    }

    private func servers(for listener: NodeConfiguration.Listener) -> [SocketAddress] {
        if loop.now >= system.until {
            system = System(
                servers: CaptureSurroundings.nameServers("/etc/resolv.conf").map { SocketAddress($0, port: 53) },
                addresses: Set(InterfaceAddress.all().map(\.address)),
                until: loop.now &+ 2_000_000_000
            )
        }
        let servers = listener.names.upstreams.isEmpty ? system.servers : listener.names.upstreams
        return servers.filter { !Self.isOwn($0, of: listener, on: system.addresses) }
    }

    /// Whether `bytes` answer this very question.
    ///
    /// - Parameter size: As for ``ask(_:repeating:for:from:isStream:completion:)``.
    static func isAnswer(_ bytes: UnsafeRawBufferPointer, to question: [UInt8], repeating size: Int) -> Bool {
        guard bytes.count >= 12, bytes[0] == question[0], bytes[1] == question[1], bytes[2] & 0x80 != 0 else {
            return false
        }
        // Whoever could not read it repeats nothing, says why, and has nothing else to say.
        if bytes[4] == 0, bytes[5] == 0 { return bytes[3] & 15 != 0 && bytes[4..<12].allSatisfy { $0 == 0 } }
        return bytes[4] == 0 && bytes[5] == 1 && bytes.count >= 12 + size
            && zip(bytes[12..<12 + size], question[12..<12 + size]).allSatisfy { $0 == $1 }
    }

    /// Whether the listener itself is there: it would ask itself, and itself again.
    static func isOwn(
        _ server: SocketAddress,
        of listener: NodeConfiguration.Listener,
        on addresses: Set<IPAddress>
    ) -> Bool {
        guard let address = server.address, server.port == listener.bind.port else { return false }
        return [listener.bind.address, listener.twin?.bind.address].contains { bind in
            guard let bind else { return false }
            guard bind.isUnspecified else { return bind == address }
            return bind.isIPv4 == address.isIPv4 && (address.isLoopback || addresses.contains(address))
        }
    }
}

/// One question on its way; it keeps itself until it is answered.
private final class ForwardedQuestion: StreamObserver {
    private let loop: EventLoop
    private var question: [UInt8]
    private let original: (UInt8, UInt8)
    private let size: Int
    private var completion: NameForwarder.Completion?
    private var socket: DatagramSocket?
    private var dialer: Dialer?
    private var stream: ByteStream?
    private var output: ArraySlice<UInt8> = []
    private var input: [UInt8] = []
    private var timer: LoopTimer?

    init(
        _ question: [UInt8],
        repeating size: Int,
        on loop: EventLoop,
        completion: @escaping NameForwarder.Completion
    ) {
        self.loop = loop
        self.question = question
        self.size = size
        original = (question[0], question[1])
        self.completion = completion
        // Whoever cannot see the question cannot guess its answer: the port is the kernel's choice.
        let id = UInt16.random(in: 0...UInt16.max)
        (self.question[0], self.question[1]) = (UInt8(id >> 8), UInt8(truncatingIfNeeded: id))
    }

    // MARK: UDP

    /// To the first of them, and after a while to the next.
    func send(to servers: ArraySlice<SocketAddress>) {
        socket?.close()
        socket = nil
        guard let server = servers.first, let address = server.address else { return end(nil) }
        let any = SocketAddress(IPAddress(high: 0, low: 0, isIPv4: address.isIPv4), port: 0)
        socket = try? DatagramSocket(bind: any, on: loop) { [weak self] bytes, ends in
            guard ends.peer == server, let self, self.accept(bytes) else { return }
            self.end([UInt8](bytes))
        }
        socket?.send(question, to: server)
        let timer = LoopTimer(on: loop) { [self] in send(to: servers.dropFirst()) }
        self.timer = timer
        timer.schedule(after: .seconds(2))
    }

    private func accept(_ bytes: UnsafeRawBufferPointer) -> Bool {
        NameForwarder.isAnswer(bytes, to: question, repeating: size)
    }

    // MARK: TCP

    func connect(to servers: [SocketAddress]) {
        let dialer = Dialer(to: .addresses(servers), on: loop, options: .init(timeout: .seconds(3))) { _ in
            nil
        } completion: { [self] result in
            self.dialer = nil
            guard case .success(let stream) = result else { return end(nil) }
            self.stream = stream
            stream.observer = self
            output = ([UInt8(question.count >> 8), UInt8(truncatingIfNeeded: question.count)] + question)[...]
            streamWritable(stream)
            streamReadable(stream)
        }
        self.dialer = dialer
        let timer = LoopTimer(on: loop) { [self] in end(nil) }
        self.timer = timer
        timer.schedule(after: .seconds(8))
        dialer.start()
    }

    func streamWritable(_ stream: ByteStream) {
        while !output.isEmpty {
            guard case .bytes(let count) = output.withUnsafeBytes({ stream.write($0) }) else { break }
            output = output.dropFirst(count)
        }
    }

    func streamReadable(_ stream: ByteStream) {
        withUnsafeTemporaryAllocation(byteCount: 8192, alignment: 8) { buffer in
            while completion != nil {
                switch stream.read(into: buffer) {
                case .bytes(let count): input += buffer[..<count]
                case .wouldBlock: return
                case .end, .failed: return end(nil)
                }
                guard input.count >= 2 else { continue }
                let length = Int(input[0]) << 8 | Int(input[1])
                guard input.count >= 2 + length else { continue }
                let answer = Array(input[2..<2 + length])
                return end(answer.withUnsafeBytes(accept) ? answer : nil)
            }
        }
    }

    func streamFailed(_ stream: ByteStream) { end(nil) }

    private func end(_ answer: [UInt8]?) {
        guard let completion else { return }
        self.completion = nil
        timer?.cancel()
        timer = nil
        socket?.close()
        socket = nil
        dialer?.cancel()
        dialer = nil
        stream?.reset(StreamError(.closed, "the name server has answered"))
        stream = nil
        guard var answer else { return completion(nil) }
        (answer[0], answer[1]) = original
        completion(answer)
    }
}
