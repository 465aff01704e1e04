import Platform
import SSHSignal

/// A POSIX shell on the far side, started as `exec sh -s` and kept for the whole visit: one login shell start, one
/// session of the server's MaxSessions, whatever the login shell is.
///
/// It is fed one block at a time:
///
///     { echo BEGIN-nonce; ( script ) </dev/null; echo END-nonce $?; }
///
/// Some shells (dash, busybox) read their input ahead. Nothing is sent before the block's END has come, so what follows
/// a block (another block, the bytes of an upload, the frames of the program that replaced the shell) is never
/// swallowed by the shell. Whatever is printed before BEGIN (motd, chatty rc files) is skipped. All output is hostile:
/// bounded, and cleaned before it is shown.
final class RemoteShell: Sendable {
    /// What is to be run with the login shell.
    static let command = "exec sh -s"

    let channel: any RemoteChannel
    /// How the far side is called in errors.
    let name: String

    /// An rc file that prints more than this is broken; so is a step that answers with more.
    private static let noiseLimit = 64 << 10
    private static let outputLimit = 256 << 10

    struct Output: Sendable {
        var status: Int
        /// What the script printed, cleaned of control characters line by line.
        var lines: [String]

        /// `key=value` lines; a key that comes twice keeps its first value.
        var values: [String: String] {
            var values: [String: String] = [:]
            for line in lines {
                guard let equals = line.firstIndex(of: "=") else { continue }
                let key = String(line[..<equals])
                if values[key] == nil { values[key] = String(line[line.index(after: equals)...]) }
            }
            return values
        }
    }

    init(_ channel: any RemoteChannel, name: String) {
        self.channel = channel
        self.name = name
    }

    /// Runs `script` in a subshell without input.
    ///
    /// - Parameter step: for errors: "probe".
    func run(_ script: String, step: String, timeout: Duration = .seconds(30)) async throws -> Output {
        let nonce = Self.nonce()
        // A shell that is gone does not take the script; why it is gone stands in what it said, which is read all the
        // same.
        return try await channel.withDeadline(timeout, "\(name): \(step)") {
            try? await channel.write(Self.block(script, nonce: nonce))
            var reader = Reader(nonce: nonce)
            return try await receive(&reader, until: { $0.output() }, step: step)
        }
    }

    /// Runs `script`, which reads the `length` bytes of `source` from its standard input once it has printed its word
    /// that it is ready (`echo "$ready"`). When it fails the shell ends, so that what was not read is never taken for
    /// commands; it must not succeed without having read all.
    ///
    /// - Parameter progress: called with the count of bytes accepted so far.
    func run(
        _ script: String,
        sending source: some UploadSequence,
        step: String,
        progress: @escaping @Sendable (Int) -> Void
    ) async throws -> Output {
        let nonce = Self.nonce()
        // As long as anything moves the upload may take its time.
        let patience = Duration.seconds(60)
        var reader = Reader(nonce: nonce)
        let early = try await channel.withDeadline(patience, "\(name): \(step)") {
            try? await channel.write(Self.block(script, nonce: nonce, readsInput: true))
            return try await receive(&reader, until: { $0.isReady ? .some(nil) : $0.output().map { $0 } }, step: step)
        }
        if let early { return early }
        let started = reader
        return try await withThrowingTaskGroup(of: Output?.self) { group in
            group.addTask { [self] in
                var reader = started
                // The answer comes after the last byte; the sender watches over the time until then.
                let output = try await receive(&reader, until: { $0.output() }, step: step)
                return output
            }
            group.addTask { [self] in
                var sent = 0
                var source = source
                while let chunk = try source.next() {
                    try await channel.withDeadline(patience, "\(name): \(step)") { try await channel.write(chunk) }
                    sent += chunk.count
                    progress(sent)
                }
                return nil
            }
            // Whatever ends first decides: an answer before the last byte is a refusal, and stops the sending.
            var output: Output?
            do {
                while let result = try await group.next() {
                    if let result {
                        output = result
                        if result.status != 0 { channel.close() }
                        break
                    }
                    // All is sent: what remains is checking on the far side.
                    let watch = Task { [channel] in
                        guard (try? await Task.sleep(for: .seconds(120))) != nil else { return }
                        channel.close()
                    }
                    defer { watch.cancel() }
                    if let result = try await group.next(), let result { output = result }
                    break
                }
            } catch {
                // A shell that refuses reads no more, so the sending may fail before its refusal has arrived: wait for
                // that.
                let watch = Task { [channel] in
                    guard (try? await Task.sleep(for: .seconds(5))) != nil else { return }
                    channel.close()
                }
                defer { watch.cancel() }
                while let late = await group.nextResult() {
                    guard case .success(let result?) = late else { continue }
                    channel.close()
                    return result
                }
                channel.close()
                throw error
            }
            guard let output else { throw SignalError(.truncated, "\(name): \(step): the far side did not answer") }
            return output
        }
    }

