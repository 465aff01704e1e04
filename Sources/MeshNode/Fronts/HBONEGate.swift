import H2Transport
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// The HBONE server of one listener whose clients need not be members of the mesh: they come through a proxy that is
/// not trusted, or show a token. Confined to its loop.
final class HBONEGate {
    private let server: HBONEServer
    private let listener: NodeConfiguration.Listener
    private let carrier: StreamCarrier

    init(
        _ listener: NodeConfiguration.Listener,
        rules: GatewayRules,
        carrier: StreamCarrier,
        configuration: HBONEServer.Configuration
    ) throws(StreamError) {
        self.listener = listener
        self.carrier = carrier
        let front = HBONEFront(carrier, gate: listener)
        server = try HBONEServer(
            on: carrier.loop,
            // Without TLS nobody is shown anything.
            context: rules.server ?? carrier.snapshot.server,
            configuration: configuration,
            logger: carrier.logger
        ) { front.handle($0) }
    }

    func accept(_ socket: Socket) {
        // Its name has come to mean something else.
        guard let rules = carrier.snapshot.gateways[listener.name] else { return socket.reset(.closed(socket)) }
        if rules.settings.isClear { server.acceptClear(socket) } else { server.accept(socket) }
    }

    /// Whether it is for another listener by now; its connections go on.
    func isFor(_ listener: NodeConfiguration.Listener) -> Bool {
        self.listener.gateway == listener.gateway && self.listener.tokens == listener.tokens
    }

    /// No connection is left, nor one on its way.
    var isUnused: Bool { server.isUnused }

    /// A reload has brought another snapshot, which the carrier has already: whoever is revoked in it is cut, also
    /// where the listener is gone or has become another one.
    func takeSnapshot() {
        let snapshot = carrier.snapshot
        server.context = snapshot.gateways[listener.name]?.server ?? snapshot.server
    }

    func use(_ configuration: HBONEServer.Configuration) throws(StreamError) { try server.use(configuration) }

    func drain(completion: @escaping () -> Void) { server.drain(deadline: nil, completion: completion) }
    func close() { server.close() }
    func abort() { server.abort() }
}

/// Why a gate refuses a request: what its client is told, and what is written here.
struct GateRefusal: Error {
    let rejection: ConnectRejection
    let error: StreamError

    init(_ rejection: ConnectRejection, _ error: StreamError) {
        self.rejection = rejection
        self.error = error
    }
}

/// Who may ask for something at a listener with a gate.
enum GateAdmission {
    /// - Parameter listener: What the request came by.
    /// - Returns: What its token says; nil where none is asked for.
    static func details(
        of pending: PendingConnect,
        at listener: NodeConfiguration.Listener,
        _ snapshot: NodeSnapshot
    ) -> Result<RequestDetails?, GateRefusal> {
        // Also where a reload has added `jwt` to a listener whose connections go on.
        guard listener.tokens != nil || snapshot.tokens[listener.name] != nil else { return .success(nil) }
        // Its name has come to mean something else.
        guard let check = snapshot.tokens[listener.name] else {
            let error = StreamError(.closed, "the listener is gone")
            return .failure(GateRefusal(ConnectRejection(error), error))
        }
        do throws(TokenError) {
            let fields = pending.request.headers.filter { $0.name == "authorization" }
            guard fields.count < 2 else {
                throw TokenError(.malformed, "there is more than one field 'authorization'")
            }
            return .success(RequestDetails(principal: try check.principal(of: fields.first?.value), isTokenRead: true))
        } catch {
            let reason = ProxyStatus(
                error: "http_request_denied",
                details: error.code == .missing ? error.message : nil
            )
            var rejection = ConnectRejection(status: 401, reason: reason)
            rejection.challenge = error.challenge
            return .failure(GateRefusal(rejection, StreamError(.denied, "token: \(error.message)")))
        }
    }
}
