import CLibSSH2
import Glibc
import Platform
import Streams

/// Owns one libssh2 session and makes it a machine that turns bytes into bytes: libssh2 never sees a socket.
///
/// ```
///   inbound buffer ──RECV──▶ libssh2 ──SEND──▶ outbound queue
/// ```
///
/// SEND always takes everything. That is more than convenience: after a partial send libssh2 1.10 mixes up packets of
/// different channels, keeps pointers to dead stack frames, and can kill the session. RECV gives bytes only while
/// ``mayReceive`` is set, so that a write to one channel never takes in, unnoticed, what arrived for another.
///
/// Confined to its event loop like its owner, ``SSHSession``.
final class LibSSH2Session {
    let raw: OpaquePointer
    private let pool: BufferPool

    /// What has been received and libssh2 has not taken yet. nil while there is nothing: an idle session holds no
    /// buffer.
    private var inbound: Buffer?
    /// What libssh2 wants sent.
    var outbound: ByteQueue
    /// Set while the owner is prepared for packets of any channel.
    var mayReceive = false
    /// The keys were exchanged, and the server was asked for `ssh-userauth`: all that a handshake still waits for is
    /// the answer to that.
    var hasRequestedService: Bool { handshake == .serviceRequested }
    private var handshake = Handshake.running
    /// No more bytes will come in or leave; what libssh2 sends now is dropped.
    private(set) var isDetached = false
    /// Set while the server's answers to authentication are of interest; see ``freed(_:)``.
    var watchesAuthentication = false {
        didSet { if !watchesAuthentication { blocks = [:] } }
    }
    /// What libssh2 has allocated meanwhile, with its size and its place in the order.
    private var blocks: [UnsafeMutableRawPointer: (size: Int, number: Int)] = [:]
    private var allocations = 0
    /// The server's last refusal. libssh2 says neither what the server would take next nor that a step was right.
    var authenticationFailure: AuthenticationFailure?
    /// Answers the server's questions during keyboard-interactive authentication: texts, and what is said beforehand.
    var answerQuestions: (([(text: String, isSecret: Bool)], _ instruction: String) -> [[UInt8]])?
    /// The server's own words in SSH_MSG_DISCONNECT.
    private(set) var disconnectMessage: String?

    init(pool: BufferPool) throws(SSHError) {
        guard LibSSH2.initialised == 0 else {
            throw SSHError(.system, "libssh2 cannot be initialised (error \(LibSSH2.initialised))")
        }
        guard let raw = libssh2_session_init_ex(allocateCallback, freeCallback, reallocateCallback, nil) else {
            throw SSHError(.system, "libssh2 cannot allocate a session: out of memory")
        }
        self.raw = raw
        self.pool = pool
        outbound = ByteQueue(pool: pool)
        libssh2_session_set_blocking(raw, 0)
        libssh2_session_abstract(raw).pointee = Unmanaged.passUnretained(self).toOpaque()
        let callbacks: [(Int32, UnsafeMutableRawPointer)] = [
            (LIBSSH2_CALLBACK_SEND, unsafeBitCast(sendCallback, to: UnsafeMutableRawPointer.self)),
            (LIBSSH2_CALLBACK_RECV, unsafeBitCast(receiveCallback, to: UnsafeMutableRawPointer.self)),
            (LIBSSH2_CALLBACK_DISCONNECT, unsafeBitCast(disconnectCallback, to: UnsafeMutableRawPointer.self)),
        ]
        for (kind, callback) in callbacks { libssh2_session_callback_set(raw, kind, callback) }
    }

    deinit {
        // Without a session object the callbacks say "sent" and "end of stream", so that freeing never waits for the
        // peer.
        libssh2_session_abstract(raw).pointee = nil
        var attempts = 0
        while libssh2_session_free(raw) == LIBSSH2_ERROR_EAGAIN && attempts < 64 { attempts += 1 }
    }

