import Streams

/// Fetches a file: runs an ``SFTPDownloadState``.
final class SFTPDownload: SFTPConversation {
    private let file: DownloadFile
    private let progress: ((UInt64, UInt64) -> Void)?
    private var state: SFTPDownloadState

    private init(
        _ process: SSHProcess,
        _ path: String,
        to file: DownloadFile,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        self.file = file
        self.progress = progress
        state = SFTPDownloadState(path: path)
        super.init(process, readSize: .medium, completion: completion)
    }

    static func start(
        on connection: any SSHConnection,
        _ path: String,
        to file: DownloadFile,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Outcome, SSHError>) -> Void
    ) {
        start(on: connection, completion: completion) { process in
            SFTPDownload(process, path, to: file, progress: progress, completion: completion)
        }
    }

    override var isSpeaking: Bool { state.isSpeaking }

    override func received(_ answer: SFTPPacket.Answer?) { perform(state.received(answer)) }

    override func queueNextRequest() throws(SSHError) -> Bool {
        guard let request = state.nextRead() else { return false }
        request.withUnsafeBytes { outgoing.append($0) }
        return true
    }

    override func willEnd(_ result: Result<Outcome, SSHError>) {
        if case .failure = result { file.discard() }
    }

    private func perform(_ action: SFTPDownloadState.Action) {
        do throws(SSHError) {
            switch action {
            case .send(let bytes): send(bytes)
            case .fill: write()
            case .write(let bytes, let offset):
                try file.write(bytes, at: offset)
                progress?(state.received, max(state.size, state.received))
                perform(state.wrote())
            case .done:
                try file.complete()
                end(.success(.done))
            case .unavailable: end(.success(.unavailable))
            case .fail(let why): fail(why)
            }
        } catch {
            end(.failure(error))
        }
    }
}
