import MeshIdentity
import Platform

/// Messages of OpenSSH's multiplexing protocol, version 4 (PROTOCOL.mux of its sources): what a program says to an
/// `ssh` master over its control socket. Each is a length, a type and a body of SSH's data types (RFC 4251 §5).
///
/// After ``proxy(id:)`` the connection carries the messages of SSH's connection protocol (RFC 4254) instead, each as a
/// length, a byte of padding length (0), a type and a body. The master puts its own channel numbers in the place of
/// ours.
enum MuxMessage {
    static let version: UInt32 = 4

    private enum Kind {
        static let hello: UInt32 = 0x0000_0001
        static let aliveCheck: UInt32 = 0x1000_0004
        static let openForward: UInt32 = 0x1000_0006
        static let closeForward: UInt32 = 0x1000_0007
        static let done: UInt32 = 0x8000_0001
        static let remotePort: UInt32 = 0x8000_0007
        static let proxy: UInt32 = 0x1000_000F
        static let permissionDenied: UInt32 = 0x8000_0002
        static let failure: UInt32 = 0x8000_0003
        static let alive: UInt32 = 0x8000_0005
        static let proxied: UInt32 = 0x8000_000F
    }

    /// Both sides begin with it.
    static var hello: [UInt8] { message(Kind.hello, version) }

    static func aliveCheck(id: UInt32) -> [UInt8] { message(Kind.aliveCheck, id) }

    /// From now on the connection carries channels.
    static func proxy(id: UInt32) -> [UInt8] { message(Kind.proxy, id) }

    /// Has the server listen on `host:port`; the master hands what connects there on to a Unix socket.
    ///
    /// - Parameter host: As in ssh's `-R`: `*` is all addresses.
    static func forward(id: UInt32, host: String, port: UInt16, toUnixSocket path: String) -> [UInt8] {
        forward(Kind.openForward, id, host, port, path)
    }

    /// Takes back what was asked for by ``forward(id:host:port:toUnixSocket:)`` in the same words.
    static func closeForward(id: UInt32, host: String, port: UInt16, toUnixSocket path: String) -> [UInt8] {
        forward(Kind.closeForward, id, host, port, path)
    }

    private static func forward(_ kind: UInt32, _ id: UInt32, _ host: String, _ port: UInt16, _ path: String) -> [UInt8]
    {
        var body = SSHWireWriter()
        body.uint32(kind)
        body.uint32(id)
        body.uint32(remoteForwarding)
        body.string(host)
        body.uint32(UInt32(port))
        body.string(path)
        body.uint32(unixSocket)
        var message = SSHWireWriter()
        message.string(body.bytes)
        return message.bytes
    }

    private static let remoteForwarding: UInt32 = 2
    /// In the place of a port: PORT_STREAMLOCAL, −2.
    private static let unixSocket: UInt32 = 0xffff_fffe

    private static func message(_ words: UInt32...) -> [UInt8] {
        var body = SSHWireWriter()
        for word in words { body.uint32(word) }
        var message = SSHWireWriter()
        message.string(body.bytes)
        return message.bytes
    }

    /// What a master answers.
    enum Answer: Equatable {
        case hello(version: UInt32)
        case alive(request: UInt32)
        case proxied(request: UInt32)
        /// What was asked for is done.
        case done(request: UInt32)
        /// The server listens, on a port that it chose.
        case remotePort(request: UInt32, port: UInt32)
        case refused(request: UInt32, reason: String)
        /// Of no interest here.
        case other(UInt32)
    }

    /// - Parameter body: Without its length.
    static func decode(_ body: some Collection<UInt8>) throws(SSHError) -> Answer {
        var reader = SSHWireReader(body)
        guard let kind = reader.uint32() else { throw malformed }
        var answer: Answer?
        switch kind {
        case Kind.hello: answer = reader.uint32().map { .hello(version: $0) }
        case Kind.alive: answer = reader.uint32().map { .alive(request: $0) }
        case Kind.proxied: answer = reader.uint32().map { .proxied(request: $0) }
        case Kind.done: answer = reader.uint32().map { .done(request: $0) }
        case Kind.remotePort:
            if let request = reader.uint32(), let port = reader.uint32() {
                answer = .remotePort(request: request, port: port)
            }
        case Kind.failure, Kind.permissionDenied:
            if let request = reader.uint32(), let reason = reader.text() {
                answer = .refused(request: request, reason: Printable.clean(reason))
            }
        default: answer = .other(kind)
        }
        guard let answer else { throw malformed }
        return answer
    }

    static var malformed: SSHError {
        SSHError(.protocolViolation, "the ssh program's control socket does not speak its multiplexing protocol")
    }
}
