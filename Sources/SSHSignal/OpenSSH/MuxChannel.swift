import CLinux
import MeshIdentity
import Platform
import Streams

/// A channel of SSH's connection protocol (RFC 4254 §5) that an `ssh` master passes on: a forwarded TCP connection, or
/// the standard input and output of a command, as a byte stream.
///
/// The master's own forwarding of standard input and output would be less work, but it drops what is sent after the
/// server's end. Here the two directions end on their own, the end is a message (so that a master that was killed
/// leaves none), and the receive window follows the reader.
final class MuxChannel: ByteStream, SessionChannel {
    private enum Message {
        static let open: UInt8 = 90
        static let openConfirmation: UInt8 = 91
        static let openFailure: UInt8 = 92
        static let windowAdjust: UInt8 = 93
        static let data: UInt8 = 94
        static let extendedData: UInt8 = 95
        static let eof: UInt8 = 96
        static let close: UInt8 = 97
        static let request: UInt8 = 98
        static let success: UInt8 = 99
        static let failure: UInt8 = 100
    }

    /// Told the outcome of the opening: nil, or the server's reason.
    var onOpen: ((String?) -> Void)?
    /// Told the answer to ``ask(_:)``.
    var onReply: ((Bool) -> Void)?
    var onExtendedData: ((UnsafeRawBufferPointer) -> Void)?
    /// A server that tells no status at all has ended the channel for its own reasons.
    private(set) var exit = SSHExit.signal("unknown")
    private(set) var closure: ChannelClosure?
    var onClose: (() -> Void)?
    /// Called once when the connection can carry another channel.
    var onFree: (() -> Void)?
    /// See ``TrafficReporting``.
    var onTraffic: ((ByteStream, StreamTraffic) -> Void)?

    private let connection: MuxConnection
    private let peer: String
    private let window: Int

    private var remoteID: UInt32 = 0
    private var remoteWindow = 0
    private var maximumPacket = 0
    /// Bytes that were read and not yet given back to the window.
    private var consumed = 0
    private var received: ByteQueue
    /// The server has confirmed it.
    private(set) var isOpen = false
    private var ends = StreamEnds()
    private var closeReceived = false
    private var closeSent = false
    private var traffic = TrafficMeter()

    /// Writes wait when this many bytes are queued for the master.
    private static let maximumBacklog = 256 << 10
    /// The master reads 16 KiB each time that it has asked which of its sockets are readable, and takes a message when
    /// it is complete: with the ten bytes before the data this is what it reads in two times.
    private static let maximumData = 2 * (16 << 10) - 10

    /// - Parameters:
    ///   - connection: A proxy that carries no other channel.
    ///   - window: What the server may send beyond what was read.
    ///   - peer: For messages.
    init(on connection: MuxConnection, loop: EventLoop, window: Int, peerDescription peer: String) {
        self.connection = connection
        self.window = window
        self.peer = peer
        received = ByteQueue(pool: loop.buffers)
        super.init(loop: loop)
        connection.channel = self
    }

    override var peerDescription: String { peer }

    // MARK: Asking

    /// Asks for the channel; ``onOpen`` follows.
    func open(_ kind: ChannelKind) {
        var writer = SSHWireWriter()
        writer.string(kind.type)
        writer.uint32(0)
        writer.uint32(UInt32(window))
        writer.uint32(ChannelKind.maximumPacket)
        connection.send(Self.framed(Message.open, writer.bytes + kind.message))
    }

    /// Asks for a command or subsystem (RFC 4254 §6.5); ``onReply`` follows.
    func ask(_ request: ProcessRequest) {
        var writer = SSHWireWriter()
        writer.uint32(remoteID)
        writer.string(request.type)
        writer.byte(1)
        writer.string(request.argument)
        connection.send(Self.framed(Message.request, writer.bytes))
    }

    private static func framed(_ type: UInt8, _ body: [UInt8]) -> [UInt8] {
        var writer = SSHWireWriter()
        writer.uint32(UInt32(body.count + 2))
        writer.byte(0)
        writer.byte(type)
        return writer.bytes + body
    }

    private func send(_ type: UInt8, _ words: UInt32...) {
        var writer = SSHWireWriter()
        writer.uint32(remoteID)
        for word in words { writer.uint32(word) }
        connection.send(Self.framed(type, writer.bytes))
    }

    // MARK: ByteStream

