import H2Transport
import HTTP1
import Logging
import MeshIdentity
import MeshPolicy
import Platform
import Streams

/// One client of an HTTP proxy: has each request go where it says.
///
/// ```
///   head ─→ [password, token] ─→ CONNECT ───────→ open ─→ 200 ─→ relay                       (this object is over)
///                             ─→ http://host/… ─→ exchange
///                             ─→ /proxy.pac ────→ page
/// ```
final class HTTPProxyConnection: HTTPConnection {
    private let socket: Socket
    private let listener: NodeConfiguration.Listener
    /// Requests in a row that had no right password or token.
    private var failures = 0
    /// What is asked for now, as far as rules read it; nil where it is a tunnel, in which nobody reads.
    private var details: RequestDetails?
    /// Whose token the request has, on a listener that asks for one.
    private var principal: String?

    private static let failureLimit = 3

    init(_ client: Socket, _ listener: NodeConfiguration.Listener, _ carrier: StreamCarrier) {
        socket = client
        self.listener = listener
        super.init(client, from: client.peerAddress?.address ?? .loopbackIPv4, carrier)
    }

    override var isLocal: Bool { source.isLoopback }

    override func streamRequest(to destination: Authority) -> StreamRequest {
        carrier.request(of: socket, to: destination, details: details)
    }

    override func handle(_ head: HTTPRequestHead) {
        let target: HTTPProxyTarget
        do throws(HTTPError) {
            target = try HTTPProxyTarget(of: head)
        } catch {
            return answer(.bad(error), to: head, closes: true)
        }
        admit(head, target)
    }

    /// Has a request served if its client may. Each is asked about: a reload may have changed who may since the last.
    private func admit(_ head: HTTPRequestHead, _ target: HTTPProxyTarget) {
        let access = carrier.access(to: listener)
        let check: PasswordCheck
        switch access {
        case .everybody:
            principal = nil
            return serve(head, target)
        case .tokens(let tokens): return admit(head, target, tokens)
        case .nobody: return end(resetting: StreamError(.denied, "listener '\(listener.name)' has no users any more"))
        case .users(let users): check = users
        }
        let isOwn = if case .own = target { true } else { false }
        let field = head.fields.values(isOwn ? "authorization" : "proxy-authorization")
        guard field.count == 1, let (user, password) = Self.credentials(field[0]) else {
            return askForPassword(head, isOwn: isOwn)
        }
        check.check(user: user, password: password, from: source, on: loop) { [weak self] verdict in
            guard let self, isLive else { return }
            switch verdict {
            case .right:
                // It was the right one when it was asked about.
                guard carrier.access(to: listener).isSame(as: access) else { return admit(head, target) }
                failures = 0
                principal = nil
                serve(head, target)
            case .wrong:
                carrier.peerLog.log(.notice, "a wrong name or password", of: "\(source)")
                askForPassword(head, isOwn: isOwn)
            case .busy:
                carrier.peerLog.log(.notice, "too many passwords at once", of: "\(source)")
                answer(.busy, to: head, closes: true)
            }
        }
    }

    /// Whoever goes on without one must not hold a connection for as long as he likes.
    private func askForPassword(_ head: HTTPRequestHead, isOwn: Bool) {
        failures += 1
        answer(.passwordNeeded(isOwn: isOwn), to: head, closes: failures >= Self.failureLimit)
    }

    private func admit(_ head: HTTPRequestHead, _ target: HTTPProxyTarget, _ tokens: TokenCheck) {
        let isOwn = if case .own = target { true } else { false }
        do throws(TokenError) {
            principal = try tokens.principal(of: head, field: isOwn ? "authorization" : "proxy-authorization")
        } catch {
            carrier.peerLog.log(.notice, "no token that holds", of: "\(source)", ["reason": "\(error)"])
            failures += 1
            return answer(.tokenNeeded(error, isProxy: !isOwn), to: head, closes: failures >= Self.failureLimit)
        }
        failures = 0
        serve(head, target)
    }

    /// RFC 7617 §2.
    static func credentials(_ field: String) -> (user: [UInt8], password: [UInt8])? {
        let parts = field.split(separator: " ", maxSplits: 1)
        guard parts.count == 2, HTTPFields.isSame(String(parts[0]), "basic"), let bytes = Base64.decode(parts[1]),
            let colon = bytes.firstIndex(of: UInt8(ascii: ":"))
        else { return nil }
        return (Array(bytes[..<colon]), Array(bytes[(colon + 1)...]))
    }

    private func serve(_ head: HTTPRequestHead, _ target: HTTPProxyTarget) {
        welcome()
        switch target {
        case .own(let path): answer(ownPage(path, head), to: head)
        case .tunnel(let authority): tunnel(to: authority, head)
        case .server(let authority, let path):
            do throws(HTTPError) {
                if try HTTPProxyHeads.maxForwards(head) == 0 { return answer(.options, to: head) }
                let exchange = try HTTPExchange(head, to: authority, path: path, isLast: carrier.isDraining)
                details = RequestDetails(method: head.method, target: path, principal: principal)
                carry(exchange)
            } catch {
                answer(.bad(error), to: head, closes: true)
            }
        }
    }

    private func ownPage(_ path: String, _ head: HTTPRequestHead) -> HTTPProxyPage {
        guard path == "/proxy.pac", head.method == "GET" || head.method == "HEAD" else { return .notHere }
        let host = head.fields.first("host").flatMap { text in
            (try? Authority(parsing: text)) ?? (try? Authority(parsing: "\(text):80"))
        }
        // A page of the web that has given its own name this address must not read which services there are.
        let hasUsers = if case .everybody = carrier.access(to: listener) { false } else { true }
        guard let host, host.address != nil || host.host == "localhost" || hasUsers else { return .notHere }
        let script = PACFile.script(proxy: host, endpoints: carrier.snapshot.rules.map(\.match))
        return HTTPProxyPage(status: 200, text: script, type: "application/x-ns-proxy-autoconfig")
    }

    private func tunnel(to authority: Authority, _ head: HTTPRequestHead) {
        // Method and path are those inside.
        details = principal.map { RequestDetails(principal: $0) }
        let plan = carrier.opener.plan(streamRequest(to: authority))
        open(plan) { [self] result in
            switch result {
            case .success(let opened):
                write(Array("HTTP/1.1 200 Connection established\r\n\r\n".utf8))
                guard isLive, !hasOutput else {
                    opened.abandon()
                    return end(resetting: .closed(client))
                }
                let early = Array(input[consumed...])
                handOver()
                carrier.join(client, early: early, opened, plan.request)
            // What the client has sent in hope of a stream must not be taken for requests.
            case .failure(let error): answer(.failed(error, isLocal: isLocal), to: head, closes: true)
            }
        }
    }
}
