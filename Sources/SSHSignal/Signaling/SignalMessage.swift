/// A message of the signaling protocol. On the wire: a JSON object whose `type` names the case, with the fields of its
/// payload beside it. Fields and types that are not known are ignored, so that either side can be newer.
package enum SignalMessage: Hashable, Sendable {
    /// The first message of each side.
    case hello(Hello)
    /// Operator: be this identity, and run a node. The device answers `csr`.
    case enroll(Enroll)
    /// Operator: renew the certificate you have. The device answers `csr`.
    case renew(Renew)
    /// Operator: let others reach this, and that no more. The device answers `ack`.
    case access(Access)
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
    /// Operator: this is what I can do, and you? Device: that, and there I am reached.
    case offer(Offer)
    /// Operator: what became of your offer. There is no answer.
    case outcome(Outcome)
    /// Either: are you there? Answered by the same nonce and the answerer's clock.
    case probe(Probe)
    /// Either: nothing more to say.
    case bye(Bye)
    /// Either: it failed. Nothing follows.
    case error(Failure)
    /// A type that this version does not know. Never sent.
    case unknown(type: String)

    package struct Hello: Hashable, Sendable, Codable {
        /// The newest protocol version the sender speaks.
        package var version: Int
        /// The oldest one.
        package var minimumVersion: Int
        /// Name and version of the program, for people.
        package var software: String
        /// Milliseconds since 1970 by the sender's clock, when it sent this.
        package var clock: Int64
        /// Words for what the sender can do beside the mandatory part: `enroll`, `renew`, `endpoints`, `probe`,
        /// `revocations`, `access`, `offer`.
        package var capabilities: [String]

        package init(version: Int, minimumVersion: Int, software: String, clock: Int64, capabilities: [String]) {
            self.version = version
            self.minimumVersion = minimumVersion
            self.software = software
            self.clock = clock
            self.capabilities = capabilities
        }
    }

    package struct Enroll: Hashable, Sendable, Codable {
        /// The SPIFFE ID to ask for in the signing request.
        package var id: String
        package var node: NodeRequest
        /// What is to start the node again: a ``ServiceKind``, `auto` for the best there is; nil leaves what is there.
        package var service: String?

        package init(id: String, node: NodeRequest, service: String? = nil) {
            self.id = id
            self.node = node
            self.service = service
        }
    }

    /// The node that the device is to run.
    package struct NodeRequest: Hashable, Sendable, Codable {
        /// Numeric address the HBONE listener binds.
        package var bind: String
        /// 0 lets the device's system choose.
        package var port: UInt16
        /// Ports on the device itself that members of the same namespace may reach.
        package var allowPorts: [UInt16]
        /// `host:port` of who renews certificates over the mesh; absent: nobody does.
        package var renewFrom: String?
        /// `host:port` of what members of the same namespace may reach through the device.
        package var allowHosts: [String]?
        /// Ports and `host:port` that they may reach no more.
        package var deny: [String]?
        /// What the operator has not named, and what stays as the device has it: `bind`, `port`, `renewFrom`,
        /// `advertise`, `service` (that there is none), `allow` (then what is allowed here is added). What the device
        /// has not, is as it stands here. Absent: nothing.
        package var keeps: [String]?
        /// Who renews certificates, where ``renewFrom`` says nobody: taken by a device that can reach it. `*` for the
        /// host is whoever is logged in to the device.
        package var offersRenewal: String?
        /// Gateways that the device is to be reached through: `host:port`, or `host:port=SPIFFE-ID` for one that is not
        /// of the device's namespace. Absent: those that it has; empty: none.
        package var reverse: [String]?
        /// `host:port` where it is reached beside its own addresses: what forwards ports to it. Absent: nowhere.
        package var advertise: [String]?

        package init(
            bind: String = "0.0.0.0",
            port: UInt16 = 15008,
            allowPorts: [UInt16] = [],
            renewFrom: String? = nil,
            allowHosts: [String]? = nil,
            deny: [String]? = nil,
            keeps: [String]? = nil,
            offersRenewal: String? = nil,
            reverse: [String]? = nil,
            advertise: [String]? = nil
        ) {
            self.reverse = reverse
            self.advertise = advertise
            self.offersRenewal = offersRenewal
            self.allowHosts = allowHosts
            self.deny = deny
            self.keeps = keeps
            self.renewFrom = renewFrom
            self.bind = bind
            self.port = port
            self.allowPorts = allowPorts
        }
    }

    package struct Renew: Hashable, Sendable, Codable {
        package init() {}
    }

    /// A change of what members of the device's namespace may reach; all else, the certificate too, stays.
    package struct Access: Hashable, Sendable, Codable {
        /// The SPIFFE ID that the device has: nothing is changed where it has another.
        package var id: String
        /// Ports on the device itself, and `host:port` of what is reached through it.
        package var allow: [String]
        /// The same that they may reach no more.
        package var deny: [String]

        package init(id: String, allow: [String] = [], deny: [String] = []) {
            self.id = id
            self.allow = allow
            self.deny = deny
        }
    }

    package struct SigningRequest: Hashable, Sendable, Codable {
        /// The SPIFFE ID in the request.
        package var id: String
        /// PKCS#10, PEM.
        package var csr: String

        package init(id: String, csr: String) {
            self.id = id
            self.csr = csr
        }
    }

    package struct IssuedCertificate: Hashable, Sendable, Codable {
        /// PEM, leaf first.
        package var chain: String
        /// PEM, one or more roots to trust.
        package var roots: String
        /// Seconds since 1970.
        package var notBefore: Int64
        package var notAfter: Int64
        /// PEM, the revocation lists of those roots; absent: those that the device has stay.
        package var revocations: String?
        /// PEM: for each root that is new, a certificate of its key, signed by a root before it; absent: none is new.
        package var vouchers: String?

        package init(
            chain: String,
            roots: String,
            notBefore: Int64,
            notAfter: Int64,
            revocations: String? = nil,
            vouchers: String? = nil
        ) {
            self.revocations = revocations
            self.vouchers = vouchers
            self.chain = chain
            self.roots = roots
            self.notBefore = notBefore
            self.notAfter = notAfter
        }
    }

    package struct Acknowledgement: Hashable, Sendable, Codable {
        package var id: String
        /// What the HBONE listener is bound to, `address:port`.
        package var listener: String
        /// Where it can be reached, best first: numeric `address:port`.
        package var hbone: [String]
        /// `started`, `restarted` or `running` (untouched).
        package var node: String
        /// What was there already: `configuration`, `node`.
        package var unchanged: [String]
        /// Answer to a request for one.
        package var service: Service?
        /// For the user.
        package var warnings: [String]?
        /// Ports and `host:port` that members of its namespace may reach; absent: nothing was asked for, or the agent
        /// is older.
        package var allowed: [String]?
        /// What they could reach before; absent: no change was asked for, or the agent is older.
        package var allowedBefore: [String]?
        /// `host:port` of who renews its certificate over the mesh; absent: nobody.
        package var renewFrom: String?
        /// Gateways through which it is reached, as ``NodeRequest/reverse``; absent: as ``allowed``.
        package var gateways: [String]?

        package init(
            id: String,
            listener: String,
            hbone: [String],
            node: String,
            unchanged: [String],
            service: Service? = nil,
            warnings: [String]? = nil,
            allowed: [String]? = nil,
            renewFrom: String? = nil,
            gateways: [String]? = nil
        ) {
            self.gateways = gateways
            self.renewFrom = renewFrom
            self.allowed = allowed
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
    package struct Service: Hashable, Sendable, Codable {
        /// A ``ServiceKind``.
        package var kind: String
        /// Where it is defined; for people.
        package var place: String?
        /// `installed`, `unchanged` or `none`.
        package var change: String

        package init(kind: String, place: String?, change: String) {
            self.kind = kind
            self.place = place
            self.change = change
        }
    }

    package struct Endpoints: Hashable, Sendable, Codable {
        /// Absent in the question.
        package var hbone: [String]?

        package init(hbone: [String]? = nil) { self.hbone = hbone }
    }

    package struct Revocations: Hashable, Sendable, Codable {
        /// PEM, one or more lists. Absent in the answer.
        package var lists: String?
        /// In the answer: whether they were new to the device.
        package var changed: Bool?

        package init(lists: String? = nil, changed: Bool? = nil) {
            self.lists = lists
            self.changed = changed
        }
    }

    package struct Probe: Hashable, Sendable, Codable {
        package var nonce: String
        /// Milliseconds since 1970 by the sender's clock.
        package var clock: Int64

        package init(nonce: String, clock: Int64) {
            self.nonce = nonce
            self.clock = clock
        }
    }

    package struct Bye: Hashable, Sendable, Codable {
        package init() {}
    }

    package struct Failure: Hashable, Sendable, Codable {
        /// A ``SignalError/Code``.
        package var code: String
        /// For people.
        package var message: String

        package init(code: String, message: String) {
            self.code = code
            self.message = message
        }
    }

    /// The `type` on the wire.
    package var type: String {
        switch self {
        case .hello: "hello"
        case .enroll: "enroll"
        case .renew: "renew"
        case .access: "access"
        case .csr: "csr"
        case .certificate: "certificate"
        case .ack: "ack"
        case .endpoints: "endpoints"
        case .revocations: "revocations"
        case .offer: "offer"
        case .outcome: "outcome"
        case .probe: "probe"
        case .bye: "bye"
        case .error: "error"
        case .unknown(let type): type
        }
    }
}
