import Streams

/// Fetches a file: runs an ``SFTPDownloadState``.
final class SFTPDownload: SFTPTransfer {
    private let file: DownloadFile
    private let progress: ((UInt64, UInt64) -> Void)?
    private var state: SFTPDownloadState

    static var readSize: BufferSize { .medium }

    init(_ path: String, to file: DownloadFile, progress: ((UInt64, UInt64) -> Void)?) {
        self.file = file
        self.progress = progress
        state = SFTPDownloadState(path: path)
    }

    var isSpeaking: Bool { state.isSpeaking }

    func received(_ answer: SFTPPacket.Answer?) throws(SSHError) -> SFTPStep {
        var action = state.received(answer)
        if case .write(let bytes, let offset) = action {
            try file.write(bytes, at: offset)
            progress?(state.received, max(state.size, state.received))
            action = state.wrote()
        }
        switch action {
        case .send(let bytes): return .send(bytes)
        // What was written is followed by one of the others.
        case .fill, .write: return .fill
        case .done:
            try file.complete()
            return .end(.done)
        case .unavailable: return .end(.unavailable)
        case .fail(let why): return .fail(why)
        }
    }

    func queueNextRequest(into outgoing: inout ByteQueue) -> Bool {
        guard let request = state.nextRead() else { return false }
        request.withUnsafeBytes { outgoing.append($0) }
        return true
    }

    func failed() { file.discard() }
}
