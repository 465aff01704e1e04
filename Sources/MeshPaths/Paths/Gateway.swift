package import H2Transport
package import MeshIdentity
package import Platform

/// A gateway on the way to a peer: it sees where a stream goes, and ciphertext.
package struct Gateway: Hashable, Sendable {
    /// Where its HBONE server listens.
    package var address: Authority
    /// Who it must be.
    package var expectation: PeerExpectation

    package init(_ address: Authority, expecting expectation: PeerExpectation) {
        self.address = address
        self.expectation = expectation
    }
}

/// What a node says about itself on the two levels of a path through gateways.
package struct GatewayMarks: Hashable, Sendable {
    /// To gateways.
    package var outer = HeaderFields()
    /// To workloads behind them.
    package var inner = HeaderFields()
    /// `forwarded` of what begins here: by it a circle of gateways is noticed.
    package var trail = "for=unknown"

    package init() {}
}
