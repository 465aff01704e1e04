package import Logging
import MeshIdentity
import MeshPaths
import MeshPolicy
import Platform
import Streams

/// What the administration of a node can ask of its process.
package struct NodeControl: Sendable {
    /// Changes what is logged; nil where that is fixed.
    package var setLogLevel: (@Sendable (Logger.Level) -> Void)?
    /// Ends the node in order, with the longest time that streams may take; nil: the node drains, and the process does
    /// what it does when a node has.
    package var drain: (@Sendable (Duration?) -> Void)?

    package init(
        setLogLevel: (@Sendable (Logger.Level) -> Void)? = nil,
        drain: (@Sendable (Duration?) -> Void)? = nil
    ) {
        self.setLogLevel = setLogLevel
        self.drain = drain
    }
}

// The pages of the administration, JSON all of them.
extension Node {
    /// To be set before the node starts.
    package var control: NodeControl {
        get { state.withLock { $0.control } }
        set { state.withLock { $0.control = newValue } }
    }

    private static let pages = [
        "/streams", "/paths", "/certificates", "/config", "/directory", "/routes", "/policy", "/explain", "/metrics",
        "/healthz", "/readyz",
    ]
    private static let orders = ["/loglevel", "/drain"]

    func answerAdministration(_ request: OperationRequest) async -> OperationResponse {
        if let response = await answerProbe(request) { return response }
        if Self.orders.contains(request.path) {
            guard request.method == "POST" else { return .notAllowed("POST") }
            return request.path == "/drain" ? orderDrain(request) : orderLogLevel(request)
        }
        if request.method == "GET", let page = AdministrationPage.response(to: request.path) { return page }
        guard Self.pages.contains(request.path) else {
            let known: [String] = ["/ (for a browser)"] + Self.pages + Self.orders.map { "POST \($0)" }
            return OperationResponse(404, "there are \(known.joined(separator: ", "))")
        }
        guard request.method == "GET" else { return .notAllowed("GET") }
        switch request.path {
        case "/streams": return await streamsPage(request)
        case "/paths": return await pathsPage()
        case "/certificates": return await certificatesPage()
        case "/directory": return directoryPage()
        case "/routes": return await routesPage(request)
        case "/policy": return await policyPage()
        case "/explain": return await explainPage(request)
        default:
            guard let text = state.withLock({ $0.configuration.inEffect(beside: $0.directory) }) else {
                return OperationResponse(404, "the configuration was made by a program, not by a file")
            }
            return OperationResponse(type: Self.json, body: Array(text.utf8))
        }
    }

    static let json = "application/json"

    static func page(_ body: (inout JSONWriter) -> Void) -> OperationResponse {
        var json = JSONWriter()
        json.object(body)
        json.endLine()
        return OperationResponse(type: Self.json, body: json.take())
    }

    // MARK: Pages

    /// How many there may be on a page; nil: what the query says is none.
    static func limit(of request: OperationRequest) -> Int? {
        // A loop writes its streams in one go, and carries nothing meanwhile.
        guard let limit = Int(request.query["limit"] ?? "1000"), (0...10_000).contains(limit) else { return nil }
        return limit
    }

    static let noLimit = OperationResponse(400, "'limit' is not a number from 0 to 10000")

    private func streamsPage(_ request: OperationRequest) async -> OperationResponse {
        guard let limit = Self.limit(of: request) else { return Self.noLimit }
        var (total, streams): (Int, [[UInt8]]) = (0, [])
        for worker in state.withLock({ $0.workers }) {
            let room = limit - streams.count
            let part = try? await worker.loop.execute { worker.withValue { $0.liveStreams(upTo: room) } }
            total += part?.total ?? 0
            streams += part?.streams ?? []
        }
        return Self.page { json in
            json.key("total")
            json.number(total)
            json.key("streams")
            json.array { json in
                for stream in streams { json.raw(stream) }
            }
        }
    }

    private func pathsPage() async -> OperationResponse {
        let reports = await reports()
        return Self.page { json in
            json.key("peers")
            json.array { json in
                for (loop, report) in reports.enumerated() {
                    for peer in report.peers.sorted(by: { $0.name < $1.name }) {
                        json.object { json in
                            json.key("name")
                            json.string(peer.name)
                            json.key("loop")
                            json.number(loop)
                            json.key("paths")
                            json.array { json in
                                for path in peer.paths {
                                    path.write(carrying: peer.traffic[path.path] ?? PathTraffic(), into: &json)
                                }
                            }
                        }
                    }
                }
            }
            json.key("held")
            json.array { json in
                for (loop, report) in reports.enumerated() {
                    for held in report.held { Self.write(held, loop, into: &json) }
                }
            }
            json.key("gateways")
            json.array { json in
                for (loop, report) in reports.enumerated() {
                    for gateway in report.gateways { Self.write(gateway, loop, into: &json) }
                }
            }
        }
    }

