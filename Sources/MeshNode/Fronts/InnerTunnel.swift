import H2Transport
import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// A stream with TLS of its own inside, which ends at this node: whoever opened it came through something that is not
/// trusted, and is known only by that handshake. Until then nothing is decided, dialled or forwarded.
///
///     request with x-tun ─→ 200 ─→ TLS, this node as the server ─→ StreamRequest of that identity ─→ plan ─→ relay
///
/// It can be refused by no status any more: the stream is reset.
enum InnerTunnel {
    /// - Parameter outer: What is known of whoever has opened the stream: of the client inside, nothing.
    static func accept(_ pending: PendingConnect, _ outer: StreamRequest, _ carrier: StreamCarrier) {
        let (destination, source) = (outer.destination, outer.sourceIP)
        guard let stream = pending.accept() else { return }
        let client = TLSStream(over: stream, context: carrier.snapshot.server, expecting: .anyTrusted)
        client.endsLowerWithBoth = true
        let newcomers = carrier.newcomers
        let key = carrier.admit(from: source) { [weak client] in client?.reset(.crowdedOut) }
        client.startHandshake { result in
            newcomers.remove(key)
            let failure: StreamError
            switch result {
            case .success(let peer):
                // Revoked or expired while the handshake ran, which had the trust of its beginning.
                let refusal =
                    IngressClient.refusal(of: PeerFacts(of: client), carrier)
                    ?? InnerName.contradiction(client.askedName, destination).map { StreamError(.denied, $0) }
                guard let refusal else {
                    let request = StreamRequest(
                        source: peer.identity.map { .peer($0) } ?? .unauthenticated,
                        sourceIP: source,
                        transport: outer.transport,
                        destination: destination,
                        hops: outer.hops,
                        details: outer.details,
                        now: WallClock.system.seconds
                    )
                    return carrier.carry(client, request, certificate: peer.certificate)
                }
                client.reset(refusal)
                failure = refusal
            case .failure(let error): failure = error
            }
            carrier.records.handshakeFailed(failure.code, at: carrier.front)
            let isTold =
                failure.code == .authentication || failure.code == .protocolViolation || failure.code == .denied
            carrier.peerLog.log(
                isTold ? .warning : .info,
                "no TLS inside of a tunnel",
                of: "\(source)",
                ["to": "\(destination)", "reason": "\(failure)"]
            )
        }
    }
}
