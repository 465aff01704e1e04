import Streams

/// A ``RemotePort``, asked for or granted, and what becomes of its connections.
final class RemoteListener {
    let port: RemotePort
    let accept: (ByteStream) -> Void
    var completion: ((Result<UInt16, SSHError>) -> Void)?
    var timer: LoopTimer?
    /// libssh2's listener, once the server listens. Freed with the session.
    var raw: OpaquePointer?
    /// Where the server listens, once it does.
    var bound: UInt16 = 0

    init(
        _ port: RemotePort,
        accept: @escaping (ByteStream) -> Void,
        completion: @escaping (Result<UInt16, SSHError>) -> Void
    ) {
        self.port = port
        self.accept = accept
        self.completion = completion
    }
}
