import Streams

/// Sends a file: runs an ``SFTPUploadState``.
final class SFTPUpload: SFTPConversation {
    private let reader: UploadReader
    private let progress: ((UInt64, UInt64) -> Void)?
    private var state: SFTPUploadState

    private init(
        _ process: SSHProcess,
        _ reader: UploadReader,
        _ state: SFTPUploadState,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        self.reader = reader
        self.state = state
        self.progress = progress
        super.init(process, readSize: .small, completion: completion)
    }

    static func start(
        on connection: any SSHConnection,
        _ reader: UploadReader,
        _ state: SFTPUploadState,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        start(on: connection, completion: completion) { process in
            SFTPUpload(process, reader, state, progress: progress, completion: completion)
        }
    }

    override var isSpeaking: Bool { state.isSpeaking }

    override func received(_ answer: SFTPPacket.Answer?) {
        let before = state.acknowledged
        let action = state.received(answer)
        if state.acknowledged != before { progress?(state.acknowledged, state.size) }
        switch action {
        case .send(let bytes): send(bytes)
        case .fill: write()
        case .none: break
        case .done: end(.success(.done))
        case .renameOtherwise: end(.success(.renameOtherwise))
        case .unavailable: end(.success(.unavailable))
        case .fail(let why): fail(why)
        }
    }

    override func queueNextRequest() throws(SSHError) -> Bool {
        guard let (header, count) = state.nextWrite() else { return false }
        header.withUnsafeBytes { outgoing.append($0) }
        let buffer = process.stream.loop.buffers.take(.medium)
        defer { process.stream.loop.buffers.give(buffer) }
        let read = try reader.read(into: UnsafeMutableRawBufferPointer(start: buffer.base, count: count))
        outgoing.append(UnsafeRawBufferPointer(start: buffer.base, count: read))
        return true
    }
}
