import MeshIdentity
package import MeshPolicy
package import Platform
package import Streams

/// What a device's node lets the operator reach, as it was enrolled. It holds where no node decides: on path `ssh`,
/// whose streams the device's sshd opens with the rights of the login. A fallback is no way around policy.
package struct EnrolledPolicy: Sendable {
    private let planner: StreamPlanner
    private let own: SPIFFEID
    private let device: Device

    /// - Returns: nil where nothing was recorded of it: without a node, and by earlier releases.
    package init?(of device: Device) {
        guard let allowed = device.allowed else { return nil }
        self.device = device
        own = device.identity
        // The rules of the `node.yaml` that enrolment writes.
        let ports = allowed.compactMap { UInt16($0) }
        let rule = AuthorizationPolicy.Rule(to: [.init(ports: ports.map { $0...$0 })])
        let endpoints = allowed.compactMap { try? EndpointMatch(parsing: $0) }.filter { $0.port != nil }
        let policies = ports.isEmpty ? [] : [AuthorizationPolicy(name: "enrolled", rules: [rule])]
        planner = StreamPlanner(
            MeshRules(
                source: "the record of \(device.name)",
                policies: policies,
                endpoints: endpoints.map { Endpoint(match: $0, way: .direct(tls: nil)) },
                unmatched: .deny
            ),
            own: device.identity,
            ownAddresses: Set(device.hbone.compactMap(\.address))
        )
    }

    /// Why a stream to `destination` must not go over `path`; nil if it may, and where the device's node decides.
    package func refusal(of destination: Authority, over path: PathID) -> StreamError? {
        guard path.transport == .ssh else { return nil }
        let request = StreamRequest(
            // A member of its namespace, as the operator is.
            source: .peer(own),
            sourceIP: .loopbackIPv4,
            transport: .ssh,
            destination: destination,
            now: WallClock.system.seconds
        )
        guard !planner.plan(request).isAllowed else { return nil }
        // What it allows, and how to change that, is said beside (``Device/remedy(forDenied:)``).
        return StreamError(.denied, "refused by the policy of \(device.name), which holds on path ssh too")
    }
}
