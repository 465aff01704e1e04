import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// One client of a gateway that speaks HTTP/1.1: each of its requests goes where the listener's routes say.
final class IngressConnection: HTTPConnection {
    private let gate: IngressGate
    private let settings: NodeConfiguration.Ingress
    private var passage: IngressGate.Passage?
    private var hasRequest = false
    /// Requests in a row whose token does not hold.
    private var failures = 0
    /// A client of HTTP/2 says so with its first bytes, or not at all.
    private var isFirst = true

    /// - Parameters:
    ///   - client: A socket, or TLS over one whose handshake is done.
    ///   - rules: What holds now: times and limits are those for as long as the connection lasts.
    init(_ client: ByteStream, _ gate: IngressGate, _ rules: IngressRules) {
        self.gate = gate
        settings = rules.settings
        let times = rules.settings.timeouts
        super.init(
            client,
            from: gate.source,
            gate.carrier,
            timeouts: HTTPTimeouts(head: times.head, idle: times.idle, stall: times.idle, upstream: times.upstream),
            limits: rules.settings.limits.http
        )
    }

    override func start() {
        gate.load.connections += 1
        super.start()
    }

    override func connectionEnded() { gate.load.connections -= 1 }

    override func exchangeEnded() {
        if hasRequest { gate.load.requests -= 1 }
        hasRequest = false
    }

    override func streamRequest(to destination: Authority) -> StreamRequest {
        guard let passage else { return IngressClient.request(of: gate.facts, to: destination) }
        return gate.streamRequest(for: passage)
    }

    override var certificate: CertificateName? { gate.facts.certificate }

    override var opensHTTP2: Bool { passage?.route.h2 ?? false }

    override func finished(_ page: HTTPProxyPage) -> HTTPProxyPage { gate.finished(page) }

    /// HTTP/2 with prior knowledge (RFC 9113 §3.3). In TLS it is agreed on in the handshake, and nowhere else.
    override func isOther(_ head: ArraySlice<UInt8>) -> Bool {
        defer { isFirst = false }
        guard isFirst, !gate.isSecure, head.elementsEqual(Self.preface) else { return false }
        let (gate, settings, client) = (gate, settings, client)
        let early = Array(input)
        handOver()
        IngressHTTP2Connection.serve(client, early: early, gate, settings)
        return true
    }

    private static let preface = Array("PRI * HTTP/2.0\r\n\r\n".utf8)

    override func handle(_ head: HTTPRequestHead) {
        welcome()
        // Listeners have changed more than once since it was accepted, and its own is none of them.
        guard let rules = gate.rules else {
            return end(resetting: StreamError(.denied, "listener '\(gate.listener.name)' is not there any more"))
        }
        if let refusal = IngressClient.refusal(of: gate.facts, carrier) { return end(resetting: refusal) }
        do throws(HTTPError) {
            let verdict = try gate.decide(head, by: rules)
            if case .unauthorized = verdict { failures += 1 } else { failures = 0 }
            switch verdict {
            case .answer(let page): answer(page, to: head)
            case .unauthorized(let page): answer(page, to: head, closes: failures >= IngressGate.failureLimit)
            case .carry(let passage):
                self.passage = passage
                let exchange = try HTTPExchange(
                    head,
                    as: passage.head,
                    upgrade: passage.upgrade,
                    to: passage.route.to,
                    isLast: carrier.isDraining,
                    limits: limits,
                    adding: passage.added,
                    dropsClaims: true
                )
                gate.load.requests += 1
                hasRequest = true
                carry(exchange)
            }
        } catch {
            carrier.peerLog.log(.info, "bad request", of: "\(source)", ["reason": "\(error)"])
            answer(.bad(error), to: head, closes: true)
        }
    }
}
