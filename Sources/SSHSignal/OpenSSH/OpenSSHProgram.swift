import CLinux
import Glibc
import Platform
import Streams

/// The `ssh` program of this machine, and what it is able to do.
struct OpenSSHProgram: Sendable {
    /// Absolute.
    let path: String
    /// As `ssh -V` says it: `OpenSSH_9.2p1 Debian-2+deb12u3`.
    let name: String
    /// Major and minor.
    let version: (Int, Int)
    /// What it proposes where no configuration says anything.
    let defaultCiphers: [String]

    /// `accept-new` and `RemoteCommand=none`.
    static let oldest = (7, 6)

    /// Whether ssh can show the host key it has verified to a command of ours.
    var hasKnownHostsCommand: Bool { version >= (8, 5) }
    /// Whether the questions of a server are shown with the account and host that ask.
    var namesAccountInQuestions: Bool { version >= (8, 5) }
    var hasForkAfterAuthentication: Bool { version >= (8, 7) }

    /// For `ssh -V` and `ssh -G`, which may run a command of a `Match exec`.
    static let runTimeout = Duration.seconds(20)

    /// One ask for each program of this process.
    private static let known = Lock<[String: OpenSSHProgram]>([:])

    /// The `ssh` that a shell would run; nil where there is none.
    static func find() -> String? {
        let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/local/bin:/usr/bin:/bin"
        for directory in path.split(separator: ":") where directory.hasPrefix("/") {
            let candidate = "\(directory)/ssh"
            var status = stat()
            if access(candidate, X_OK) == 0, stat(candidate, &status) == 0, status.st_mode & S_IFMT == S_IFREG {
                return candidate
            }
        }
        return nil
    }

    /// - Throws: ``SSHError/Code/unsupported`` where it is no OpenSSH, or too old a one.
    static func load(_ path: String, on loop: EventLoop) async throws(SSHError) -> OpenSSHProgram {
        if let program = known.withLock({ $0[path] }) { return program }
        let answer = try await run(path, ["-V"], on: loop)
        let name = Printable.clean(answer.errors.split(separator: ",").first ?? "", limit: 100)
        guard let version = version(of: name) else {
            throw SSHError(.unsupported, "\(path) is not OpenSSH: ssh -V says '\(name)'")
        }
        guard version >= oldest else {
            throw SSHError(.unsupported, "\(path) is \(name): OpenSSH \(oldest.0).\(oldest.1) or newer is needed")
        }
        let defaults = OpenSSHSettings(try await run(path, ["-G", "-F", "none", "localhost"], on: loop).output)
        let program = OpenSSHProgram(
            path: path,
            name: name,
            version: version,
            defaultCiphers: defaults["ciphers"]?.split(separator: ",").map(String.init) ?? []
        )
        known.withLock { $0[path] = program }
        return program
    }

    /// `OpenSSH_9.2p1` or `OpenSSH_for_Windows_8.1p1`: 9 and 2.
    static func version(of name: String) -> (Int, Int)? {
        guard name.hasPrefix("OpenSSH_"),
            let word = name.split(separator: " ").first?.split(separator: "_").last
        else { return nil }
        let numbers = word.split { !$0.isNumber }.prefix(2).compactMap { Int($0) }
        return numbers.count == 2 ? (numbers[0], numbers[1]) : nil
    }

    /// What ssh makes of the configuration files for `arguments`.
    func settings(_ arguments: [String], on loop: EventLoop) async throws(SSHError) -> OpenSSHSettings {
        let answer = try await Self.run(path, ["-G"] + arguments, on: loop)
        guard answer.status.isSuccess else {
            throw SSHError(.system, "\(path) does not take its configuration: \(Printable.clean(answer.errors))")
        }
        return OpenSSHSettings(answer.output)
    }

    struct Answer: Sendable {
        var status: ProgramEnd
        var output: String
        var errors: String
    }

    /// Runs it to its end.
    ///
    /// - Parameter path: The program.
    /// - Parameter arguments: Without its name.
    static func run(
        _ path: String,
        _ arguments: [String],
        on loop: EventLoop
    ) async throws(SSHError) -> Answer {
        let result: Result<Answer, SSHError> = await withCheckedContinuation { continuation in
            loop.submit {
                do throws(SSHError) {
                    try collect(path, arguments, on: loop) { continuation.resume(returning: $0) }
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
        }
        return try result.get()
    }

    private static func collect(
        _ path: String,
        _ arguments: [String],
        on loop: EventLoop,
        _ completion: @escaping (Result<Answer, SSHError>) -> Void
    ) throws(SSHError) {
        let process = try OpenSSHProcess(path, arguments, on: loop)
        let limit = 256 << 10
        var (output, errors): ([UInt8], [UInt8]) = ([], [])
        process.onOutput = { if output.count < limit { output.append(contentsOf: $0) } }
        process.onErrors = { if errors.count < limit { errors.append(contentsOf: $0) } }
        let timer = LoopTimer(on: loop) { process.terminate() }
        timer.schedule(after: runTimeout)
        // Keeps the process until then.
        process.onExit = { status in
            timer.cancel()
            process.onOutput = nil
            process.onErrors = nil
            completion(
                .success(
                    Answer(
                        status: status,
                        output: String(decoding: output, as: UTF8.self),
                        errors: String(decoding: errors, as: UTF8.self)
                    )
                )
            )
        }
    }
}

/// What `ssh -G` prints: a keyword in small letters and its value, one a line.
struct OpenSSHSettings: Sendable {
    private var values: [String: String] = [:]

    init(_ text: String) {
        for line in text.split(whereSeparator: \.isNewline) {
            let words = line.split(separator: " ", maxSplits: 1)
            guard words.count == 2 else { continue }
            let keyword = words[0].lowercased()
            if values[keyword] == nil { values[keyword] = String(words[1]) }
        }
    }

    /// The first value; nil where there is none, also when it says so.
    subscript(keyword: String) -> String? {
        guard let value = values[keyword], value != "none" else { return nil }
        return value
    }
}
