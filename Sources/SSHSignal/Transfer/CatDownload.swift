import Platform
import Streams

/// Fetches a file from a server without SFTP: its size, then its bytes, from the account's shell. Keeps itself alive
/// through the process until it is over.
final class CatDownload: StreamObserver {
    private let process: SSHProcess
    private let path: String
    private let file: DownloadFile
    private let progress: ((UInt64, UInt64) -> Void)?
    private var completion: ((Result<Void, SSHError>) -> Void)?
    /// The line that says how long the file is, until it is complete; others may come before it.
    private var header: [UInt8]? = []
    private let mark: ShellMark
    private var size: UInt64 = 0
    private var received: UInt64 = 0
    private var outputEnded = false
    private var exit: SSHExit?

    private init(
        _ process: SSHProcess,
        _ path: String,
        _ file: DownloadFile,
        _ mark: ShellMark,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Void, SSHError>) -> Void
    ) {
        self.process = process
        self.path = path
        self.file = file
        self.mark = mark
        self.progress = progress
        self.completion = completion
    }

    static func start(
        on connection: any SSHConnection,
        _ path: String,
        to file: DownloadFile,
        progress: ((UInt64, UInt64) -> Void)?,
        completion: @escaping (Result<Void, SSHError>) -> Void
    ) {
        let quoted = ShellScript.quote(path)
        let mark = ShellMark()
        let script = "n=$(wc -c < \(quoted)) && echo \(mark.text) $n && cat < \(quoted)"
        connection.execute("exec sh -c \(ShellScript.quote(script))") { result in
            switch result {
            case .success(let process):
                let download = CatDownload(process, path, file, mark, progress: progress, completion: completion)
                process.stream.observer = download
                // Keeps the object alive; broken in end().
                process.onExit = { download.exited($0) }
                process.stream.finish()
                download.read()
            case .failure(let error): completion(.failure(error))
            }
        }
    }

    func streamReadable(_ stream: ByteStream) { read() }
    func streamWritable(_ stream: ByteStream) {}
    func streamFailed(_ stream: ByteStream) { lost(stream.failure) }

    private func read() {
        switch process.stream.readAll(while: { completion != nil && !outputEnded }, takePiece) {
        case .paused: break
        case .end:
            outputEnded = true
            endIfDone()
        case .failed: lost(process.stream.failure)
        }
    }

    private func takePiece(_ bytes: UnsafeRawBufferPointer) {
        do throws(SSHError) { try take(bytes) } catch { end(.failure(error)) }
    }

    private func take(_ bytes: UnsafeRawBufferPointer) throws(SSHError) {
        var rest = bytes
        while var line = header {
            let end = rest.firstIndex(of: UInt8(ascii: "\n"))
            line.append(contentsOf: rest[..<(end ?? rest.count)])
            guard let end else {
                guard line.count < 4096 else { throw unexpected(line) }
                header = line
                return
            }
            rest = UnsafeRawBufferPointer(rebasing: rest[(end + 1)...])
            header = []
            // What the account's rc files print.
            guard line.starts(with: mark.text.utf8) else { continue }
            let words = String(decoding: line, as: UTF8.self).split(separator: " ")
            guard words.count == 2, let size = UInt64(words[1]) else { throw unexpected(line) }
            self.size = size
            header = nil
        }
        try file.write(rest, at: received)
        received += UInt64(rest.count)
        progress?(received, max(size, received))
    }

    private func unexpected(_ line: [UInt8]) -> SSHError {
        let text = Printable.clean(String(decoding: line.prefix(200), as: UTF8.self))
        return SSHError(.transferFailed, "reading \(path): the shell says '\(text)' instead of the file's size")
    }

    private func exited(_ result: Result<SSHExit, StreamError>) {
        switch result {
        case .success(let exit):
            self.exit = exit
            read()
            endIfDone()
        case .failure(let error): lost(error)
        }
    }

    private func endIfDone() {
        guard completion != nil, outputEnded, let exit else { return }
        let said = process.standardErrorText
        guard exit.isSuccess, header == nil else {
            let why = said.isEmpty ? "\(exit)" : said
            return end(.failure(SSHError(.transferFailed, "reading \(path) failed: \(why)")))
        }
        // Files of /proc have no size and content all the same.
        guard received == size || size == 0 else {
            let error = SSHError(.transferFailed, "\(path): got \(received) bytes of \(size); did it change meanwhile?")
            return end(.failure(error))
        }
        do throws(SSHError) {
            try file.complete()
            end(.success(()))
        } catch {
            end(.failure(error))
        }
    }

    private func lost(_ failure: StreamError?) {
        end(.failure(SSHError(.connectionLost, failure?.message ?? "the SSH connection was lost")))
    }

    private func end(_ result: Result<Void, SSHError>) {
        guard let completion else { return }
        self.completion = nil
        if case .failure = result { file.discard() }
        process.onExit = nil
        process.close()
        completion(result)
    }
}
