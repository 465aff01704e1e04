import Platform
import Streams

/// The server's side of a SOCKS handshake, version 5 (RFC 1928) without authentication or with a name and a password
/// (RFC 1929), and versions 4 and 4a: what a client wants to be connected to. Names stay names: they are resolved where
/// the stream ends.
///
/// ```
///   version 5:   greeting ──→ (method) ──→ [name, password ──→ check ──→ (status)] ──→ request ──→ connect ──→ (reply)
///   version 4:   request, user, name of 4a ──────────→ connect ──→ (reply)
/// ```
///
/// No I/O: it says how many bytes it needs next, and what to do with them. It never asks for more than the handshake
/// has, so that what comes after it is the stream's.
struct SOCKSHandshake {
    enum Action: Equatable {
        /// Read exactly this many bytes and hand them to ``SOCKSHandshake/received(_:)``.
        case read(Int)
        /// Send these, then read.
        case send([UInt8], thenRead: Int)
        /// Check these, and go on with ``SOCKSHandshake/checked(_:)``.
        case check(user: [UInt8], password: [UInt8])
        /// Connect, and answer with ``SOCKSHandshake/reply(_:)``.
        case connect(Authority)
        /// Send these, and close.
        case refuse([UInt8], StreamError)
    }

    private enum State {
        case version
        case methodCount
        case methods
        case userLength
        case user(length: Int)
        case password(user: [UInt8])
        case checking
        case request
        case address(kind: UInt8)
        case nameLength
        case request4
        /// The user's name is read and forgotten, up to its NUL; a name to connect to may follow.
        case user4(port: UInt16, address: [UInt8], length: Int)
        case name4(port: UInt16, name: [UInt8])
        case done
    }

    private var state = State.version
    private var isVersion4 = false
    /// Whether a client must say who it is; version 4 has no password to say it with.
    private let authenticates: Bool

    init(authenticates: Bool = false) { self.authenticates = authenticates }

    /// What to do first.
    static let start = Action.read(1)

    /// RFC 1928 §6 limits names to 255 bytes; version 4 has no limit of its own.
    private static let longestName = 255

    /// - Parameter bytes: As many as were asked for.
    mutating func received(_ bytes: [UInt8]) -> Action {
        switch state {
        case .version:
            switch bytes[0] {
            case 5:
                state = .methodCount
                return .read(1)
            case 4:
                isVersion4 = true
                // RFC 1929 has come with version 5.
                guard !authenticates else {
                    return refuse(Self.reply4(0x5B), "speaks version 4, which has no password")
                }
                state = .request4
                return .read(7)
            default:
                // An HTTP request to the wrong port, most likely: no answer would be understood.
                return refuse([], "does not speak SOCKS: the first byte is \(bytes[0])")
            }
        case .methodCount:
            guard bytes[0] > 0 else { return refuse([5, 0xFF], "offers no method of authentication") }
            state = .methods
            return .read(Int(bytes[0]))
        case .methods:
            if authenticates {
                guard bytes.contains(2) else {
                    return refuse([5, 0xFF], "does not offer a name and a password, which this server wants")
                }
                state = .userLength
                return .send([5, 2], thenRead: 2)
            }
            guard bytes.contains(0) else {
                return refuse([5, 0xFF], "insists on authentication, which this server does not have")
            }
            state = .request
            return .send([5, 0], thenRead: 4)
        case .userLength:
            guard bytes[0] == 1 else { return refuse([1, 1], "has version \(bytes[0]) of name and password, not 1") }
            // The name, and how long the password is.
            state = .user(length: Int(bytes[1]))
            return .read(Int(bytes[1]) + 1)
        case .user(let length):
            guard length > 0, let passwordLength = bytes.last, passwordLength > 0 else {
                return refuse([1, 1], "has an empty name or password")
            }
            state = .password(user: Array(bytes.dropLast()))
            return .read(Int(passwordLength))
        case .password(let user):
            state = .checking
            return .check(user: user, password: bytes)
        case .checking: return refuse([], "goes on before it is let in")
        case .request: return request(bytes)
        case .nameLength:
            guard bytes[0] > 0 else { return refuse(Self.reply5(1), "asks for an empty name") }
            state = .address(kind: 3)
            return .read(Int(bytes[0]) + 2)
        case .address(let kind): return address(bytes, kind: kind)
        case .request4: return request4(bytes)
        case .user4(let port, let address, let length):
            guard bytes[0] != 0 else { return userEnded(port: port, address: address) }
            guard length < Self.longestName else { return refuse(Self.reply4(0x5B), "has a user name without an end") }
            state = .user4(port: port, address: address, length: length + 1)
            return .read(1)
        case .name4(let port, let name):
            guard bytes[0] != 0 else { return connect(host: String(decoding: name, as: UTF8.self), port: port) }
            guard name.count < Self.longestName else {
                return refuse(Self.reply4(0x5B), "asks for a name without an end")
            }
            state = .name4(port: port, name: name + bytes)
            return .read(1)
        case .done: return refuse([], "goes on after the handshake")
        }
    }

