extension SignalMessage {
    /// What a side can do, and where it can be reached. The operator sends one, the device answers with its own.
    ///
    /// Every field may be absent, and then says nothing: what a side does not know it leaves out.
    package struct Offer: Hashable, Sendable, Codable {
        /// Of what the sender says here; another one whenever it says something else. Absent: it counts nothing, and
        /// says all of it each time.
        package var generation: Int64?
        /// The generation of the other side's offer that the sender has: where that holds still, the answer need not
        /// repeat it.
        package var known: Int64?
        /// All else is as in ``known`` of the question.
        package var unchanged: Bool?
        /// SPIFFE ID that the sender's certificate names.
        package var id: String?
        /// What its HBONE listener speaks.
        package var alpn: [String]?
        /// Whether it takes part in connections that are made the other way round (`h2r`).
        package var reverse: Bool?
        /// The transports that its configuration allows.
        package var transports: [String]?
        /// Where its HBONE listener is reached, best first.
        package var candidates: [Candidate]?
        /// Gateways that it can be reached through.
        package var gateways: [Gateway]?

        package init(
            generation: Int64? = nil,
            known: Int64? = nil,
            unchanged: Bool? = nil,
            id: String? = nil,
            alpn: [String]? = nil,
            reverse: Bool? = nil,
            transports: [String]? = nil,
            candidates: [Candidate]? = nil,
            gateways: [Gateway]? = nil
        ) {
            self.generation = generation
            self.known = known
            self.unchanged = unchanged
            self.id = id
            self.alpn = alpn
            self.reverse = reverse
            self.transports = transports
            self.candidates = candidates
            self.gateways = gateways
        }
    }

    package struct Candidate: Hashable, Sendable, Codable {
        /// `host:port`; IPv6 in brackets.
        package var address: String
        /// How the sender knows: `connection` (the other side has reached it there), `interface`, `configured` (a port
        /// forward that somebody has told it of). Other words are as good.
        package var source: String?

        package init(address: String, source: String? = nil) {
            self.address = address
            self.source = source
        }
    }

    package struct Gateway: Hashable, Sendable, Codable {
        package var address: String
        /// Its SPIFFE ID.
        package var id: String?

        package init(address: String, id: String? = nil) {
            self.address = address
            self.id = id
        }
    }

    /// What became of an offer: what was tried, measured and chosen. The operator's last word; there is no answer.
    package struct Outcome: Hashable, Sendable, Codable {
        /// Of the device's offer.
        package var generation: Int64?
        package var tried: [Trial]
        /// The transport that carries new streams; absent: none does.
        package var chosen: String?
        /// Why, for people.
        package var reason: String

        package init(generation: Int64?, tried: [Trial], chosen: String?, reason: String) {
            self.generation = generation
            self.tried = tried
            self.chosen = chosen
            self.reason = reason
        }
    }

    /// One address that was dialled. Of one that has not proven to be the device nothing is told but that: whoever
    /// names addresses must not learn what listens at them in the operator's network.
    package struct Trial: Hashable, Sendable, Codable {
        package var transport: String
        package var address: String
        /// Whether the device has proven its identity there.
        package var answered: Bool
        /// Microseconds: of TCP's and of TLS's handshake with the first answer over HTTP/2.
        package var handshake: Int64?
        /// Microseconds: the shortest round trip seen.
        package var roundTrip: Int64?

        package init(
            transport: String,
            address: String,
            answered: Bool,
            handshake: Int64? = nil,
            roundTrip: Int64? = nil
        ) {
            self.transport = transport
            self.address = address
            self.answered = answered
            self.handshake = handshake
            self.roundTrip = roundTrip
        }
    }
}
