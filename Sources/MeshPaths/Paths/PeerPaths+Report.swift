import MeshPolicy
import Platform
import Streams

extension PeerPaths {
    /// Every way to the peer, the preferred one first.
    package var report: [PathReport] {
        candidates.map { candidate in
            let state: PathReport.State =
                switch candidate.state {
                case _ where candidate.path == pathInUse: .inUse
                case .idle: .idle
                case .trying: .trying
                case .up: .up
                case .waiting: .waiting
                }
            let source = source(of: candidate.path)
            let use = state == .inUse ? use : nil
            return PathReport(
                path: candidate.path,
                state: state,
                failure: candidate.lastError?.description,
                peer: source?.peer,
                roundTripTime: source?.roundTripTime,
                streams: source?.streamCount ?? 0,
                isMultipath: [.up, .inUse].contains(state) && candidate.path.isOverTCP ? isMultipath : nil,
                age: use.map { .nanoseconds(Int64(clamping: loop.now &- $0.since)) },
                why: use?.reason,
                servers: source?.servers ?? [],
                addresses: addressReports(of: candidate.path)
            )
        }
    }

    private func addressReports(of path: PathID) -> [AddressReport] {
        guard path.transport == .h2, let addresses else { return [] }
        return addresses.dialled.compactMap { address in
            addresses.entries.first { $0.address == address }.map { entry in
                AddressReport(
                    address: address,
                    isTold: entry.isTold,
                    connectTime: entry.connectTime,
                    handshake: entry.handshake,
                    failure: entry.failure
                )
            }
        }
    }
}

extension PathID {
    /// Its connection is this side's own to dial.
    fileprivate var isOverTCP: Bool { transport == .h2 || transport == .h2ViaGateway }
}
