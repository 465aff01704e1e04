package import Platform

/// What a peer has said of itself in an offer, checked: counts, lengths, spelling. Nothing of it is believed: whether
/// an address is dialled is for the dialler to say, and who answers there for the handshake.
package struct PeerOffer: Hashable, Sendable {
    package var generation: Int64?
    /// As it was said; who it is stands in its certificate.
    package var id: String?
    package var alpn: [String] = []
    package var takesReverse = false
    package var transports: [String] = []
    /// Best first, each once.
    package var candidates: [Authority] = []
    package var gateways: [Gateway] = []
    /// What its HBONE server listens at on its own machine, where it has named one of that machine's addresses.
    package var listenerPort: UInt16?

    package struct Gateway: Hashable, Sendable, CustomStringConvertible {
        package var address: Authority
        package var id: String?

        package init(address: Authority, id: String?) {
            self.address = address
            self.id = id
        }

        /// `host:port`, or `host:port=SPIFFE-ID`.
        package var description: String { "\(address)\(id.map { "=\($0)" } ?? "")" }

        /// ``description``; nil for anything else.
        package init?(recorded text: String) {
            let parts = text.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
            guard text.utf8.count <= 260 + 1 + PeerOffer.longestID, let address = try? Authority(parsing: parts[0])
            else {
                return nil
            }
            self.address = address
            id = parts.count > 1 ? parts[1] : nil
            if let id, Printable.clean(id, limit: PeerOffer.longestID) != id { return nil }
        }
    }

    /// More than any machine needs, and than anybody would try.
    package static let mostCandidates = 32
    static let mostGateways = 8
    static let mostWords = 16
    /// Of a SPIFFE ID (its specification, §2.3).
    static let longestID = 2048

    package init() {}

    /// - Parameters:
    ///   - offer: What has come.
    ///   - before: What this side has of an earlier one, and has named in its own.
    /// - Throws: ``SignalError/Code/malformed``: none of it is taken then.
    package init(_ offer: SignalMessage.Offer, after before: PeerOffer?) throws(SignalError) {
        if offer.unchanged == true {
            guard let before, before.generation != nil, offer.generation == before.generation else {
                throw SignalError(.malformed, "the peer says that nothing has changed, of what it has not told")
            }
            self = before
            return
        }
        generation = offer.generation
        id = try offer.id.map { text throws(SignalError) in try Self.text(text, Self.longestID) }
        takesReverse = offer.reverse ?? false
        alpn = try Self.words(offer.alpn ?? [], "protocols")
        transports = try Self.words(offer.transports ?? [], "transports")
        let told = offer.candidates ?? []
        try Self.check(told.count, atMost: Self.mostCandidates, "addresses")
        for candidate in told {
            let address = try Self.authority(candidate.address)
            if !candidates.contains(address) { candidates.append(address) }
            // What forwards a port to it may have another one.
            if listenerPort == nil, candidate.source == "interface" { listenerPort = address.port }
        }
        let gateways = offer.gateways ?? []
        try Self.check(gateways.count, atMost: Self.mostGateways, "gateways")
        for gateway in gateways {
            self.gateways.append(
                Gateway(
                    address: try Self.authority(gateway.address),
                    id: try gateway.id.map { text throws(SignalError) in try Self.text(text, Self.longestID) }
                )
            )
        }
    }

    private static func check(_ count: Int, atMost most: Int, _ what: String) throws(SignalError) {
        guard count <= most else {
            throw SignalError(.malformed, "the peer names \(count) \(what); \(most) are allowed")
        }
    }

    private static func words(_ words: [String], _ what: String) throws(SignalError) -> [String] {
        try check(words.count, atMost: mostWords, what)
        var result: [String] = []
        for word in words { result.append(try text(word, 40)) }
        return result
    }

    private static func text(_ text: String, _ limit: Int) throws(SignalError) -> String {
        guard text.utf8.count <= limit, Printable.clean(text, limit: limit) == text else {
            throw SignalError(
                .malformed,
                "the peer says '\(Printable.clean(text, limit: 80))', which is too long or cannot be printed"
            )
        }
        return text
    }

    private static func authority(_ text: String) throws(SignalError) -> Authority {
        do throws(AddressError) {
            // A name has 253 characters at most, a port five.
            guard text.utf8.count <= 260 else { throw AddressError("it is too long") }
            return try Authority(parsing: text)
        } catch {
            throw SignalError(.malformed, "the peer names '\(Printable.clean(text, limit: 80))': \(error.message)")
        }
    }
}