    /// The descriptor that libssh2 insists on and never uses: no process has it open, so the fcntl that libssh2 tries
    /// fails harmlessly.
    static let unusedDescriptor = Int32.max

    // MARK: Bytes in and out

    var hasInbound: Bool { inbound != nil }

    /// The first that came: what stands there in the place of a version says what listens.
    private(set) var opening: [UInt8] = []
    private static let openingSize = 256

    /// Reads at most 256 KiB from `source` for libssh2 to take. The earlier bytes must have been taken.
    func fill(from source: ByteStream) -> ReadResult {
        precondition(inbound == nil, "bytes are still waiting for libssh2")
        let buffer = pool.take(.large)
        let result = source.read(into: buffer.writable)
        if case .bytes(let count) = result {
            buffer.writeIndex = count
            inbound = buffer
            if opening.count < Self.openingSize { opening += buffer.readable.prefix(Self.openingSize - opening.count) }
        } else {
            pool.give(buffer)
        }
        return result
    }

    /// Gives the buffers back. Channels may still read what libssh2 has for them.
    func detach() {
        isDetached = true
        if let buffer = inbound { pool.give(buffer) }
        inbound = nil
        outbound.removeAll()
    }

    fileprivate func receive(into destination: UnsafeMutableRawBufferPointer) -> Int {
        guard mayReceive, let buffer = inbound else { return -Int(EAGAIN) }
        let count = min(destination.count, buffer.readableBytes)
        if let base = destination.baseAddress {
            base.copyMemory(from: buffer.base + buffer.readIndex, byteCount: count)
        }
        buffer.readIndex += count
        if buffer.readableBytes == 0 {
            pool.give(buffer)
            inbound = nil
        }
        return count
    }

    fileprivate func send(_ bytes: UnsafeRawBufferPointer) {
        if !isDetached { outbound.append(bytes) }
        if handshake != .serviceRequested { handshake.sent(bytes) }
    }

    /// How far a handshake has come, by what libssh2 sends: it does not say so itself.
    private enum Handshake {
        case running
        /// What follows is enciphered.
        case newKeys
        case serviceRequested

        /// A packet each time, as libssh2 sends them: length, length of the padding, message number (RFC 4253 §6).
        mutating func sent(_ bytes: UnsafeRawBufferPointer) {
            switch self {
            case .running: if bytes.count == 16, bytes[5] == 21 { self = .newKeys }
            case .newKeys: self = .serviceRequested
            case .serviceRequested: break
            }
        }
    }

    fileprivate func allocated(_ block: UnsafeMutableRawPointer, _ size: Int) {
        allocations += 1
        blocks[block] = (size, allocations)
    }

    fileprivate func forget(_ block: UnsafeMutableRawPointer) { blocks[block] = nil }

    /// What the server has said since the last call (SSH_MSG_USERAUTH_BANNER). libssh2 before 1.11 keeps such messages
    /// with those that nobody has asked for yet, and shows them to nobody.
    func takeBanners() -> [AuthenticationBanner] {
        // The last block may be a message that has not arrived whole.
        let complete = blocks.filter { $0.value.number < allocations }.sorted { $0.value.number < $1.value.number }
        return complete.compactMap { block, value in
            let bytes = UnsafeRawBufferPointer(start: block, count: value.size)
            guard let banner = AuthenticationBanner(bytes) else { return nil }
            blocks[block] = nil
            return banner
        }
    }

    /// libssh2 is done with a block of memory. A refusal passes here on its way, and nowhere else.
    fileprivate func freed(_ block: UnsafeMutableRawPointer) {
        guard watchesAuthentication else { return }
        blocks[block] = nil
        let size = clibssh2_block_size(block)
        if let failure = AuthenticationFailure(UnsafeRawBufferPointer(start: block, count: size)) {
            authenticationFailure = failure
        }
    }

