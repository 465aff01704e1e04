import H2Transport
import Logging
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// A SOCKS server (versions 5, 4 and 4a) for programs of this machine, and with passwords for those of others. Names
/// stay names: routing looks at them, and they are resolved where the stream ends.
enum SOCKSFront {
    static func accept(_ socket: Socket, by listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        let check: PasswordCheck?
        let access = carrier.access(to: listener)
        switch access {
        case .everybody: check = nil
        case .users(let users): check = users
        // Tokens: a reload has made another listener of it. There is no place for one here.
        case .nobody, .tokens: return socket.reset(.closed(socket))
        }
        let source = socket.peerAddress?.address ?? .loopbackIPv4
        let newcomers = carrier.newcomers
        var key: Newcomers.Key?
        let connection = SOCKSConnection(
            socket,
            .init(
                connect: { connection, destination in
                    if let key { newcomers.remove(key) }
                    // A reload during the handshake.
                    guard carrier.access(to: listener).isSame(as: access) else {
                        let reason = "the users of listener '\(listener.name)' have changed meanwhile"
                        let error = StreamError(.denied, reason)
                        carrier.refuse(carrier.request(of: socket, to: destination), from: socket, error)
                        connection.refuse(error)
                        return {}
                    }
                    return carrier.connect(connection, carrier.request(of: socket, to: destination))
                },
                failed: { destination, error in
                    if let key { newcomers.remove(key) }
                    // Why a stream did not open was told when it did not.
                    guard destination == nil else { return }
                    carrier.peerLog.log(.info, "no SOCKS handshake", of: "\(source)", ["reason": "\(error)"])
                },
                check: check.map { check in
                    { user, password, completion in
                        let loop = socket.loop
                        check.check(user: user, password: password, from: source, on: loop) { verdict in
                            completion(verdict == .busy ? nil : verdict == .right)
                        }
                    }
                }
            )
        )
        key = carrier.admit(from: source) { [weak connection] in connection?.drop(.crowdedOut) }
        connection.start()
    }
}
