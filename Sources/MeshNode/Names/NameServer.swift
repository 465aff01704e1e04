import Logging
import Platform
import Streams

/// The `dns` listener: what is of the mesh is answered from ``MeshZone``, the rest is asked of others. Confined to its
/// loop.
///
///     question ─→ DNSQuestion ─┬─ of the mesh ──→ DNSAnswer ──────────────→ answer
///                              └─ of others ───→ NameForwarder ─→ theirs ─→ as it came
final class NameServer {
    private let loop: EventLoop
    private let forwarder: NameForwarder
    private var connections = 0

    /// Over TCP at a time; more are closed at once.
    private static let mostConnections = 64

    init(on loop: EventLoop, logger: Logger) {
        self.loop = loop
        forwarder = NameForwarder(on: loop, logger: logger)
    }

    /// Answers now or later; nil: not at all.
    func answer(
        _ message: [UInt8],
        _ zone: MeshZone,
        for listener: NodeConfiguration.Listener,
        from asker: IPAddress?,
        isStream: Bool,
        reply: @escaping ([UInt8]?) -> Void
    ) {
        let question: DNSQuestion
        do throws(DNSQuestion.Unreadable) {
            question = try DNSQuestion(parsing: message)
        } catch {
            return reply(error.code.map { DNSAnswer.refusing(message, $0) })
        }
        if let answer = zone.answer(to: question) { return reply(answer.bytes(to: question)) }
        forwarder.ask(message, repeating: question.bytes.count, for: listener, from: asker, isStream: isStream) {
            answer in
            guard let answer, zone.allows(answer) else {
                return reply(DNSAnswer(code: .serverFailure).bytes(to: question))
            }
            // More than whoever asks takes in a datagram: it asks again over TCP (RFC 1035 §4.2.1, RFC 6891 §6.2.5).
            // No more than our own answers have, whatever whoever asks says: the address may be somebody else's.
            let limit = min(question.datagramSize ?? 512, DNSAnswer.datagramLimit)
            guard !isStream, answer.count > limit else { return reply(answer) }
            var short = DNSAnswer().truncated(to: question)
            short[3] = answer[3]
            reply(short)
        }
    }

    /// A connection with questions on it, each with its length before it (RFC 7766).
    func accept(_ socket: Socket, _ zone: @escaping () -> MeshZone, for listener: NodeConfiguration.Listener) {
        guard connections < Self.mostConnections else {
            return socket.reset(StreamError(.limit, "too many connections to the name server"))
        }
        connections += 1
        let asker = socket.peerAddress?.address
        NameConnection(socket) { [self] message, reply in
            answer(message, zone(), for: listener, from: asker, isStream: true, reply: reply)
        } ended: { [self] in
            connections -= 1
        }.start()
    }
}

/// Questions over TCP, one after the other; it keeps itself until it ends.
private final class NameConnection: StreamObserver {
    private let socket: Socket
    private let answer: ([UInt8], @escaping ([UInt8]?) -> Void) -> Void
    private var ended: (() -> Void)?
    private var input: [UInt8] = []
    private var output: ArraySlice<UInt8> = []
    private var isAnswering = false
    private var timer: LoopTimer?
    private var me: NameConnection?

    init(
        _ socket: Socket,
        answer: @escaping ([UInt8], @escaping ([UInt8]?) -> Void) -> Void,
        ended: @escaping () -> Void
    ) {
        self.socket = socket
        self.answer = answer
        self.ended = ended
    }

    func start() {
        me = self
        socket.observer = self
        timer = LoopTimer(on: socket.loop) { [unowned self] in
            end(StreamError(.timedOut, "no question within ten seconds"))
        }
        timer?.schedule(after: .seconds(10))
        streamReadable(socket)
    }

    func streamReadable(_ stream: ByteStream) { go() }

    func streamWritable(_ stream: ByteStream) { go() }

    func streamFailed(_ stream: ByteStream) { end(nil) }

    /// Reads no more than the question that it answers, and writes before it reads on: whoever does not read gets no
    /// second answer.
    private func go() {
        while ended != nil, !isAnswering {
            while !output.isEmpty {
                switch output.withUnsafeBytes({ socket.write($0) }) {
                case .bytes(let count): output = output.dropFirst(count)
                case .wouldBlock: return
                case .failed: return end(nil)
                }
            }
            let wanted = input.count < 2 ? 2 : 2 + (Int(input[0]) << 8 | Int(input[1]))
            if input.count >= 2, input.count == wanted {
                let message = Array(input.dropFirst(2))
                input = []
                isAnswering = true
                answer(message) { [self] reply in
                    isAnswering = false
                    guard let reply else { return end(StreamError(.protocolViolation, "this is no question")) }
                    output = ([UInt8(reply.count >> 8), UInt8(truncatingIfNeeded: reply.count)] + reply)[...]
                    timer?.schedule(after: .seconds(10))
                    socket.loop.later { [self] in go() }
                }
                continue
            }
            let count = min(4096, wanted - input.count)
            let result = withUnsafeTemporaryAllocation(byteCount: count, alignment: 1) { buffer in
                let result = socket.read(into: buffer)
                if case .bytes(let count) = result { input += buffer[..<count] }
                return result
            }
            switch result {
            case .bytes: continue
            case .wouldBlock: return
            case .end where input.isEmpty:
                socket.finish()
                return end(nil)
            case .end, .failed: return end(StreamError(.truncated, "the question has no end"))
            }
        }
    }

    private func end(_ error: StreamError?) {
        guard let ended else { return }
        self.ended = nil
        timer?.cancel()
        timer = nil
        if let error { socket.reset(error) } else { socket.close() }
        ended()
        me = nil
    }
}
