/// Why a client's first bytes lead nowhere.
struct ClientHelloError: Error, Hashable {
    /// What the client is told; nil where it does not speak TLS.
    var alert: TLSAlert?
    var reason: String

    init(_ alert: TLSAlert?, _ reason: String) {
        self.alert = alert
        self.reason = reason
    }
}

/// The alerts that are sent by who reads a ClientHello and answers nothing else (RFC 8446 §6).
enum TLSAlert: UInt8, Sendable {
    case unexpectedMessage = 10
    case recordOverflow = 22
    case illegalParameter = 47
    case accessDenied = 49
    case decodeError = 50
    case internalError = 80
    case missingExtension = 109
    case unrecognizedName = 112

    /// The whole record. Its version is the one that TLS 1.2 and 1.3 write.
    var record: [UInt8] { [21, 3, 3, 0, 2, 2, rawValue] }
}

/// Puts the ClientHello of a TLS connection together from its records (RFC 8446 §5.1), however they come, and finds
/// the name of the server in it. Does no I/O. What is read is kept as it came, for the server.
///
/// Strict: a server behind it must not understand another name than this one. Where RFCs leave room it refuses.
struct ClientHelloReader {
    /// All bytes that were received, untouched.
    private(set) var received: [UInt8] = []
    /// The handshake message without the records' headers.
    private var message: [UInt8] = []
    /// Where in ``received`` the next record, or the rest of this one, begins.
    private var next = 0
    /// How much of the record is still to come.
    private var rest = 0

    /// Of the message: ten times what clients send, with keys that quantum computers do not break.
    static let messageLimit = 16 << 10
    /// Of the message in its records: one-byte records would make six of each of its bytes.
    static let wireLimit = 32 << 10
    /// RFC 8446 §5.1.
    static let recordLimit = 16 << 10

    /// - Returns: The name of the server as the client wrote it, once the message is whole; nil before. Not to be
    ///   called again after that, or after an error.
    mutating func receive(_ bytes: UnsafeRawBufferPointer) throws(ClientHelloError) -> [UInt8]? {
        received.append(contentsOf: bytes)
        while next < received.count {
            if rest == 0 {
                guard try beginRecord() else { break }
                continue
            }
            let count = min(rest, received.count - next)
            message.append(contentsOf: received[next..<next + count])
            next += count
            rest -= count
            if let whole = try wholeMessage() { return try ClientHello.serverName(in: whole) }
        }
        return nil
    }

    /// Refuses a header by the first byte that is wrong: who does not speak TLS may wait for an answer.
    private mutating func beginRecord() throws(ClientHelloError) -> Bool {
        let header = received[next...].prefix(5)
        let isFirst = next == 0
        for (index, byte) in header.enumerated() {
            switch (index, byte) {
            case (0, 22), (1, 3): continue
            case (0, _), (1, _):
                throw isFirst
                    ? ClientHelloError(nil, "it does not begin as TLS does")
                    : ClientHelloError(.unexpectedMessage, "something else stands between the parts of the ClientHello")
            default: continue
            }
        }
        guard header.count == 5 else { return false }
        guard next <= Self.wireLimit else {
            throw ClientHelloError(.illegalParameter, "the ClientHello is in too many small records")
        }
        let length = Int(header[next + 3]) << 8 | Int(header[next + 4])
        guard length <= Self.recordLimit else {
            throw ClientHelloError(.recordOverflow, "a record has \(length) bytes, \(Self.recordLimit) at most")
        }
        guard length > 0 else { throw ClientHelloError(.unexpectedMessage, "a record of the ClientHello is empty") }
        next += 5
        rest = length
        return true
    }

    /// What the message says, if it is all there.
    private func wholeMessage() throws(ClientHelloError) -> ArraySlice<UInt8>? {
        guard message[0] == 1 else {
            throw ClientHelloError(.unexpectedMessage, "the first message is of type \(message[0]), not a ClientHello")
        }
        guard message.count >= 4 else { return nil }
        let end = 4 + (Int(message[1]) << 16 | Int(message[2]) << 8 | Int(message[3]))
        guard end <= Self.messageLimit else {
            throw ClientHelloError(
                .illegalParameter,
                "the ClientHello has \(end) bytes, \(Self.messageLimit) at most"
            )
        }
        // Nothing may follow before the server has answered.
        guard message.count <= end, message.count < end || rest == 0 else {
            throw ClientHelloError(.unexpectedMessage, "another message follows the ClientHello in its record")
        }
        return message.count == end ? message[4...] : nil
    }
}