    /// Replaces the shell by `command`; the channel then is that program's.
    func replace(by command: String, after preparation: String) async throws {
        try await channel.write(Array("{ \(preparation); exec \(command); }\n".utf8))
    }

    // MARK: Blocks

    private static func nonce() -> String { String(UInt64.random(in: .min ... .max), radix: 16) }

    /// The markers are cut in two, so that a far side that echoes what it is sent does not look like one that ran it.
    private static func block(_ script: String, nonce: String, readsInput: Bool = false) -> [UInt8] {
        let text = """
            { ready="READY""-\(nonce)"; end="END""-\(nonce)"; echo; echo "BEGIN""-\(nonce)"; (
            \(script)
            )\(readsInput ? "" : " </dev/null"); status=$?; echo "$end $status"\(readsInput ? "; [ $status = 0 ] || exit" : ""); }

            """
        return Array(text.utf8)
    }

    private func receive<Result>(
        _ reader: inout Reader,
        until done: (inout Reader) throws -> Result?,
        step: String
    ) async throws -> Result {
        while true {
            let result = try done(&reader)
            guard reader.bytes.count <= (reader.hasBegun ? Self.outputLimit : Self.noiseLimit) else {
                channel.close()
                throw SignalError(.tooLong, "\(name): \(step): the far side prints without end")
            }
            if let result { return result }
            guard let bytes = try await channel.read() else { throw await ended(reader, step: step) }
            reader.bytes += bytes
        }
    }

    private func ended(_ reader: Reader, step: String) async -> SignalError {
        let errors = await channel.standardErrorText()
        let said = [Printable.clean(reader.bytes.prefix(200), limit: 200), Printable.clean(errors, limit: 400)]
            .filter { !$0.isEmpty }.joined(separator: " | ")
        guard reader.hasBegun else {
            return SignalError(
                .refused,
                """
                \(name): no POSIX shell answered: the account may have no shell (nologin), or the server forces a command \
                (ForceCommand, command= in authorized_keys). It said: \(said.isEmpty ? "nothing" : said)
                """
            )
        }
        return SignalError(.truncated, "\(name): \(step): the connection was cut\(said.isEmpty ? "" : " (\(said))")")
    }

    /// Finds the markers in what arrives.
    private struct Reader: Sendable {
        let nonce: String
        var bytes: [UInt8] = []
        private(set) var hasBegun = false

        init(nonce: String) { self.nonce = nonce }

        var isReady: Bool {
            mutating get {
                begin()
                return hasBegun && Self.find("READY-\(nonce)\n", in: bytes) != nil
            }
        }

        private mutating func begin() {
            guard !hasBegun, let start = Self.find("BEGIN-\(nonce)\n", in: bytes) else { return }
            bytes.removeFirst(start.upperBound)
            hasBegun = true
        }

        /// nil until the END marker is there.
        mutating func output() -> Output? {
            begin()
            guard hasBegun, let end = Self.find("END-\(nonce) ", in: bytes),
                let newline = bytes[end.upperBound...].firstIndex(of: UInt8(ascii: "\n")),
                let status = Int(String(decoding: bytes[end.upperBound..<newline], as: UTF8.self))
            else { return nil }
            let lines = bytes[..<end.lowerBound].split(separator: UInt8(ascii: "\n")).map { line in
                Printable.cleanLine(line, limit: 4096)
            }
            return Output(status: status, lines: lines)
        }

        private static func find(_ marker: String, in bytes: [UInt8]) -> Range<Int>? {
            let marker = Array(marker.utf8)
            guard bytes.count >= marker.count else { return nil }
            var start = 0
            while let candidate = bytes[start...(bytes.count - marker.count)].firstIndex(of: marker[0]) {
                let end = candidate + marker.count
                if bytes[candidate..<end].elementsEqual(marker) { return candidate..<end }
                start = candidate + 1
                if start > bytes.count - marker.count { return nil }
            }
            return nil
        }
    }
}

/// What is uploaded, piece by piece.
protocol UploadSequence: Sendable {
    /// nil at the end.
    mutating func next() throws -> [UInt8]?
}