    /// A connection that a peer holds to this node.
    private static func write(_ held: HeldConnections.Report, _ loop: Int, into json: inout JSONWriter) {
        json.object { json in
            json.key("peer")
            json.string(held.identity.description)
            json.key("from")
            json.string(held.address)
            let state = held.isReady ? "up" : "leaving"
            writeConnection(state, held.streams, held.roundTripTime, held.age, loop, into: &json)
        }
    }

    /// A gateway that this node holds a connection to.
    private static func write(_ gateway: GatewayDialer.Report, _ loop: Int, into json: inout JSONWriter) {
        json.object { json in
            json.key("gateway")
            json.string(gateway.gateway)
            if let peer = gateway.peer {
                json.key("peer")
                json.string(peer.description)
            }
            let state = gateway.isHeld ? "up" : "waiting"
            writeConnection(state, gateway.streams, gateway.roundTripTime, gateway.age, loop, into: &json)
            if let failure = gateway.failure {
                json.key("failure")
                json.string(failure)
            }
        }
    }

    /// What both ends of a reverse connection say of it.
    private static func writeConnection(
        _ state: String,
        _ streams: Int,
        _ roundTripTime: Duration?,
        _ age: Duration?,
        _ loop: Int,
        into json: inout JSONWriter
    ) {
        json.key("loop")
        json.number(loop)
        json.key("state")
        json.string(state)
        json.key("streams")
        json.number(streams)
        if let roundTripTime {
            json.key("roundTripTime")
            json.seconds(nanoseconds: roundTripTime.nanoseconds)
        }
        if let age {
            json.key("age")
            json.seconds(nanoseconds: age.nanoseconds)
        }
    }

    private func certificatesPage() async -> OperationResponse {
        guard let snapshot = await snapshot() else { return unavailable }
        let credential = snapshot.credential
        func write(_ certificate: Certificate, into json: inout JSONWriter) {
            json.object { json in
                json.key("subject")
                json.string(certificate.subject)
                json.key("issuer")
                json.string(certificate.issuer)
                json.key("serial")
                json.string(certificate.serialNumber)
                json.key("notBefore")
                json.string(describe(time: certificate.notBefore))
                json.key("notAfter")
                json.string(describe(time: certificate.notAfter))
                json.key("remaining")
                json.number(certificate.notAfter.subtractingSaturating(WallClock.system.seconds))
            }
        }
        func write(_ bundle: TrustBundle, of file: TrustBundleFile?, into json: inout JSONWriter) {
            json.object { json in
                json.key("domain")
                json.string("\(bundle.trustDomain)")
                if let sequence = file?.sequence {
                    json.key("sequence")
                    json.number(Int(clamping: sequence))
                }
                if let hint = file?.refreshHint {
                    json.key("refreshHint")
                    json.number(Int(clamping: hint))
                }
                json.key("roots")
                json.array { json in
                    for certificate in bundle.roots { write(certificate, into: &json) }
                }
            }
        }
        return Self.page { json in
            json.key("identity")
            json.string(credential.id.description)
            json.key("chain")
            json.array { json in
                for certificate in credential.chain { write(certificate, into: &json) }
            }
            json.key("trust")
            json.array { json in
                write(credential.bundle, of: nil, into: &json)
                for file in snapshot.foreign { write(file.bundle, of: file, into: &json) }
                let known = Set(snapshot.foreign.map(\.bundle.trustDomain))
                for bundle in snapshot.identity.federated where !known.contains(bundle.trustDomain) {
                    write(bundle, of: nil, into: &json)
                }
            }
        }
    }

    private func directoryPage() -> OperationResponse {
        let (settings, directory, status) = state.withLock {
            ($0.configuration.directory, $0.directory, $0.directoryStatus)
        }
        var json = JSONWriter()
        status.write(directory, settings, into: &json)
        json.endLine()
        return OperationResponse(type: Self.json, body: json.take())
    }

    // MARK: Orders

    private func orderLogLevel(_ request: OperationRequest) -> OperationResponse {
        let known = Logger.Level.allCases.map(\.rawValue).joined(separator: ", ")
        guard let level = request.query["level"].flatMap(Logger.Level.init(rawValue:)) else {
            return OperationResponse(400, "write /loglevel?level=LEVEL with one of \(known)")
        }
        guard let setLogLevel = control.setLogLevel else {
            return OperationResponse(404, "this process has a fixed log level")
        }
        setLogLevel(level)
        logger.notice("the log level was changed", metadata: ["to": "\(level)"])
        return OperationResponse(200, "the log level is \(level)")
    }

    private func orderDrain(_ request: OperationRequest) -> OperationResponse {
        var deadline: Duration?
        if let text = request.query["within"] {
            guard let time = try? Duration(parsing: text) else {
                return OperationResponse(400, "'within' is not a length of time like 30s")
            }
            deadline = time
        }
        logger.notice("asked to drain", metadata: deadline.map { ["within": "\($0)"] })
        if let drain = control.drain {
            drain(deadline)
        } else {
            Task { await drain(deadline: deadline) }
        }
        return OperationResponse(202, "draining")
    }
}