/// What a ClientHello says (RFC 8446 §4.1.2, and the same of earlier versions).
enum ClientHello {
    /// The one host_name of `server_name` (RFC 6066 §3).
    ///
    /// - Parameter message: Without the header of the handshake.
    static func serverName(in message: ArraySlice<UInt8>) throws(ClientHelloError) -> [UInt8] {
        var hello = Fields(message)
        // legacy_version, random
        guard hello.take(2)?.first == 3, hello.take(32) != nil else { throw malformed("version or random") }
        guard let session = hello.vector(1), session.count <= 32 else { throw malformed("session id") }
        guard let suites = hello.vector(2), suites.count >= 2, suites.count % 2 == 0 else {
            throw malformed("list of cipher suites")
        }
        guard let compression = hello.vector(1), !compression.isEmpty else {
            throw malformed("list of compression methods")
        }
        // TLS 1.2 and before may have none.
        if hello.isEmpty { throw withoutName }
        guard let block = hello.vector(2), hello.isEmpty else { throw malformed("list of extensions") }

        var extensions = Fields(block)
        var seen: Set<Int> = []
        var name: [UInt8]?
        while !extensions.isEmpty {
            guard let type = extensions.number(2), let content = extensions.vector(2) else {
                throw malformed("list of extensions")
            }
            guard seen.insert(type).inserted else {
                throw ClientHelloError(.illegalParameter, "extension \(type) is there twice")
            }
            switch type {
            case 0: name = try hostName(content)
            case 0xFE0D: throw encrypted(content)
            default: continue
            }
        }
        guard let name else { throw withoutName }
        return name
    }

    private static func hostName(_ content: ArraySlice<UInt8>) throws(ClientHelloError) -> [UInt8] {
        var content = Fields(content)
        guard let block = content.vector(2), content.isEmpty else { throw malformed("server_name") }
        var names = Fields(block)
        // There never was another type than host_name (0), and there may be one name of each.
        guard let type = names.number(1), let name = names.vector(2), !name.isEmpty else {
            throw malformed("server_name")
        }
        guard type == 0, names.isEmpty else {
            throw ClientHelloError(.illegalParameter, "server_name has more than one host_name, or another type")
        }
        return Array(name)
    }

    /// Encrypted Client Hello: the name outside is not the one that the client means. Only who has the key of the inner
    /// one can tell it from GREASE.
    private static func encrypted(_ content: ArraySlice<UInt8>) -> ClientHelloError {
        guard content.first == 0 else {
            return ClientHelloError(.illegalParameter, "encrypted_client_hello is not the outer one")
        }
        return ClientHelloError(
            .unrecognizedName,
            "the ClientHello is encrypted (ECH), or says so: where it goes cannot be read"
        )
    }

    /// RFC 8446 §9.2 has this alert for it; RFC 6066 has none.
    private static let withoutName = ClientHelloError(
        .missingExtension,
        "the ClientHello names no server (SNI): where it goes is not known"
    )

    private static func malformed(_ what: String) -> ClientHelloError {
        ClientHelloError(.decodeError, "the ClientHello is malformed: \(what)")
    }
}

/// Reads one field after the other, none beyond the end.
private struct Fields {
    private var bytes: ArraySlice<UInt8>

    init(_ bytes: ArraySlice<UInt8>) { self.bytes = bytes }

    var isEmpty: Bool { bytes.isEmpty }

    mutating func take(_ count: Int) -> ArraySlice<UInt8>? {
        guard bytes.count >= count else { return nil }
        defer { bytes = bytes.dropFirst(count) }
        return bytes.prefix(count)
    }

    /// Big-endian.
    mutating func number(_ size: Int) -> Int? { take(size)?.reduce(0) { $0 << 8 | Int($1) } }

    /// What has its length before it.
    mutating func vector(_ size: Int) -> ArraySlice<UInt8>? { number(size).flatMap { take($0) } }
}
