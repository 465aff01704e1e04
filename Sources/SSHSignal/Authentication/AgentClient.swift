import CLinux
import MeshIdentity
import Platform
import Streams

/// Talks to an ssh-agent (draft-miller-ssh-agent) without blocking: one request at a time, answered in order.
///
/// libssh2's own agent code does blocking socket I/O, which would stop the event loop while the agent asks its user.
final class AgentClient {
    struct Identity {
        let key: HostKey
        let comment: String
    }

    private enum Message {
        static let failure: UInt8 = 5
        static let requestIdentities: UInt8 = 11
        static let identitiesAnswer: UInt8 = 12
        static let signRequest: UInt8 = 13
        static let signResponse: UInt8 = 14
    }

    private let stream: ByteStream
    private let name: String
    private var outgoing: [UInt8] = []
    private var incoming: [UInt8] = []
    private var completion: ((Result<[UInt8], SSHError>) -> Void)?

    /// OpenSSH's own limit for a message.
    private static let maximumMessage = 256 << 10

    init(over stream: ByteStream, name: String) {
        self.stream = stream
        self.name = name
        stream.observer = self
    }

    /// Connects to the socket that `SSH_AUTH_SOCK` names.
    static func connect(
        socketPath: String,
        on loop: EventLoop,
        completion: @escaping (Result<AgentClient, SSHError>) -> Void
    ) {
        let failure = { (error: StreamError) in
            SSHError(.authenticationRefused, "no ssh-agent at \(socketPath): \(error.message)")
        }
        do {
            Dialer.connect(
                to: .address(try SocketAddress(unixPath: socketPath)),
                on: loop,
                options: Dialer.Options(timeout: .seconds(5))
            ) { result in
                completion(result.map { AgentClient(over: $0, name: socketPath) }.mapError(failure))
            }
        } catch {
            completion(.failure(failure(error)))
        }
    }

    func close() {
        completion = nil
        stream.observer = nil
        stream.close()
    }

    /// The keys that the agent holds, in its order.
    func identities(_ completion: @escaping (Result<[Identity], SSHError>) -> Void) {
        request([Message.requestIdentities]) { [name] answer in
            completion(
                answer.flatMap { bytes in
                    guard let identities = Self.parseIdentities(bytes) else {
                        return .failure(SSHError(.protocolViolation, "the ssh-agent at \(name) did not list its keys"))
                    }
                    return .success(identities)
                }
            )
        }
    }

    /// Has the agent sign `data`, which it may ask its user about.
    ///
    /// - Parameter completion: Gets the signature without its algorithm name, as libssh2 wants it.
    func sign(_ data: [UInt8], with key: HostKey, _ completion: @escaping (Result<[UInt8], SSHError>) -> Void) {
        var message = SSHWireWriter()
        message.byte(Message.signRequest)
        message.string(key.blob)
        message.string(data)
        message.uint32(Self.signatureFlags(data))
        request(message.bytes) { [name] answer in
            completion(
                answer.flatMap { bytes in
                    guard let signature = Self.parseSignature(bytes) else {
                        return .failure(
                            SSHError(
                                .authenticationRefused,
                                "the ssh-agent at \(name) would not sign with \(key.fingerprint): it is locked, the use "
                                    + "was not confirmed, or the key was removed"
                            )
                        )
                    }
                    return .success(signature)
                }
            )
        }
    }

    static func parseIdentities(_ bytes: [UInt8]) -> [Identity]? {
        var reader = SSHWireReader(bytes)
        guard reader.byte() == Message.identitiesAnswer, let count = reader.uint32(), count <= 2048 else { return nil }
        var identities: [Identity] = []
        for _ in 0..<count {
            guard let blob = reader.string(), let comment = reader.text() else { return nil }
            // A key of a form that is not known here is left out; the others still count.
            if let key = HostKey(blob: Array(blob)) {
                identities.append(Identity(key: key, comment: Printable.clean(comment)))
            }
        }
        return identities
    }

    static func parseSignature(_ bytes: [UInt8]) -> [UInt8]? {
        var reader = SSHWireReader(bytes)
        guard reader.byte() == Message.signResponse, let signature = reader.string() else { return nil }
        var parts = SSHWireReader(signature)
        guard parts.string() != nil, let value = parts.string() else { return nil }
        return Array(value)
    }

    /// The signature algorithm is part of what is signed (RFC 4252 §7); RSA keys need it as a flag too (RFC 8332).
    static func signatureFlags(_ data: [UInt8]) -> UInt32 {
        var reader = SSHWireReader(data)
        guard reader.string() != nil, reader.byte() != nil, reader.string() != nil, reader.string() != nil,
            reader.string() != nil, reader.byte() != nil
        else { return 0 }
        return switch reader.text() {
        case "rsa-sha2-256": 2
        case "rsa-sha2-512": 4
        default: 0
        }
    }

    // MARK: -

    private func request(_ message: [UInt8], _ completion: @escaping (Result<[UInt8], SSHError>) -> Void) {
        precondition(self.completion == nil, "one request at a time")
        self.completion = completion
        var framed = SSHWireWriter()
        framed.string(message)
        outgoing = framed.bytes
        write()
    }

    private func write() {
        while !outgoing.isEmpty {
            switch outgoing.withUnsafeBytes({ stream.write($0) }) {
            case .bytes(let count): outgoing.removeFirst(count)
            case .wouldBlock: return
            case .failed: return failed(stream.failure?.message ?? "closed")
            }
        }
        read()
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: 4096)
        while true {
            switch buffer.withUnsafeMutableBytes({ stream.read(into: $0) }) {
            case .bytes(let count):
                incoming += buffer[..<count]
                guard takeMessage() else { return }
            case .wouldBlock: return
            case .end: return failed("it closed the connection")
            case .failed: return failed(stream.failure?.message ?? "closed")
            }
        }
    }

    /// Returns whether to read on.
    private func takeMessage() -> Bool {
        guard incoming.count >= 4 else { return true }
        let length = incoming[..<4].reduce(0) { $0 << 8 | Int($1) }
        guard length <= Self.maximumMessage else {
            failed("its message is too long")
            return false
        }
        guard incoming.count >= 4 + length else { return true }
        let message = Array(incoming[4..<4 + length])
        incoming.removeFirst(4 + length)
        let completion = completion
        self.completion = nil
        completion?(.success(message))
        return false
    }

    private func failed(_ why: String) {
        let completion = completion
        self.completion = nil
        completion?(.failure(SSHError(.authenticationRefused, "the ssh-agent at \(name) failed: \(why)")))
    }
}

extension AgentClient: StreamObserver {
    func streamReadable(_ stream: ByteStream) { if completion != nil { read() } }
    func streamWritable(_ stream: ByteStream) { write() }
    func streamFailed(_ stream: ByteStream) { failed(stream.failure?.message ?? "closed") }
}
