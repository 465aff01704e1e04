import H2Transport
import Streams
import TestPeers

/// An HTTP/2 client and server joined by a byte stream, and everything their delegates were told. Confined to its loop.
final class H2Pair {
    let client: H2Connection
    let server: H2Connection
    let clientEvents = ConnectionLog()
    let serverEvents = ConnectionLog()

    init(
        _ first: ByteStream,
        _ second: ByteStream,
        client: H2Configuration = .defaults,
        server: H2Configuration = .defaults,
        onRequest: ((PendingConnect) -> Void)? = nil
    ) throws {
        serverEvents.onRequest = onRequest
        self.client = try H2Connection(over: first, role: .client, configuration: client, delegate: clientEvents)
        self.server = try H2Connection(over: second, role: .server, configuration: server, delegate: serverEvents)
    }

    /// Asks for a tunnel and accepts it: both ends.
    func open(_ authority: String = "10.0.0.1:80", completion: @escaping (H2Stream, H2Stream) -> Void) {
        var accepted: H2Stream?
        serverEvents.onRequest = { accepted = $0.accept() }
        client.openStream(ConnectRequest(authority: authority)) { result in
            if case .success(let stream) = result, let accepted { completion(stream, accepted) }
        }
    }

    func close() {
        client.close()
        server.close()
    }
}

/// What a connection told its delegate.
final class ConnectionLog: H2ConnectionDelegate {
    var requests: [PendingConnect] = []
    var onRequest: ((PendingConnect) -> Void)?
    var isDraining = false
    var isClosed = false
    var failure: StreamError?

    func connection(_ connection: H2Connection, received request: PendingConnect) {
        if let onRequest { onRequest(request) } else { requests.append(request) }
    }

    func connectionIsDraining(_ connection: H2Connection) { isDraining = true }

    func connection(_ connection: H2Connection, closed reason: StreamError?) {
        isClosed = true
        failure = reason
    }
}