    fileprivate func disconnected(_ message: String) {
        if disconnectMessage == nil { disconnectMessage = message }
    }

    // MARK: What libssh2 says

    /// libssh2's text for its last error.
    var lastErrorMessage: String {
        var message: UnsafeMutablePointer<CChar>?
        var length: Int32 = 0
        libssh2_session_last_error(raw, &message, &length, 0)
        return message.map { String(cString: $0) } ?? ""
    }

    var lastError: Int32 { libssh2_session_last_errno(raw) }

    /// Restricts what is negotiated to `names`, in this order; what this libssh2 does not have is left out.
    func prefer(_ method: Int32, _ names: [String]) {
        libssh2_session_method_pref(raw, method, names.joined(separator: ","))
    }

    func negotiated(_ method: Int32) -> String? {
        libssh2_session_methods(raw, method).map { String(cString: $0) }
    }

    /// The server's key; nil before the handshake is done.
    var hostKey: HostKey? {
        var length = 0
        var type: Int32 = 0
        guard let key = libssh2_session_hostkey(raw, &length, &type), length > 0 else { return nil }
        return HostKey(blob: Array(UnsafeRawBufferPointer(start: key, count: length)))
    }

    var serverVersion: String? { libssh2_session_banner_get(raw).map { Printable.clean(String(cString: $0)) } }
}

/// libssh2 as a library.
enum LibSSH2 {
    /// 0 once libssh2 is ready. Initialised once per process: libssh2_init is not thread-safe.
    static let initialised: Int32 = {
        _ = KeystreamProvider.isInstalled
        return libssh2_init(0)
    }()

    /// 1.11 signs with RSA and SHA-2; older versions only with SHA-1, which OpenSSH has refused since 8.8.
    static let supportsRSA = libssh2_version(0x010B00) != nil

    static var version: String { libssh2_version(0).map { String(cString: $0) } ?? "unknown" }

    /// Errors after which nothing that libssh2 says about the connection can be trusted.
    static func isFatal(_ code: Int32) -> Bool {
        switch code {
        case LIBSSH2_ERROR_SOCKET_NONE, LIBSSH2_ERROR_BANNER_RECV, LIBSSH2_ERROR_BANNER_SEND, LIBSSH2_ERROR_INVALID_MAC,
            LIBSSH2_ERROR_KEX_FAILURE, LIBSSH2_ERROR_ALLOC, LIBSSH2_ERROR_SOCKET_SEND,
            LIBSSH2_ERROR_KEY_EXCHANGE_FAILURE, LIBSSH2_ERROR_HOSTKEY_INIT, LIBSSH2_ERROR_HOSTKEY_SIGN,
            LIBSSH2_ERROR_DECRYPT, LIBSSH2_ERROR_SOCKET_DISCONNECT, LIBSSH2_ERROR_PROTO, LIBSSH2_ERROR_BAD_USE,
            LIBSSH2_ERROR_OUT_OF_BOUNDARY, LIBSSH2_ERROR_SOCKET_RECV, LIBSSH2_ERROR_ENCRYPT, LIBSSH2_ERROR_RANDGEN:
            true
        default: false
        }
    }
}

// MARK: - Callbacks

private typealias Abstract = UnsafeMutablePointer<UnsafeMutableRawPointer?>

private func session(_ abstract: Abstract?) -> LibSSH2Session? {
    abstract?.pointee.map { Unmanaged<LibSSH2Session>.fromOpaque($0).takeUnretainedValue() }
}

/// Traffic does not pay for authentication but with a look at a flag.
private func watches(_ abstract: Abstract?) -> Bool {
    guard let pointer = abstract?.pointee else { return false }
    return Unmanaged<LibSSH2Session>.fromOpaque(pointer)._withUnsafeGuaranteedRef(\.watchesAuthentication)
}

/// libssh2's memory comes from malloc.
private let freeCallback: @convention(c) (UnsafeMutableRawPointer?, Abstract?) -> Void = { block, abstract in
    if let block, watches(abstract) { session(abstract)?.freed(block) }
    free(block)
}