    override func read(into buffer: UnsafeMutableRawBufferPointer) -> ReadResult {
        guard !ends.isReleased else { return .failed }
        let count = received.read(into: buffer)
        if count > 0 {
            giveBack(count)
            note(count)
            return .bytes(count)
        }
        if ends.reading != .open { return ends.deliverEnd() }
        guard !closeReceived else {
            return refuseRead(StreamError(.truncated, "\(peer) closed the channel without an end"))
        }
        return failure == nil ? ends.blockReader() : .failed
    }

    override func write(_ vectors: UnsafeBufferPointer<iovec>) -> WriteResult {
        guard failure == nil, ends.isWritable, !closeReceived else {
            return refuseWrite(
                closeReceived ? .closedByServer(peer) : nil
            )
        }
        var accepted = 0
        var offered = 0
        for vector in vectors {
            offered += vector.iov_len
            guard accepted == offered - vector.iov_len else { continue }
            accepted += write(UnsafeRawBufferPointer(start: vector.iov_base, count: vector.iov_len))
        }
        connection.flush()
        if accepted > 0 { note(accepted) }
        return ends.accept(accepted, of: offered)
    }

    private func note(_ count: Int) {
        if let kind = traffic.count(count) { onTraffic?(self, kind) }
    }

    /// Returns how many bytes were accepted.
    private func write(_ bytes: UnsafeRawBufferPointer) -> Int {
        var rest = bytes
        while !rest.isEmpty && remoteWindow > 0 {
            if connection.backlog >= Self.maximumBacklog {
                connection.flush()
                guard connection.backlog < Self.maximumBacklog else { break }
            }
            let count = min(rest.count, remoteWindow, maximumPacket, Self.maximumData)
            withUnsafeTemporaryAllocation(byteCount: 14, alignment: 4) { header in
                header.storeBytes(of: UInt32(count + 10).bigEndian, toByteOffset: 0, as: UInt32.self)
                header[4] = 0
                header[5] = Message.data
                header.storeBytes(of: remoteID.bigEndian, toByteOffset: 6, as: UInt32.self)
                header.storeBytes(of: UInt32(count).bigEndian, toByteOffset: 10, as: UInt32.self)
                connection.queue(UnsafeRawBufferPointer(header))
            }
            connection.queue(UnsafeRawBufferPointer(rebasing: rest[..<count]))
            remoteWindow -= count
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return bytes.count - rest.count
    }

    override func finish() {
        guard ends.finish() else { return }
        ends.sentEnd()
        if failure == nil && !closeReceived { send(Message.eof) }
    }

    /// SSH has no abort: what the server had connected the channel to sees an ordinary end.
    override func reset(_ reason: StreamError) {
        guard ends.release() else { return }
        fail(reason)
        release()
    }

    /// What was accepted is in the queue before the message that closes the channel.
    override func close() {
        guard ends.release() else { return }
        fail(.closed(self))
        release()
    }

    private func release() {
        observer = nil
        received.removeAll()
        onExtendedData = nil
        onClose = nil
        onReply = nil
        onTraffic = nil
        sendClose()
    }

    private func sendClose() {
        guard isOpen, !closeSent else { return }
        closeSent = true
        send(Message.close)
        freeIfDone()
    }

    /// Lets the server send as much as has been read, once a quarter of the window is used.
    private func giveBack(_ count: Int) {
        consumed += count
        guard consumed >= window / 4, !closeReceived, !closeSent, failure == nil else { return }
        send(Message.windowAdjust, UInt32(consumed))
        consumed = 0
    }

    // MARK: Called by the connection

    /// A message of the connection protocol, without the padding's length.
    func received(_ type: UInt8, _ body: UnsafeRawBufferPointer) throws(SSHError) {
        // The first word is our own number for the channel: there is one.
        guard body.count >= 4 else { throw MuxMessage.malformed }
        let rest = UnsafeRawBufferPointer(rebasing: body[4...])
        switch type {
        case Message.data: try receivedData(rest)
        case Message.windowAdjust:
            guard rest.count >= 4 else { throw MuxMessage.malformed }
            // A sum beyond 2³²−1 is the server's mistake (RFC 4254 §5.2).
            remoteWindow = min(remoteWindow + Self.word(rest, 0), Int(UInt32.max))
            connectionWritable()
        case Message.extendedData:
            guard rest.count >= 8, Self.word(rest, 4) <= rest.count - 8 else { throw MuxMessage.malformed }
            let data = UnsafeRawBufferPointer(rebasing: rest[8..<(8 + Self.word(rest, 4))])
            if !ends.isReleased { onExtendedData?(data) }
            giveBack(data.count)
        case Message.openConfirmation:
            guard rest.count >= 12, !isOpen else { throw MuxMessage.malformed }
            remoteID = UInt32(Self.word(rest, 0))
            remoteWindow = Self.word(rest, 4)
            maximumPacket = min(Self.word(rest, 8), Int(ChannelKind.maximumPacket))
            guard maximumPacket > 0 else { throw MuxMessage.malformed }
            isOpen = true
            // Nobody waits any more.
            if ends.isReleased { return sendClose() }
            let onOpen = onOpen
            self.onOpen = nil
            onOpen?(nil)
        case Message.openFailure:
            let onOpen = onOpen
            self.onOpen = nil
            onOpen?(Self.reason(rest))
            connection.hasRefusal = true
            closeSent = true
            closeReceived = true
            freeIfDone()
        case Message.eof:
            ends.receiveEnd()
            wakeReader()
        case Message.close: receivedClose()
        case Message.request: receivedRequest(rest)
        case Message.success, Message.failure:
            let onReply = onReply
            self.onReply = nil
            onReply?(type == Message.success)
        default: break
        }
    }

    private func receivedData(_ rest: UnsafeRawBufferPointer) throws(SSHError) {
        guard rest.count >= 4, Self.word(rest, 0) <= rest.count - 4 else { throw MuxMessage.malformed }
        let data = UnsafeRawBufferPointer(rebasing: rest[4..<(4 + Self.word(rest, 0))])
        guard !ends.isReleased else { return }
        // More than the window allows would be memory without bound.
        guard received.count + data.count <= window else { throw MuxMessage.malformed }
        received.append(data)
    }

    private func receivedRequest(_ rest: UnsafeRawBufferPointer) {
        var reader = SSHWireReader(rest)
        guard let name = reader.text(), let wantsReply = reader.byte() else { return }
        switch name {
        case "exit-status": if let status = reader.uint32() { exit = .status(Int32(truncatingIfNeeded: status)) }
        case "exit-signal": if let signal = reader.text() { exit = .signal(Printable.clean(signal)) }
        default: if wantsReply != 0 && !closeSent { send(Message.failure) }
        }
    }

    private func receivedClose() {
        closeReceived = true
        wakeReader()
        closed(.byServer)
        connectionWritable()
        sendClose()
        freeIfDone()
    }

    private static func word(_ bytes: UnsafeRawBufferPointer, _ offset: Int) -> Int {
        Int(UInt32(bigEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt32.self)))
    }

