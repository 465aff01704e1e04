import Glibc
package import Platform

/// Why a stream or a connection attempt failed, with a message that a person can act on.
public struct StreamError: Error, Hashable, Sendable, CustomStringConvertible {
    /// What kind of failure this is; new kinds may be added.
    public struct Code: Hashable, Sendable, CustomStringConvertible {
        package enum Kind: String {
            case closed, refused, unreachable, timedOut, reset, truncated, protocolViolation, authentication, denied
            case badRequest, limit, draining, addressInUse, cancelled, loop, system
        }
        package let kind: Kind
        public var description: String { kind.rawValue }

        /// This side closed the stream before it had ended.
        public static let closed = Code(kind: .closed)
        /// Nothing listens there.
        public static let refused = Code(kind: .refused)
        /// No route, or the name does not resolve.
        public static let unreachable = Code(kind: .unreachable)
        /// No answer in time.
        public static let timedOut = Code(kind: .timedOut)
        /// The peer aborted.
        public static let reset = Code(kind: .reset)
        /// The transport ended before the peer said it was done: bytes may be missing.
        public static let truncated = Code(kind: .truncated)
        /// The peer broke the protocol.
        public static let protocolViolation = Code(kind: .protocolViolation)
        /// A certificate, host key or credential was not accepted. Never a reason to try another path.
        public static let authentication = Code(kind: .authentication)
        /// Policy says no.
        public static let denied = Code(kind: .denied)
        /// The request makes no sense to the peer (a malformed authority).
        public static let badRequest = Code(kind: .badRequest)
        /// A limit was reached.
        public static let limit = Code(kind: .limit)
        /// The connection is going away and takes no new streams; another connection can carry them.
        public static let draining = Code(kind: .draining)
        /// The address to listen on is taken.
        public static let addressInUse = Code(kind: .addressInUse)
        /// The task that waited was cancelled.
        public static let cancelled = Code(kind: .cancelled)
        /// The way to the destination goes round in a circle.
        public static let loop = Code(kind: .loop)
        /// Any other error of the operating system.
        public static let system = Code(kind: .system)
    }

    /// What kind of failure it is, for programs.
    public var code: Code
    /// What failed and, where something can be done, what; for people.
    public var message: String

    /// - Parameters:
    ///   - code: What kind of failure it is.
    ///   - message: What failed, for people.
    public init(_ code: Code, _ message: String) {
        self.code = code
        self.message = message
    }

    public var description: String { message }
}

extension StreamError {
    /// A destination that is none.
    package init(_ error: AddressError) { self.init(.badRequest, error.message) }

    /// Reads a text that names a destination; one that names none is a bad request.
    package static func reading<Value>(
        _ value: @autoclosure () throws(AddressError) -> Value
    ) throws(StreamError) -> Value {
        do throws(AddressError) { return try value() } catch { throw StreamError(error) }
    }

    /// The C library's text for an error number, with its name where people search for it by name.
    package static func describe(errno number: Int32) -> String {
        String(cString: strerror(number))
    }

    /// What an error number of a system call means for a stream.
    package static func system(_ number: Int32, _ what: String) -> StreamError {
        let text = "\(what): \(describe(errno: number))"
        return switch number {
        case ECONNREFUSED: StreamError(.refused, text)
        case ENETUNREACH, EHOSTUNREACH, EHOSTDOWN, ENETDOWN, EADDRNOTAVAIL: StreamError(.unreachable, text)
        case ETIMEDOUT: StreamError(.timedOut, text)
        case ECONNRESET, EPIPE, ECONNABORTED: StreamError(.reset, text)
        case EADDRINUSE: StreamError(.addressInUse, text)
        default: StreamError(.system, text)
        }
    }

    /// What a stream says to an owner who uses it after he has closed it. It names nothing, because every stream is
    /// closed.
    package static let closedByOwner = StreamError(.closed, "the stream was closed by its owner before")
}