private let allocateCallback: @convention(c) (Int, Abstract?) -> UnsafeMutableRawPointer? = { size, abstract in
    let block = malloc(size)
    if let block, size > 0, watches(abstract) {
        // What an earlier block has left there is no message.
        block.storeBytes(of: 0, as: UInt8.self)
        session(abstract)?.allocated(block, size)
    }
    return block
}

private let reallocateCallback: @convention(c) (UnsafeMutableRawPointer?, Int, Abstract?) -> UnsafeMutableRawPointer? =
    {
        former,
        size,
        abstract in
        guard watches(abstract) else { return realloc(former, size) }
        if let former { session(abstract)?.forget(former) }
        let block = realloc(former, size)
        if let block, size > 0 { session(abstract)?.allocated(block, size) }
        return block
    }

/// What libssh2 calls when the server asks something; `abstract` is the session's.
let keyboardInteractiveCallback:
    @convention(c) (
        UnsafePointer<CChar>?, Int32, UnsafePointer<CChar>?, Int32, Int32,
        UnsafePointer<LIBSSH2_USERAUTH_KBDINT_PROMPT>?, UnsafeMutablePointer<LIBSSH2_USERAUTH_KBDINT_RESPONSE>?,
        UnsafeMutablePointer<UnsafeMutableRawPointer?>?
    ) -> Void = { _, _, instruction, instructionLength, count, prompts, responses, abstract in
        guard let answerQuestions = session(abstract)?.answerQuestions else { return }
        let text = { (start: UnsafeRawPointer?, length: Int) -> String in
            let bytes = UnsafeRawBufferPointer(start: start, count: start == nil ? 0 : length)
            return Printable.clean(String(decoding: bytes, as: UTF8.self))
        }
        var questions: [(text: String, isSecret: Bool)] = []
        for index in 0..<max(0, Int(count)) {
            guard let prompt = prompts?[index] else { continue }
            questions.append((text(UnsafeRawPointer(prompt.text), Int(prompt.length)), prompt.echo == 0))
        }
        let answers = answerQuestions(questions, text(UnsafeRawPointer(instruction), Int(instructionLength)))
        for (index, answer) in answers.enumerated() where index < Int(count) {
            // libssh2 frees it with the session's allocator, which is malloc's.
            guard let copy = malloc(max(1, answer.count)) else { continue }
            answer.withUnsafeBytes { UnsafeMutableRawBufferPointer(start: copy, count: $0.count).copyMemory(from: $0) }
            responses?[index].text = copy.assumingMemoryBound(to: CChar.self)
            responses?[index].length = UInt32(answer.count)
        }
    }

private let sendCallback: @convention(c) (Int32, UnsafeRawPointer?, Int, Int32, Abstract?) -> Int = {
    _,
    bytes,
    length,
    _,
    abstract in
    session(abstract)?.send(UnsafeRawBufferPointer(start: bytes, count: length))
    return length
}

private let receiveCallback: @convention(c) (Int32, UnsafeMutableRawPointer?, Int, Int32, Abstract?) -> Int = {
    _,
    buffer,
    length,
    _,
    abstract in
    session(abstract)?.receive(into: UnsafeMutableRawBufferPointer(start: buffer, count: length)) ?? 0
}

private let disconnectCallback:
    @convention(c) (
        OpaquePointer?, Int32, UnsafePointer<UInt8>?, Int32, UnsafePointer<UInt8>?, Int32, Abstract?
    ) -> Void = { _, reason, message, length, _, _, abstract in
        // 1.10 passes a null message when the packet ends early.
        let bytes = UnsafeBufferPointer(start: message, count: message == nil ? 0 : Int(length))
        session(abstract)?.disconnected(Printable.clean(String(decoding: bytes, as: UTF8.self)))
    }
