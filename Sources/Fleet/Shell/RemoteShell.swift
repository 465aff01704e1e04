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
    let uploadLimits: UploadLimits

    /// What an upload may take.
    struct UploadLimits: Sendable {
        /// For one piece: as long as anything moves it may be slow.
        var step = Duration.seconds(60)
        /// From the first byte to the last, beside a second for each ``bytesPerSecond``.
        var total = Duration.seconds(120)
        /// Slower than any line that one would want to enroll over.
        var bytesPerSecond = 8 << 10

        func time(for bytes: Int) -> Duration { total + .seconds(bytes / bytesPerSecond) }
    }

    /// An rc file that prints more than this is broken; so is a step that answers with more.
    private static let noiseLimit = 64 << 10
    static let outputLimit = 256 << 10

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

    init(_ channel: any RemoteChannel, name: String, uploadLimits: UploadLimits = UploadLimits()) {
        self.channel = channel
        self.name = name
        self.uploadLimits = uploadLimits
    }

    /// Runs `script` in a subshell without input.
    ///
    /// - Parameters:
    ///   - step: for errors: "probe".
    ///   - timeout: For all of it.
    ///   - limit: Of bytes that it may print.
    func run(
        _ script: String,
        step: String,
        timeout: Duration = .seconds(30),
        limit: Int = outputLimit
    ) async throws -> Output {
        let nonce = Self.nonce()
        // A shell that is gone does not take the script; why it is gone stands in what it said, which is read all the
        // same.
        return try await channel.withDeadline(timeout, "\(name): \(step)") {
            try? await channel.write(Self.block(script, nonce: nonce))
            var reader = Reader(nonce: nonce)
            return try await receive(&reader, until: { $0.output() }, step: step, limit: limit)
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
        let patience = uploadLimits.step
        let start = ContinuousClock.now
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
                    // For what was sent, and not for what is still to come.
                    let left = uploadLimits.time(for: sent + chunk.count) - (.now - start)
                    let limit = max(.milliseconds(1), min(patience, left))
                    try await channel.withDeadline(limit, "\(name): \(step)") { try await channel.write(chunk) }
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
                var reason = error
                while let late = await group.nextResult() {
                    switch late {
                    case .success(let result?):
                        channel.close()
                        return result
                    // Because of that the channel was closed, and the other side of it failed.
                    case .failure(let error as SignalError) where error.code == .timedOut: reason = error
                    default: continue
                    }
                }
                channel.close()
                throw reason
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
        step: String,
        limit: Int = outputLimit
    ) async throws -> Result {
        while true {
            let result = try done(&reader)
            guard reader.bytes.count <= (reader.hasBegun ? limit : Self.noiseLimit) else {
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
        /// Up to here there is no marker.
        private var searched = 0

        init(nonce: String) { self.nonce = nonce }

        var isReady: Bool {
            mutating get {
                begin()
                return hasBegun && Self.find("READY-\(nonce)\n", in: bytes, from: 0) != nil
            }
        }

        private mutating func begin() {
            guard !hasBegun, let start = Self.find("BEGIN-\(nonce)\n", in: bytes, from: 0) else { return }
            bytes.removeFirst(start.upperBound)
            hasBegun = true
        }

        /// nil until the END marker is there.
        mutating func output() -> Output? {
            begin()
            guard hasBegun else { return nil }
            let marker = "END-\(nonce) "
            guard let end = Self.find(marker, in: bytes, from: searched) else {
                // It may have begun to arrive.
                searched = max(0, bytes.count - marker.utf8.count)
                return nil
            }
            searched = end.lowerBound
            guard let newline = bytes[end.upperBound...].firstIndex(of: UInt8(ascii: "\n")),
                let status = Int(String(decoding: bytes[end.upperBound..<newline], as: UTF8.self))
            else { return nil }
            let lines = bytes[..<end.lowerBound].split(separator: UInt8(ascii: "\n")).map { line in
                Printable.cleanLine(line, limit: 4096)
            }
            return Output(status: status, lines: lines)
        }

        private static func find(_ marker: String, in bytes: [UInt8], from start: Int) -> Range<Int>? {
            let marker = Array(marker.utf8)
            guard bytes.count >= start + marker.count else { return nil }
            var start = start
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
