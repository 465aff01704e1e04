import Streams

/// Sends a file: runs an ``SFTPUploadState``.
final class SFTPUpload: SFTPTransfer {
    private let reader: UploadReader
    private let buffers: BufferPool
    private let progress: ((UInt64, UInt64) -> Void)?
    private var state: SFTPUploadState

    static var readSize: BufferSize { .small }

    init(
        _ reader: UploadReader,
        _ state: SFTPUploadState,
        buffers: BufferPool,
        progress: ((UInt64, UInt64) -> Void)?
    ) {
        self.reader = reader
        self.state = state
        self.buffers = buffers
        self.progress = progress
    }

    var isSpeaking: Bool { state.isSpeaking }

    func received(_ answer: SFTPPacket.Answer?) -> SFTPStep {
        let before = state.acknowledged
        let action = state.received(answer)
        if state.acknowledged != before { progress?(state.acknowledged, state.size) }
        return switch action {
        case .send(let bytes): .send(bytes)
        case .fill: .fill
        case .none: .wait
        case .done: .end(.done)
        case .renameOtherwise: .end(.renameOtherwise)
        case .unavailable: .end(.unavailable)
        case .fail(let why): .fail(why)
        }
    }

    func queueNextRequest(into outgoing: inout ByteQueue) throws(SSHError) -> Bool {
        guard let (header, count) = state.nextWrite() else { return false }
        header.withUnsafeBytes { outgoing.append($0) }
        let buffer = buffers.take(.medium)
        defer { buffers.give(buffer) }
        let read = try reader.read(into: UnsafeMutableRawBufferPointer(start: buffer.base, count: count))
        outgoing.append(UnsafeRawBufferPointer(start: buffer.base, count: read))
        return true
    }

    /// What the server has is its own to remove: ``SFTPUploadState``.
    func failed() {}
}