    /// What becomes of a client whose name and password were checked.
    ///
    /// - Parameter isRight: nil: nobody has looked.
    mutating func checked(_ isRight: Bool?) -> Action {
        guard case .checking = state else { return refuse([], "was checked out of turn") }
        guard let isRight else {
            state = .done
            // Every status but 0 means a wrong password to clients, and they ask their users for another one.
            return .refuse([], StreamError(.limit, "too many SOCKS clients have a password to check: try again"))
        }
        guard isRight else {
            state = .done
            return .refuse([1, 1], StreamError(.denied, "the SOCKS client has a wrong name or password"))
        }
        state = .request
        return .send([1, 0], thenRead: 4)
    }

    /// What the client is told when the connection is there, or why it is not.
    func reply(_ failure: StreamError?) -> [UInt8] {
        guard !isVersion4 else { return Self.reply4(failure == nil ? 0x5A : 0x5B) }
        let code: UInt8 =
            switch failure?.code {
            case nil: 0
            case .denied?, .authentication?, .loop?: 2
            case .unreachable?: 4
            case .refused?: 5
            case .timedOut?: 6
            default: 1
            }
        return Self.reply5(code)
    }

    // MARK: -

    private mutating func request(_ bytes: [UInt8]) -> Action {
        guard bytes[0] == 5 else { return refuse(Self.reply5(1), "changes its version to \(bytes[0])") }
        guard bytes[1] == 1 else {
            return refuse(
                Self.reply5(7),
                "asks for command \(bytes[1]); only CONNECT (1) is served, neither BIND nor UDP"
            )
        }
        switch bytes[3] {
        case 1:
            state = .address(kind: 1)
            return .read(4 + 2)
        case 4:
            state = .address(kind: 4)
            return .read(16 + 2)
        case 3:
            state = .nameLength
            return .read(1)
        default: return refuse(Self.reply5(8), "asks for an address of the unknown kind \(bytes[3])")
        }
    }

    private mutating func address(_ bytes: [UInt8], kind: UInt8) -> Action {
        let host = bytes.dropLast(2)
        let port = UInt16(bytes[bytes.count - 2]) << 8 | UInt16(bytes[bytes.count - 1])
        switch kind {
        case 1: return connect(host: Self.ipv4(host), port: port)
        case 4: return connect(host: Self.ipv6(host), port: port)
        default: return connect(host: String(decoding: host, as: UTF8.self), port: port)
        }
    }

    private mutating func request4(_ bytes: [UInt8]) -> Action {
        guard bytes[0] == 1 else {
            return refuse(Self.reply4(0x5B), "asks for command \(bytes[0]); only CONNECT (1) is served, not BIND")
        }
        state = .user4(port: UInt16(bytes[1]) << 8 | UInt16(bytes[2]), address: Array(bytes[3...]), length: 0)
        return .read(1)
    }

    private mutating func userEnded(port: UInt16, address: [UInt8]) -> Action {
        // 0.0.0.x is no address: a name follows (SOCKS 4a).
        guard address.prefix(3).allSatisfy({ $0 == 0 }), address[3] != 0 else {
            return connect(host: Self.ipv4(address[...]), port: port)
        }
        state = .name4(port: port, name: [])
        return .read(1)
    }

    private mutating func connect(host: String, port: UInt16) -> Action {
        do throws(StreamError) {
            let authority = try StreamError.reading(Authority(host: host, port: port))
            state = .done
            return .connect(authority)
        } catch {
            return refuse(
                isVersion4 ? Self.reply4(0x5B) : Self.reply5(1),
                "asks for something impossible: \(error.message)"
            )
        }
    }

    private mutating func refuse(_ reply: [UInt8], _ reason: String) -> Action {
        state = .done
        return .refuse(reply, StreamError(.badRequest, "the SOCKS client \(reason)"))
    }

    /// The address that the server has bound is not told: it is the far side's affair.
    private static func reply5(_ code: UInt8) -> [UInt8] { [5, code, 0, 1, 0, 0, 0, 0, 0, 0] }

    private static func reply4(_ code: UInt8) -> [UInt8] { [0, code, 0, 0, 0, 0, 0, 0] }

    private static func ipv4(_ bytes: ArraySlice<UInt8>) -> String { bytes.map(String.init).joined(separator: ".") }

    private static func ipv6(_ bytes: ArraySlice<UInt8>) -> String {
        let bytes = Array(bytes)
        return stride(from: 0, to: 16, by: 2)
            .map { String(UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]), radix: 16) }
            .joined(separator: ":")
    }
}
