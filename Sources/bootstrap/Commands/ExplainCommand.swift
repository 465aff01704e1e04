import ArgumentParser
import MeshIdentity
import MeshNode
import MeshPolicy
import Platform
import Streams
import YAML

struct ExplainCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say which policy rule decides about a stream, and which route it takes.",
        discussion: """
            Reads the node's configuration and answers as the running node would, without opening anything. Run it on the node: \
            the node's own identity is read from its credential directory, and its own addresses from its interfaces.

              bootstrap explain --config node.yaml --from spiffe://mesh.example/ns/ops/sa/ann --to 127.0.0.1:22
              bootstrap explain --config node.yaml --from local --to db.prod:5432
              bootstrap explain --config node.yaml --listener socks --to web.prod:80
              bootstrap explain --config node.yaml --listener web --to https://api.example.org/v1/

            Exit code: 0 allowed, 5 denied, 2 the command line or the configuration makes no sense.
            """
    )

    enum OutputFormat: String, ExpressibleByArgument, CaseIterable {
        case text
        case json
    }

    @Option(help: ArgumentHelp("The node's configuration.", valueName: "FILE"))
    var config: String

    @Option(
        help: ArgumentHelp(
            "Who asks: a SPIFFE ID, ns/NAMESPACE/sa/NAME in the node's own trust domain, 'local' for a user of a local listener, "
                + "or 'anyone' for a peer without identity.",
            valueName: "ID"
        )
    )
    var from: String?

    @Option(
        help: ArgumentHelp(
            "Where the stream is to go; with an http or https listener, the URL that is asked for.",
            valueName: "HOST:PORT"
        )
    )
    var to: String?

    @Option(
        help: ArgumentHelp(
            "What somebody asks for who connects to this listener (tcp, socks5, http-proxy, sni, tls, http, https), in the "
                + "place of --from; a tcp or tls listener says itself where that goes.",
            valueName: "NAME"
        )
    )
    var listener: String?

    @Option(help: ArgumentHelp("The address the peer comes from. (default: 127.0.0.1)", valueName: "ADDRESS"))
    var sourceIp: String?

    /// A local user's stream has come over nothing yet: unless it is given, each way to its peer is decided for itself.
    @Option(
        help: ArgumentHelp("What the stream comes over: h2, h2-over-ssh or ssh. (default: h2)", valueName: "TRANSPORT")
    )
    var transport: String?

    @Option(
        help: ArgumentHelp(
            "The node's own identity, where its credential directory is not at hand. (default: read from there)",
            valueName: "SPIFFE-ID"
        )
    )
    var node: String?

    @Option(
        help: ArgumentHelp(
            "What is asked for over HTTP, as a listener that reads it sees it; with --path. (default: a stream without HTTP)",
            valueName: "METHOD"
        )
    )
    var method: String?

    @Option(help: ArgumentHelp("The path of the request, as it is sent.", valueName: "PATH"))
    var path: String?

    @Option(help: ArgumentHelp("Issuer and subject of the request's token.", valueName: "ISSUER/SUBJECT"))
    var requestPrincipal: String?

    @Option(
        help: ArgumentHelp(
            "AuthorizationPolicies of Istio that decide in the place of the configuration's policy.",
            valueName: "FILE"
        )
    )
    var istio: String?

    @Option(help: "text or json.")
    var output = OutputFormat.text

    @OptionGroup var messages: MessageOptions

    func validate() throws {
        guard (method == nil) == (path == nil), requestPrincipal == nil || path != nil else {
            throw ValidationError(
                "--method, --path and --request-principal are of one request: give --method and --path"
            )
        }
        if let listener {
            guard from == nil else {
                throw ValidationError("--listener \(listener) says who asks: leave --from away")
            }
            return
        }
        guard from != nil else { throw ValidationError("Missing expected argument '--from <ID>'") }
        guard to != nil else { throw ValidationError("Missing expected argument '--to <HOST:PORT>'") }
    }

    func run() async throws {
        var configuration: NodeConfiguration
        do throws(ConfigurationError) {
            configuration = try NodeConfiguration.load(config)
            if let istio { try configuration.importPolicies(ofIstio: istio) }
            try configuration.validate(checkingFiles: false)
        } catch {
            throw fail(error.description, .usage)
        }
        if configuration.directory != nil, let bundle = try? CredentialDirectory(configuration.identity).bundle() {
            let known = configuration.knownDirectory(beside: config, bundle: bundle) { printWarning($0) }
            configuration = configuration.adding(known)
        }
        let (own, problem) = try ownIdentity(configuration)
        let planner = StreamPlanner(
            configuration.rules(),
            own: own,
            ownAddresses: Set(InterfaceAddress.all().map(\.address))
        )
        let plan = planner.plan(try request(own: own, configuration))
        switch output {
        case .text: print(plan)
        case .json: print(try Self.json(plan))
        }
        if plan.isAllowed { return }
        if let problem, plan.decision.rule == nil {
            printError("the node's own identity is not known (\(problem)); give it with --node SPIFFE-ID")
        }
        throw ExitCode.denied
    }

    private func ownIdentity(_ configuration: NodeConfiguration) throws -> (SPIFFEID?, problem: IdentityError?) {
        if let node { return (try usage("--node \(node)") { try SPIFFEID(node) }, nil) }
        do throws(IdentityError) {
            return (try CredentialDirectory(configuration.identity).load().id, nil)
        } catch {
            return (nil, error)
        }
    }

    /// Who asks, and for what.
    private func question(_ configuration: NodeConfiguration) throws -> (from: String, to: Authority) {
        var from = from ?? "local"
        var target: Authority?
        if let listener {
            guard let found = configuration.listeners.first(where: { $0.name == listener }) else {
                let names = configuration.listeners.map(\.name).joined(separator: ", ")
                throw fail("--listener \(listener): there is no such listener (there are: \(names))", .usage)
            }
            guard [.tcp, .socks5, .httpProxy, .sni].contains(found.protocol) || found.protocol.isIngress else {
                throw fail(
                    "--listener \(listener): who connects to \(found.protocol.rawValue) is told by --from; "
                        + "instead of --listener, write --from SPIFFE-ID (or anyone, local) --to HOST:PORT",
                    .usage
                )
            }
            // As the fronts have it.
            let isOpen = found.protocol == .sni && !found.bind.address.isLoopback
            from = isOpen || found.protocol.isIngress ? "anyone" : "local"
            target = found.forwardTo
            if [.http, .https].contains(found.protocol) { return (from, try routed(by: found)) }
        }
        if let to {
            let asked = try usage("--to \(to)") { try Authority(parsing: to) }
            guard target == nil || target == asked else {
                throw fail("--to \(to): listener \(listener ?? "") leads to \(target?.description ?? "") only", .usage)
            }
            target = asked
        }
        guard let target else {
            throw fail("--listener \(listener ?? ""): say with --to where the stream goes", .usage)
        }
        return (from, target)
    }

    private func routed(by listener: NodeConfiguration.Listener) throws -> Authority {
        guard let to else {
            throw fail("--listener \(listener.name): say with --to which URL is asked for", .usage)
        }
        guard let target = try usage("--to \(to)", { try listener.destination(of: to) }) else {
            throw fail("--to \(to): no route of listener \(listener.name) matches, and the answer is 404", .denied)
        }
        return target
    }

    private func request(own: SPIFFEID?, _ configuration: NodeConfiguration) throws -> StreamRequest {
        let (from, to) = try question(configuration)
        let name = transport ?? Transport.h2.rawValue
        guard let transport = Transport(rawValue: name) else {
            throw fail("--transport \(name): must be h2, h2-over-ssh or ssh", .usage)
        }
        guard let sourceIP = IPAddress(sourceIp ?? "127.0.0.1") else {
            throw fail("--source-ip \(sourceIp ?? ""): is not an IP address", .usage)
        }
        let source = try source(from, own: own)
        return StreamRequest(
            source: source,
            sourceIP: sourceIP,
            transport: source == .localUser && self.transport == nil ? nil : transport,
            destination: to,
            details: method.flatMap { method in
                // As where tokens are verified: without one in the question the request has none.
                path.map {
                    RequestDetails(method: method, target: $0, principal: requestPrincipal, isTokenRead: true)
                }
            },
            now: WallClock.system.seconds
        )
    }

    private func source(_ from: String, own: SPIFFEID?) throws -> StreamRequest.Source {
        switch from {
        case "local": return .localUser
        case "anyone": return .unauthenticated
        case let id where id.contains("://"): return .peer(try usage("--from \(id)") { try SPIFFEID(id) })
        case let word where !word.contains("/"):
            let hint = Spelling.nearest(to: word, among: ["local", "anyone"]).map { "; did you mean '\($0)'?" } ?? ""
            throw fail(
                "--from \(word): is no SPIFFE ID, no ns/NAMESPACE/sa/NAME, and not 'local' or 'anyone'\(hint)",
                .usage
            )
        default:
            guard let own else {
                throw fail("--from \(from): the node's trust domain is not known; write the whole SPIFFE ID", .usage)
            }
            return .peer(try usage("--from \(from)") { try SPIFFEID("spiffe://\(own.trustDomain)/\(from)") })
        }
    }

    private func usage<Value>(_ argument: String, _ parse: () throws -> Value) throws -> Value {
        do {
            return try parse()
        } catch {
            throw fail("\(argument): \(error)", .usage)
        }
    }

    private static func json(_ plan: StreamPlan) throws -> String {
        struct Report: Encodable {
            var allowed: Bool
            var from: String
            var sourceIP: String
            var transport: String
            var to: String
            /// Absent for a stream without HTTP.
            var method: String?
            var path: String?
            var requestPrincipal: String?
            var policy: Policy
            var route: Path

            struct Policy: Encodable {
                var allowed: Bool
                /// Absent when the default decided.
                var name: String?
                /// Counted from 1.
                var rule: Int?
                var place: String?
                var reason: String
                var notes: [String]
            }

            struct Path: Encodable {
                var kind: String
                var description: String
                var authority: String?
                var transports: [String]?
                /// Of the peer; absent where none is known.
                var servers: [String]?
            }
        }
        let decision = plan.decision
        var route = Report.Path(kind: "refused", description: plan.routeDescription)
        switch plan.route.action {
        case .refused: break
        case .direct(let target, _): (route.kind, route.authority) = ("direct", target.description)
        case .mesh(let mesh):
            (route.kind, route.authority) = ("mesh", mesh.authority.description)
            route.transports = plan.candidates.map(\.id.transport.rawValue)
            if !mesh.peer.servers.isEmpty { route.servers = mesh.peer.servers.map(\.description) }
        }
        let report = Report(
            allowed: plan.isAllowed,
            from: plan.request.sourceDescription,
            sourceIP: plan.request.sourceIP.description,
            transport: plan.request.decidedTransport.rawValue,
            to: plan.request.destination.description,
            method: plan.request.details?.method,
            path: plan.request.details?.path,
            requestPrincipal: plan.request.details?.principal,
            policy: .init(
                allowed: decision.isAllowed,
                name: decision.rule?.policy.name,
                rule: decision.rule.map { $0.index + 1 },
                place: plan.rulePlace,
                reason: decision.reason,
                notes: decision.notes
            ),
            route: route
        )
        return String(decoding: try JSONText.encode(report, isIndented: true), as: UTF8.self)
    }
}
