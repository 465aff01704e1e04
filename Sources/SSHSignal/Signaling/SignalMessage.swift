/// A message of the signaling protocol. On the wire: a JSON object whose `type` names the case, with the fields of its payload beside it.
/// Fields and types that are not known are ignored, so that either side can be newer.
public enum SignalMessage: Hashable, Sendable {
    /// The first message of each side.
    case hello(Hello)
    /// Operator: be this identity, and run a node. The device answers `csr`.
    case enroll(Enroll)
    /// Operator: renew the certificate you have. The device answers `csr`.
    case renew(Renew)
    /// Device: sign this.
    case csr(SigningRequest)
    /// Operator: the signed certificate. The device answers `ack`.
    case certificate(IssuedCertificate)
    /// Device: credential stored, node running.
    case ack(Acknowledgement)
    /// Operator: where can you be reached? Device: there.
    case endpoints(Endpoints)
    /// Operator: these certificates are revoked. Device: I know.
    case revocations(Revocations)
    /// Either: are you there? Answered by the same nonce and the answerer's clock.
    case probe(Probe)
    /// Either: nothing more to say.
    case bye(Bye)
    /// Either: it failed. Nothing follows.
    case error(Failure)
    /// A type that this version does not know. Never sent.
    case unknown(type: String)

    public struct Hello: Hashable, Sendable, Codable {
        /// The newest protocol version the sender speaks.
        public var version: Int
        /// The oldest one.
        public var minimumVersion: Int
        /// Name and version of the program, for people.
        public var software: String
        /// Milliseconds since 1970 by the sender's clock, when it sent this.
        public var clock: Int64
        /// Words for what the sender can do beside the mandatory part: `enroll`, `renew`, `endpoints`, `probe`, `revocations`.
        public var capabilities: [String]

        public init(version: Int, minimumVersion: Int, software: String, clock: Int64, capabilities: [String]) {
            self.version = version
            self.minimumVersion = minimumVersion
            self.software = software
            self.clock = clock
            self.capabilities = capabilities
        }
    }

    public struct Enroll: Hashable, Sendable, Codable {
        /// The SPIFFE ID to ask for in the signing request.
        public var id: String
        public var node: NodeRequest
        /// What is to start the node again: a ``ServiceKind``, `auto` for the best there is; nil leaves what is there.
        public var service: String?

        public init(id: String, node: NodeRequest, service: String? = nil) {
            self.id = id
            self.node = node
            self.service = service
        }
    }

    /// The node that the device is to run.
    public struct NodeRequest: Hashable, Sendable, Codable {
        /// Numeric address the HBONE listener binds.
        public var bind: String
        /// 0 lets the device's system choose.
        public var port: UInt16
        /// Ports on the device itself that members of the same namespace may reach.
        public var allowPorts: [UInt16]
        /// `host:port` of who renews certificates over the mesh; absent: nobody does.
        public var renewFrom: String?

        public init(
            bind: String = "0.0.0.0",
            port: UInt16 = 15008,
            allowPorts: [UInt16] = [],
            renewFrom: String? = nil
        ) {
            self.renewFrom = renewFrom
            self.bind = bind
            self.port = port
            self.allowPorts = allowPorts
        }
    }

    public struct Renew: Hashable, Sendable, Codable {
        public init() {}
    }

    public struct SigningRequest: Hashable, Sendable, Codable {
        /// The SPIFFE ID in the request.
        public var id: String
        /// PKCS#10, PEM.
        public var csr: String

        public init(id: String, csr: String) {
            self.id = id
            self.csr = csr
        }
    }

    public struct IssuedCertificate: Hashable, Sendable, Codable {
        /// PEM, leaf first.
        public var chain: String
        /// PEM, one or more roots to trust.
        public var roots: String
        /// Seconds since 1970.
        public var notBefore: Int64
        public var notAfter: Int64
        /// PEM, the revocation lists of those roots; absent: those that the device has stay.
        public var revocations: String?

        public init(chain: String, roots: String, notBefore: Int64, notAfter: Int64, revocations: String? = nil) {
            self.revocations = revocations
            self.chain = chain
            self.roots = roots
            self.notBefore = notBefore
            self.notAfter = notAfter
        }
    }

    public struct Acknowledgement: Hashable, Sendable, Codable {
        public var id: String
        /// What the HBONE listener is bound to, `address:port`.
        public var listener: String
        /// Where it can be reached, best first: numeric `address:port`.
        public var hbone: [String]
        /// `started`, `restarted` or `running` (untouched).
        public var node: String
        /// What was there already: `configuration`, `node`.
        public var unchanged: [String]
        /// Answer to a request for one.
        public var service: Service?
        /// For the user.
        public var warnings: [String]?

        public init(
            id: String,
            listener: String,
            hbone: [String],
            node: String,
            unchanged: [String],
            service: Service? = nil,
            warnings: [String]? = nil
        ) {
            self.service = service
            self.warnings = warnings
            self.id = id
            self.listener = listener
            self.hbone = hbone
            self.node = node
            self.unchanged = unchanged
        }
    }

    /// What starts the node again after a crash or a reboot.
    public struct Service: Hashable, Sendable, Codable {
        /// A ``ServiceKind``.
        public var kind: String
        /// Where it is defined; for people.
        public var place: String?
        /// `installed`, `unchanged` or `none`.
        public var change: String

        public init(kind: String, place: String?, change: String) {
            self.kind = kind
            self.place = place
            self.change = change
        }
    }

    public struct Endpoints: Hashable, Sendable, Codable {
        /// Absent in the question.
        public var hbone: [String]?

        public init(hbone: [String]? = nil) { self.hbone = hbone }
    }

    public struct Revocations: Hashable, Sendable, Codable {
        /// PEM, one or more lists. Absent in the answer.
        public var lists: String?
        /// In the answer: whether they were new to the device.
        public var changed: Bool?

        public init(lists: String? = nil, changed: Bool? = nil) {
            self.lists = lists
            self.changed = changed
        }
    }

    public struct Probe: Hashable, Sendable, Codable {
        public var nonce: String
        /// Milliseconds since 1970 by the sender's clock.
        public var clock: Int64

        public init(nonce: String, clock: Int64) {
            self.nonce = nonce
            self.clock = clock
        }
    }

    public struct Bye: Hashable, Sendable, Codable {
        public init() {}
    }

    public struct Failure: Hashable, Sendable, Codable {
        /// A ``SignalError/Code``.
        public var code: String
        /// For people.
        public var message: String

        public init(code: String, message: String) {
            self.code = code
            self.message = message
        }
    }

    /// The `type` on the wire.
    public var type: String {
        switch self {
        case .hello: "hello"
        case .enroll: "enroll"
        case .renew: "renew"
        case .csr: "csr"
        case .certificate: "certificate"
        case .ack: "ack"
        case .endpoints: "endpoints"
        case .revocations: "revocations"
        case .probe: "probe"
        case .bye: "bye"
        case .error: "error"
        case .unknown(let type): type
        }
    }
}
