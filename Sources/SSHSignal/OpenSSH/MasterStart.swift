import Glibc
import MeshIdentity
import Streams

/// Waits until an `ssh` master has logged in: its control socket then exists. Keeps itself alive until it has told the
/// outcome. Confined to its loop.
final class MasterStart {
    struct Ready {
        let control: MuxConnection
        let log: OpenSSHLog
        let hostKey: HostKey
    }

    enum Outcome {
        case ready(Ready)
        /// It has ended; the log says why.
        case ended(OpenSSHLog)
        case failed(SSHError)
    }

    private let process: OpenSSHProcess
    private let directory: ControlDirectory
    private let knownHosts: [String]
    private let timeout: Duration
    private let loop: EventLoop
    private let log = OpenSSHLog()
    private var poll: LoopTimer?
    private var limit: LoopTimer?
    private var completion: ((Outcome) -> Void)?
    /// A prompt may take minutes: looking a hundred times a second would be too often.
    private var looks = 0

    /// - Parameters:
    ///   - process: The master, just started.
    ///   - directory: Where its socket will be.
    ///   - knownHosts: Files in which a host key is looked for that ssh tells only the fingerprint of.
    ///   - timeout: For the whole login.
    ///   - warn: Told what ssh says meanwhile, except for what an error will say.
    init(
        _ process: OpenSSHProcess,
        directory: ControlDirectory,
        knownHosts: [String],
        timeout: Duration,
        warn: @escaping @Sendable (String) -> Void,
        on loop: EventLoop
    ) {
        self.process = process
        self.directory = directory
        self.knownHosts = knownHosts
        self.timeout = timeout
        self.loop = loop
        log.onLine = warn
    }

    /// - Parameter completion: Called once, on the loop, never from inside this call. After a failure the master is
    ///   gone and the directory removed.
    func begin(_ completion: @escaping (Outcome) -> Void) {
        self.completion = completion
        process.onErrors = { [log] in log.append($0) }
        process.onOutput = { _ in }
        process.onExit = { _ in self.fail(.ended(self.log)) }
        poll = LoopTimer(on: loop) { [weak self] in self?.look() }
        limit = LoopTimer(on: loop) { [weak self] in
            guard let self else { return }
            fail(
                .failed(
                    SSHError(
                        .timedOut,
                        "ssh had not logged in after \(timeout)\(log.lastWords.map { ": \($0)" } ?? "")"
                    )
                )
            )
        }
        limit?.schedule(after: timeout)
        poll?.schedule(after: .milliseconds(10))
    }

    private func look() {
        guard completion != nil else { return }
        guard directory.hasSocket else {
            looks += 1
            poll?.schedule(after: .milliseconds(looks < 300 ? 10 : 100))
            return
        }
        MuxConnection.open(directory.socket, on: loop) { result in
            guard self.completion != nil else {
                if case .success(let connection) = result { connection.close() }
                return
            }
            switch result {
            case .success(let control): self.ready(control)
            case .failure(let error):
                self.fail(.failed(SSHError(.system, "the ssh program's control socket: \(error)")))
            }
        }
    }

    private func ready(_ control: MuxConnection) {
        guard let hostKey = directory.hostKey ?? log.hostKey(in: knownHosts) else {
            control.close()
            return fail(
                .failed(
                    SSHError(
                        .hostKeyRefused,
                        "ssh has logged in, and does not tell which host key it has verified: OpenSSH 8.5 or newer does, "
                            + "unless ssh_config has a KnownHostsCommand of its own"
                    )
                )
            )
        }
        log.onLine = nil
        end(.ready(Ready(control: control, log: log, hostKey: hostKey)))
    }

    private func fail(_ failure: Outcome) {
        guard completion != nil else { return }
        directory.remove()
        if !process.isOver {
            // Keeps it until it is reaped.
            process.onExit = { [process] _ in withExtendedLifetime(process) {} }
            process.terminate()
        }
        end(failure)
    }

    private func end(_ outcome: Outcome) {
        guard let completion else { return }
        self.completion = nil
        if case .ready = outcome { process.onExit = nil }
        poll?.cancel()
        limit?.cancel()
        completion(outcome)
    }
}

extension ControlDirectory {
    /// An option that has ssh write the host key that it is about to verify into ``hostKeys``: a line with its type and
    /// itself in base 64. Nothing the server says gets into that file but its key, and a master that has logged in has
    /// verified it.
    ///
    /// - Parameter pinned: A fingerprint, `SHA256:…`: the command then answers that the host is known with the key that
    ///   has it. Where ssh reads no other known hosts, it accepts no other key.
    func knownHostsCommand(pinned: String? = nil) -> String {
        Self.knownHostsCommand(writingTo: hostKeys, pinned: pinned)
    }

    static func knownHostsCommand(writingTo file: String, pinned: String? = nil) -> String {
        var path = ""
        for scalar in file.unicodeScalars {
            switch scalar {
            case "\"", "\\": path += "\\\(scalar)"
            case "%": path += "%%"
            default: path.unicodeScalars.append(scalar)
            }
        }
        let record = "umask 077; echo \"$1 $2\" >>\"$0\""
        guard let pinned else { return "KnownHostsCommand=/bin/sh -c '\(record)' \"\(path)\" %t %K" }
        let answer = "[ \"$3\" != \"$4\" ] || echo \"$5 $1 $2\""
        return "KnownHostsCommand=/bin/sh -c '\(record); \(answer)' \"\(path)\" %t %K %f \(pinned) %H"
    }

    /// nil where ssh has written none, or more than one.
    var hostKey: HostKey? {
        let descriptor = open(hostKeys, O_RDONLY | O_CLOEXEC | O_NOFOLLOW)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        let count = read(descriptor, &bytes, bytes.count)
        guard count > 0, count < bytes.count else { return nil }
        var keys: Set<HostKey> = []
        for line in String(decoding: bytes[..<count], as: UTF8.self).split(separator: "\n") {
            let words = line.split(separator: " ")
            // ssh asks once before it has the key, for the order of the algorithms.
            guard words.count == 2, words[1] != "NONE" else { continue }
            guard let blob = Base64.decode(words[1]), let key = HostKey(blob: blob), key.algorithm == words[0],
                let plain = key.withoutCertificate
            else { return nil }
            keys.insert(plain)
        }
        return keys.count == 1 ? keys.first : nil
    }
}

extension HostKey {
    /// The key that a host certificate is about (PROTOCOL.certkeys of OpenSSH), and any other key as it is.
    var withoutCertificate: HostKey? {
        let suffix = "-cert-v01@openssh.com"
        guard algorithm.hasSuffix(suffix) else { return self }
        let name = String(algorithm.dropLast(suffix.count))
        // Strings in the certificate that make up the key, after its type and the nonce.
        let counts = ["ssh-ed25519": 1, "ssh-rsa": 2]
        guard let count = name.hasPrefix("ecdsa-sha2-") ? 2 : counts[name] else { return nil }
        var reader = SSHWireReader(blob)
        var writer = SSHWireWriter()
        guard reader.string() != nil, reader.string() != nil else { return nil }
        writer.string(name)
        for _ in 0..<count {
            guard let field = reader.string() else { return nil }
            writer.string(field)
        }
        return HostKey(blob: writer.bytes)
    }
}