    /// RFC 4254 §5.1, in the words of libssh2 and `ssh`.
    private static func reason(_ rest: UnsafeRawBufferPointer) -> String {
        var reader = SSHWireReader(rest)
        let names: [UInt32: String] = [
            1: "administratively prohibited", 2: "connect failed", 3: "unknown channel type", 4: "resource shortage",
        ]
        let code = reader.uint32().flatMap { names[$0] } ?? "refused"
        let text = reader.string().map { Printable.clean($0, limit: 200) } ?? ""
        return text.isEmpty ? code : "\(code): \(text)"
    }

    /// Everything that was there has been taken in.
    func connectionWasRead() {
        if !received.isEmpty { wakeReader() }
    }

    /// There may be room again.
    func connectionWritable() {
        guard ends.writerWaits else { return }
        let hasRoom = remoteWindow > 0 && connection.backlog < Self.maximumBacklog
        guard hasRoom || closeReceived || failure != nil, ends.wakeWriter() else { return }
        observer?.streamWritable(self)
    }

    private func wakeReader() {
        if ends.wakeReader() { observer?.streamReadable(self) }
    }

    /// The owner is done with it, and the server has not confirmed that.
    var isClosing: Bool { ends.isReleased && isOpen && !(closeSent && closeReceived) }

    private func freeIfDone() {
        guard closeSent, closeReceived, let onFree else { return }
        self.onFree = nil
        connection.channel = nil
        onFree()
    }

    /// The connection has ended under the channel. The session says why.
    func connectionEnded() { lost?() }

    /// Called when the connection has ended by itself.
    var lost: (() -> Void)?

    /// The connection is over. What had arrived can still be read.
    func sessionEnded(_ error: StreamError) {
        onOpen = nil
        onReply = nil
        onFree = nil
        lost = nil
        connection.close()
        guard !ends.isReleased else { return }
        let isOver = ends.areOver || ends.reading != .open && closeReceived
        if failure == nil {
            fail(error)
            if ends.reading != .open { wakeReader() }
            if !isOver { observer?.streamFailed(self) }
        }
        if closure == nil { closed(.sessionEnded(error)) }
    }

    private func closed(_ closure: ChannelClosure) {
        self.closure = closure
        let onClose = onClose
        self.onClose = nil
        onClose?()
    }
}
