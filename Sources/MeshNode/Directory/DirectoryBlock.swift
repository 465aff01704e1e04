import MeshDirectory
import MeshIdentity
import MeshPolicy
import Platform

/// What a segment of a directory was decoded to. An object: of the next directory it is a part as it is, and nothing of
/// it is made again.
final class DirectoryBlock: Sendable {
    /// What it was decoded to, before its lines are forgotten.
    struct Values {
        var endpoints: [NodeConfiguration.Endpoint] = []
        var devices: [NodeConfiguration.Endpoint] = []
        var policies: [AuthorizationPolicy] = []
        var bundles: [TrustBundle] = []
        /// In PEM form.
        var revocations: [UInt8]?
        /// Of lists that may go on in other segments: how many elements there are here.
        var elements: [String: Int] = [:]
    }

    /// nil: it was decoded from the whole.
    let segment: DirectoryOutline.Segment?
    let writtenEndpoints: [NodeConfiguration.Endpoint]
    /// What routing knows of ``writtenEndpoints``; nil: there are none.
    let endpoints: EndpointBlock?
    /// What routing knows of devices, which is all that there is to know; nil: there are none.
    let devices: EndpointBlock?
    let policies: [AuthorizationPolicy]
    let bundles: [TrustBundle]
    let revocations: [UInt8]?
    let special: [NodeConfiguration.Endpoint]
    let elements: [String: Int]

    init(_ values: Values, of segment: DirectoryOutline.Segment? = nil) {
        /// Errors name the line; what holds is said to be the directory's.
        func held(_ endpoints: [NodeConfiguration.Endpoint]) -> [NodeConfiguration.Endpoint] {
            endpoints.map { endpoint in
                var endpoint = endpoint
                (endpoint.source, endpoint.position) = (Self.source, nil)
                return endpoint
            }
        }
        func block(_ endpoints: [NodeConfiguration.Endpoint]) -> EndpointBlock? {
            endpoints.isEmpty ? nil : EndpointBlock(endpoints.map(\.rule))
        }
        self.segment = segment
        writtenEndpoints = held(values.endpoints)
        endpoints = block(writtenEndpoints)
        devices = block(held(values.devices))
        special = writtenEndpoints.filter { $0.ssh != nil || $0.tunnel != nil || $0.tls != nil || $0.reverse }
        policies = values.policies.map { policy in
            var policy = policy
            policy.name = "\(Self.source)/\(policy.name)"
            policy.position = nil
            for index in policy.rules.indices { policy.rules[index].position = nil }
            return policy
        }
        bundles = values.bundles
        revocations = values.revocations
        elements = values.elements
    }

    /// What endpoints say that they come from.
    private static let source = "directory"

    var writtenDevices: [NodeConfiguration.Endpoint] { devices?.endpoints.compactMap(Self.device) ?? [] }

    /// As it was decoded: a device has nothing but what routing knows of it.
    static func device(_ rule: MeshPolicy.Endpoint) -> NodeConfiguration.Endpoint? {
        guard case .peer(let peer) = rule.way else { return nil }
        var endpoint = NodeConfiguration.Endpoint(
            match: rule.match,
            address: rule.address,
            hbone: peer.servers,
            identities: peer.identities
        )
        (endpoint.keepsPort, endpoint.source) = (rule.keepsPort, rule.source)
        return endpoint
    }
}
