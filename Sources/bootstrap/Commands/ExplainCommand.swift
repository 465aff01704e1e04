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
        help: ArgumentHelp(
            "What the stream comes over: h2, h2-reverse, h2-via-gateway, h2-over-ssh or ssh. (default: h2)",
            valueName: "TRANSPORT"
        )
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
    var output = ResultFormat.text

    @OptionGroup var messages: MessageOptions

    private var question: PolicyQuestion {
        let parts: [PolicyQuestion.Key: String?] = [
            .from: from, .to: to, .listener: listener, .sourceIP: sourceIp, .transport: transport, .method: method,
            .path: path, .requestPrincipal: requestPrincipal,
        ]
        return PolicyQuestion(parts.compactMapValues { $0 }, style: .options)
    }

    func validate() throws {
        do throws(PolicyQuestion.Mistake) {
            try question.check()
        } catch {
            throw ValidationError(error.description)
        }
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
        if configuration.directory != nil, let bundle = try? configuration.ownBundle() {
            let known = configuration.knownDirectory(beside: config, bundle: bundle) { printWarning($0) }
            configuration = configuration.adding(known)
        }
        let (own, problem) = try ownIdentity(configuration)
        let planner = StreamPlanner(
            configuration.rules(),
            own: own,
            ownAddresses: Set(InterfaceAddress.all().map(\.address))
        )
        let plan: StreamPlan
        do throws(PolicyQuestion.Mistake) {
            plan = planner.plan(try question.request(own: own, configuration))
        } catch {
            throw fail(error.description, error.isRefusal ? .denied : .usage)
        }
        switch output {
        case .text: print(plan)
        case .json: print(String(decoding: try JSONText.encode(PlanReport(plan), isIndented: true), as: UTF8.self))
        }
        if plan.isAllowed { return }
        if let problem, plan.decision.rule == nil {
            printError("the node's own identity is not known (\(problem)); give it with --node SPIFFE-ID")
        }
        throw ExitCode.denied
    }

    private func ownIdentity(_ configuration: NodeConfiguration) throws -> (SPIFFEID?, problem: IdentityError?) {
        if let node {
            do throws(SPIFFEIDError) {
                return (try SPIFFEID(node), nil)
            } catch {
                throw fail("--node \(node): \(error)", .usage)
            }
        }
        do throws(IdentityError) {
            return (try configuration.ownIdentity(), nil)
        } catch {
            return (nil, error)
        }
    }
}
